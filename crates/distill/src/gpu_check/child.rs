//! A process with a time limit: one of the check's own, or PyTorch's.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{GpuCheckOptions, Section};
use crate::Error;

/// A process that runs.
pub(super) struct Child {
    process: std::process::Child,
    name: String,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It was stopped when so much time was over.
    Stopped(Duration),
}

impl Ended {
    /// What was wrong with it, if something was.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Ended::With(status) if status.success() => None,
            Ended::With(status) => Some(format!("ended with {status}")),
            Ended::Stopped(limit) => Some(format!("stopped after {:.0} s", limit.as_secs_f64())),
        }
    }
}

impl Child {
    /// One of the check's own processes, which shares our standard output.
    pub fn of(options: &GpuCheckOptions, section: Section, op: Option<&str>, file: &Path, left: Duration) -> Result<Child, Error> {
        let program = std::env::current_exe().map_err(|e| Error::Usage(format!("gpu-check: the program's own file: {e}")))?;
        let mut command = Command::new(program);
        command.arg("gpu-check").arg("--part").arg(file).args(op.map(|op| format!("--operation={op}")));
        command.args(["--only", section.name()]).arg(format!("--device=cuda:{}", options.ordinal));
        command.arg(format!("--minutes={}", left.as_secs_f64() / 60.0)).arg(format!("--tolerance-scale={}", options.tolerance_scale));
        command.args(options.quick.then_some("--quick"));
        if let Some(script) = &options.torch {
            command.arg("--torch").arg(script);
        }
        command.stdin(Stdio::null());
        Child::start(command, section.name())
    }

    /// Another program, whose output goes into files.
    pub fn other(mut command: Command, name: &str, out: File, err: File) -> Result<Child, Error> {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Child::start(command, name)
    }

    fn start(mut command: Command, name: &str) -> Result<Child, Error> {
        let process = command.spawn().map_err(|e| Error::Usage(format!("gpu-check: {name}: cannot be started: {e}")))?;
        Ok(Child { process, name: name.into() })
    }

    /// Waits until it ends; ends it when the limit is over.
    pub fn wait(mut self, limit: Duration) -> Result<Ended, Error> {
        let fail = |name: &str, e: std::io::Error| Error::Usage(format!("gpu-check: {name}: {e}"));
        let start = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(status) = self.process.try_wait().map_err(|e| fail(&self.name, e))? {
                return Ok(Ended::With(status));
            }
            if start.elapsed() >= limit {
                let _ = self.process.kill();
                self.process.wait().map_err(|e| fail(&self.name, e))?;
                return Ok(Ended::Stopped(limit));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(program: &str, argument: &str, limit: Duration) -> Option<String> {
        let mut command = Command::new(program);
        command.arg(argument);
        let null = || File::create("/dev/null").unwrap();
        Child::other(command, program, null(), null()).unwrap().wait(limit).unwrap().trouble()
    }

    #[test]
    fn a_process_that_fails_or_hangs_is_told() {
        let long = Duration::from_secs(60);
        assert_eq!(run("true", "", long), None);
        assert!(run("cat", "/nonexistent", long).unwrap().contains("exit status: 1"));
        let start = Instant::now();
        assert_eq!(run("sleep", "60", Duration::from_millis(50)).as_deref(), Some("stopped after 0 s"));
        assert!(start.elapsed() < Duration::from_secs(30), "it was waited for");
    }
}
