//! `analyze landscape` and `analyze plots` as users run them: on the models of a table of ViTs and Swins, stopped and taken up again, and
//! with everything that can be wrong.
#![cfg(unix)]

mod plots;
mod refusals;
mod resume;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fd_analysis::landscape::Landscape;

/// An empty folder for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("landscape-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_analyze"));
        // Small models are faster on one thread, above all on a machine with other work.
        let threads = if args.contains(&"--threads") { &[][..] } else { &["--threads", "1"] };
        command.arg("landscape").args(args).args(threads).current_dir(&self.0).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a command that succeeds prints.
    fn says(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The one line on standard error of a command that is refused.
    fn refused(&self, args: &[&str]) -> String {
        let output: Output = self.command(args).output().unwrap();
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(2) && err.lines().count() == 1 && err.starts_with("error: "), "{args:?}: {err}");
        err.trim_end().trim_start_matches("error: ").to_string()
    }

    /// Every file of a finished landscape whose bytes are determined.
    fn files(&self, out: &str) -> BTreeMap<String, String> {
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let names = std::fs::read_dir(self.path(out)).unwrap().map(|e| name(e.unwrap())).filter(|n| n != "lock" && n != "meta.json");
        names.map(|name| (name.clone(), std::fs::read_to_string(self.path(out).join(name)).unwrap())).collect()
    }

    fn landscape(&self, out: &str) -> Landscape {
        Landscape::read(&self.path(out)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
