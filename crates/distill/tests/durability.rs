//! Faults that need another process: a full disk, a holder of the lock that is killed.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fd_distill::lock::RunLock;
use fd_distill::snapshot;
use fd_model::{Checkpoint, Tensor};

/// The folder that the child of a test works in.
const FOLDER: &str = "FD_TEST_DURABILITY_FOLDER";

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("durability-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// Runs one test of this file in a process of its own, after `shell` has prepared it.
fn child(test: &str, folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{shell} exec \"$0\" --exact {test} --nocapture");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap()).env(FOLDER, folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// 400 kB.
fn state(step: u64) -> Checkpoint {
    let tensor = Tensor { shape: vec![100_000], data: vec![step as f32; 100_000] };
    Checkpoint { source: "memory".into(), tensors: [("w".to_string(), tensor)].into(), metadata: Default::default() }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn child_that_saves() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let e = snapshot::save(Path::new(&folder), 3, &state(3)).expect_err("files end before");
    eprintln!("refused: {e}");
}

/// Files cannot grow beyond some 100 kB: the write fails half way, for root too.
#[test]
fn a_write_that_fails_half_way_leaves_the_older_checkpoints() {
    let folder = scratch("half");
    snapshot::save(&folder, 1, &state(1)).unwrap();
    snapshot::save(&folder, 2, &state(2)).unwrap();
    let before = names(&folder);
    let output = child("child_that_saves", &folder, "trap '' XFSZ; ulimit -f 200;").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.contains("/checkpoint-00000003-") && err.contains(": cannot be written: "), "{err}");
    assert_eq!(names(&folder), before, "no temporary file");
    let (step, found) = snapshot::newest(&folder).unwrap().unwrap();
    assert_eq!((step, found.tensors), (2, state(2).tensors));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn child_that_holds_the_lock() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let _lock = RunLock::acquire(Path::new(&folder)).unwrap();
    eprintln!("locked");
    loop {
        std::thread::park();
    }
}

/// Killed with the test, whatever becomes of it.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_lock_of_a_killed_process_is_free() {
    let folder = scratch("lock");
    let mut holder = Holder(child("child_that_holds_the_lock", &folder, "").spawn().unwrap());
    let mut lines = BufReader::new(holder.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("locked")));
    let expected = format!("{}: another process (pid {}) is working on this run directory", folder.display(), holder.0.id());
    assert_eq!(RunLock::acquire(&folder).unwrap_err().to_string(), expected);
    let waiting = std::thread::spawn({
        let folder = folder.clone();
        move || RunLock::wait(&folder).map(drop)
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!waiting.is_finished(), "the process lives");
    drop(holder);
    waiting.join().unwrap().unwrap();
    assert_eq!(names(&folder), ["lock"], "the file may stay");
    RunLock::acquire(&folder).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}
