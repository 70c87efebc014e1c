//! Files that cannot grow: as on a full disk, for root too.

use std::process::{Command, Output};

use super::{Folder, STAGES, stage, text};

/// Runs a command in whose process files end at so many blocks of 512 bytes.
fn limited(command: &Command, blocks: u32) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap()).env_remove("RUST_LOG").output().unwrap()
}

/// It ends as for a mistake, with one line that begins so.
fn refused(output: &Output, path: &str, why: &str) {
    let err = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{err}");
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("error: {path}")) && last.contains(why) && last.contains("File too large"), "{err}");
    assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{err}");
}

#[test]
fn a_checkpoint_that_cannot_be_written() {
    let folder = Folder::new("full-checkpoint");
    let every_step = ["--checkpoint-every", "0"];
    let (stage, before) = folder.interrupt("INT", 130, &every_step);
    let path = format!("{}/checkpoint-", stage.strip_prefix(&folder.0).unwrap().display());
    refused(&limited(&folder.table(&every_step), 60), &path, ": cannot be written: ");
    assert_eq!(folder.checkpoints(), [(stage, before)], "what was there is there");
    let finished = folder.finish(&every_step);
    assert_eq!(finished.warnings(), Vec::<&str>::new());
    folder.assert_untouched("after a full disk");
}

#[test]
fn weights_and_figures_that_cannot_be_written() {
    let folder = Folder::new("full-weights");
    let output = limited(&folder.table(&[]), 60);
    let teacher = stage(&folder.0.join("run"), "pretrain-dino-seed0");
    let path = teacher.join("weights.safetensors");
    refused(&output, &path.strip_prefix(&folder.0).unwrap().display().to_string(), ": cannot be written: ");
    assert!(!path.exists() && !teacher.join("done.json").exists());
    // All stages, but not the large figures.
    refused(&limited(&folder.table(&[]), 300), "run/table.png", ": cannot be written: ");
    folder.finish(&[]).assert_ran(0, STAGES);
    folder.assert_untouched("after a full disk");
}
