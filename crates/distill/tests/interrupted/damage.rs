//! Files that changed or went between two runs.

use std::path::Path;

use super::{Folder, STAGES, flip, stage};

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
}

/// The step in a checkpoint's name.
fn step(path: &Path) -> usize {
    path.file_name().unwrap().to_str().unwrap().split('-').nth(1).unwrap().parse().unwrap()
}

/// The state that a rehearsal shows for the stage under way.
fn under_way(folder: &Folder) -> Option<usize> {
    let rehearsal = folder.finish(&["--dry-run"]).out;
    let line = rehearsal.lines().find(|line| line.contains(" of ") && line.contains("  step "))?;
    line.split("  step ").nth(1)?.split(' ').next()?.parse().ok()
}

#[test]
fn damaged_checkpoints_give_way_to_older_ones_or_to_a_new_start() {
    let every_step = ["--checkpoint-every", "0"];
    for (what, damage, damaged) in [("flipped", flip as fn(&Path), 1), ("cut", cut, 1), ("both", flip, 2)] {
        let folder = Folder::new(&format!("checkpoint-{what}"));
        let (_, checkpoints) = folder.interrupt("INT", 130, &every_step);
        let [older, newest] = &checkpoints[..] else { panic!("two are kept: {checkpoints:?}") };
        assert_eq!((step(older) + 1, under_way(&folder)), (step(newest), Some(step(newest))));
        [newest, older].into_iter().take(damaged).for_each(|path| damage(path));
        let finished = folder.finish(&every_step);
        let warnings = finished.warnings();
        assert_eq!(warnings.len(), if damaged == 1 { 1 } else { 3 }, "{what}: {warnings:?}");
        for (path, warning) in [newest, older].into_iter().take(damaged).zip(&warnings) {
            let path = path.strip_prefix(&folder.0).unwrap().display();
            assert!(warning.contains(&format!("{path}: is damaged: ")) && warning.ends_with("; skipped"), "{what}: {warning}");
        }
        assert!(damaged == 1 || warnings[2].ends_with("no checkpoint is whole, the stage starts anew"), "{warnings:?}");
        folder.assert_untouched(what);
    }
}

#[test]
fn a_second_run_finds_everything_and_repairs_what_is_damaged() {
    let folder = Folder::new("again");
    let first = folder.finish(&[]);
    first.assert_ran(STAGES, 0);
    let run = folder.0.join("run");
    let done = |name: &str| std::fs::metadata(stage(&run, name).join("done.json")).unwrap().modified().unwrap();
    let before = done("pretrain-dino-seed0");
    std::fs::remove_file(run.join("table.md")).unwrap();
    let second = folder.finish(&[]);
    second.assert_ran(0, STAGES);
    assert_eq!(done("pretrain-dino-seed0"), before);
    let table = |out: &str| out.lines().rev().skip(1).map(String::from).collect::<Vec<_>>();
    assert_eq!((table(&second.out), second.err.as_str()), (table(&first.out), ""));
    folder.assert_untouched("a second run");
    let damaged = [
        ("pretrain-dino-seed0", "weights.safetensors", "is damaged"),
        ("fine-tune-200-dino-fd-seed0", "weights.safetensors", "cannot be read: "),
        ("probe-raw-pixels-seed0", "predictions.csv", "is damaged"),
        ("probe-supervised-seed0", "done.json", "is damaged"),
    ];
    for (name, file, why) in damaged {
        let path = stage(&run, name).join(file);
        match why {
            "is damaged" if file == "done.json" => std::fs::write(&path, "{").unwrap(),
            "is damaged" => flip(&path),
            _ => std::fs::remove_file(&path).unwrap(),
        }
    }
    let third = folder.finish(&[]);
    third.assert_ran(damaged.len(), STAGES - damaged.len());
    assert_eq!(third.warnings().len(), damaged.len(), "one each: {}", third.err);
    for (name, file, why) in damaged {
        let path = stage(&run, name).join(file);
        let said = format!("{}: {why}", path.strip_prefix(&folder.0).unwrap().display());
        let about = |line: &&&str| line.contains(&said) && line.ends_with("; the stage runs again");
        assert_eq!(third.warnings().iter().filter(about).count(), 1, "{said}: {}", third.err);
    }
    folder.assert_untouched("repaired");
}
