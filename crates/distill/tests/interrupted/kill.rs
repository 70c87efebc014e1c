//! Killed without warning, at any moment.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fd_compute::uniform;

use super::{Folder, Running, STAGES, stage};

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

/// `FD_KILLS` times (5), at moments that `FD_KILL_SEED` determines as far as a clock can.
#[test]
fn killed_at_random_moments() {
    let kills = number("FD_KILLS").unwrap_or(5);
    let seed = number("FD_KILL_SEED").unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    println!("FD_KILLS={kills} FD_KILL_SEED={seed}");
    let often = ["--checkpoint-every", "0.02"];
    let (folder, start) = (Folder::new("kill-whole"), Instant::now());
    folder.finish(&often).assert_ran(STAGES, 0);
    folder.assert_untouched("without a kill");
    let mut whole = start.elapsed();
    let (mut killed, mut in_training) = (0, 0);
    // More than asked for only if no stage was hit.
    while killed < kills || in_training == 0 {
        assert!(killed < kills + 20, "no kill left a checkpoint");
        let folder = Folder::new("kill");
        while killed < kills || in_training == 0 {
            let (mut run, start) = (Running(folder.table(&often).spawn().unwrap()), Instant::now());
            let moment = whole.mul_f64(uniform(&[seed, killed]));
            if run.ends_before(start + moment) {
                // Others use the machine, too: now it may be faster.
                whole = whole.min(start.elapsed());
                break;
            }
            drop(run);
            killed += 1;
            in_training += u64::from(!folder.checkpoints().is_empty());
        }
        let finished = folder.finish(&often);
        assert_eq!(finished.warnings(), Vec::<&str>::new());
        folder.assert_untouched(&format!("after {killed} kills"));
    }
    println!("{killed} kills, {in_training} of them while a stage was trained");
}

/// The moments that chance seldom hits: while a file is written, and between a stage's end and the removal of its checkpoints.
#[test]
fn what_a_kill_leaves_behind_is_removed() {
    let folder = Folder::new("left");
    let (stage_dir, _) = folder.interrupt("TERM", 143, &["--checkpoint-every", "0"]);
    let plant = |path: &str| std::fs::write(folder.0.join("run").join(path), "half").unwrap();
    [".table.md.4000000.tmp", ".table.4000000.tmp.png", ".probe.4000000"].into_iter().for_each(plant);
    let unfinished = stage_dir.file_name().unwrap().to_str().unwrap();
    for name in ["checkpoint-00000003-0123456789abcdef.safetensors", "weights.safetensors", "metrics.csv"] {
        plant(&format!("stages/{unfinished}/.{name}.4000000.tmp"));
    }
    folder.finish(&[]);
    folder.assert_untouched("half-written files of a stage that goes on");
    let finished = stage(&folder.0.join("run"), "pretrain-dino-seed0");
    let finished = finished.file_name().unwrap().to_str().unwrap();
    plant(&format!("stages/{finished}/checkpoint-00000003-0123456789abcdef.safetensors"));
    plant(&format!("stages/{finished}/.checkpoint-00000003-0123456789abcdef.safetensors.4000000.tmp"));
    plant("weights/.dino.safetensors.4000000.tmp");
    folder.finish(&[]).assert_ran(0, STAGES);
    folder.assert_untouched("leftovers of a stage that is done");
}
