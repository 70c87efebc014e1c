//! Signals: training stops after the step in hand with the signal's exit code and one line; a second signal does not wait.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fd_distill::interrupt;

/// Set in the child that a test makes of itself.
const CHILD: &str = "FD_TEST_INTERRUPT_CHILD";
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Running {
    fn send(&self, signal: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", self.0.id())]).status().unwrap();
        assert!(sent.success(), "kill");
    }

    fn code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interrupt-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_signal_ends_training_with_its_exit_code() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = scratch(signal);
        let mut distill = Command::new(env!("CARGO_BIN_EXE_distill"));
        // Long enough that it cannot come to its end.
        distill.args(["table", "--preset", "smoke", "--threads", "1", "--out", "run", "--set", "pretrain.recipe.epochs=1000000"]);
        distill.current_dir(&folder).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = Running(distill.spawn().unwrap());
        let (metrics, start) = (folder.join("run/metrics.csv"), Instant::now());
        while !std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 1) {
            assert!(start.elapsed() < PATIENCE && run.0.try_wait().unwrap().is_none(), "training has not begun");
            std::thread::sleep(Duration::from_millis(10));
        }
        run.send(signal);
        assert_eq!(run.code(), Some(code), "SIG{signal}");
        let (mut out, mut err) = (String::new(), String::new());
        run.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        run.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(out, "", "no table");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("interrupted by SIG{signal}")) && err.ends_with('\n'), "{err:?}");
        assert_eq!(err.matches("interrupted").count(), 1, "{err:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// The child of the next test: takes the first signal and never stops for it.
#[test]
fn child_that_does_not_stop() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    interrupt::install().unwrap();
    interrupt::install().unwrap();
    assert_eq!(interrupt::requested(), None);
    eprintln!("ready");
    let mut told = false;
    loop {
        if let Some(signal) = interrupt::requested().filter(|_| !std::mem::replace(&mut told, true)) {
            eprintln!("asked by {signal}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [("INT", "TERM", 143), ("TERM", "INT", 130), ("INT", "INT", 130)] {
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "child_that_does_not_stop", "--nocapture"]).env(CHILD, "1");
        let mut child = Running(itself.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("ready")));
        child.send(first);
        assert_eq!(lines.next(), Some(format!("asked by SIG{first}")));
        assert!(child.0.try_wait().unwrap().is_none(), "the first signal only asks");
        child.send(second);
        assert_eq!(child.code(), Some(code), "SIG{first}, SIG{second}");
    }
}
