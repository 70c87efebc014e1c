//! Signals: training stops after the step in hand with a checkpoint, the signal's exit code and one line; a second signal does not wait.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fd_distill::interrupt;

use super::{Folder, Running};

/// Set in the child that a test makes of itself.
const CHILD: &str = "FD_TEST_INTERRUPT_CHILD";

#[test]
fn a_signal_ends_training_with_a_checkpoint_and_the_same_command_continues() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = Folder::new(signal);
        // No checkpoint but that of the signal.
        let rarely = ["--checkpoint-every", "3600"];
        let (_, checkpoints) = folder.interrupt(signal, code, &rarely);
        assert_eq!(checkpoints.len(), 1, "SIG{signal}: {checkpoints:?}");
        let finished = folder.finish(&rarely);
        assert_eq!(finished.warnings(), Vec::<&str>::new());
        folder.assert_untouched(signal);
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
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [("INT", "TERM", 143), ("TERM", "INT", 130), ("INT", "INT", 130)] {
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "signal::child_that_does_not_stop", "--nocapture"]).env(CHILD, "1");
        let mut child = Running(itself.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.ends_with("ready")));
        child.send(first);
        assert_eq!(lines.next(), Some(format!("asked by SIG{first}")));
        assert!(child.0.try_wait().unwrap().is_none(), "the first signal only asks");
        child.send(second);
        assert_eq!(child.0.wait().unwrap().code(), Some(code), "SIG{first}, SIG{second}");
    }
}
