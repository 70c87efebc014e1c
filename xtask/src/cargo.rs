//! Cargo, and the binaries it builds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The target directory: this binary lies in `target/<profile>/`.
pub fn target() -> Result<PathBuf> {
    let me = std::env::current_exe().context("where am I?")?;
    let target = me.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{}: not in a target directory", me.display()))?.to_path_buf())
}

/// `cargo ARGS` in the workspace's root, into this target directory.
pub fn cargo(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()).env("CARGO_TARGET_DIR", target()?);
    Ok(command)
}

/// Runs a command to its end.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("{} cannot be run", command.get_program().to_string_lossy()))
}

/// The exit code; 1 for a command that a signal ended.
pub fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)
}

/// The binaries that tasks are handed to.
#[derive(Clone, Copy, Debug)]
pub enum Binary {
    Distill,
    Analyze,
}

impl Binary {
    /// (package, binary).
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Binary::Distill => ("fd-distill", "distill"),
            Binary::Analyze => ("fd-analysis", "analyze"),
        }
    }

    /// Builds it for speed and returns where it lies.
    fn built(self) -> Result<PathBuf> {
        let (package, name) = self.names();
        let build = status(&mut cargo(&["build", "--release", "--package", package, "--bin", name])?)?;
        if !build.success() {
            bail!("`{name}` does not build");
        }
        Ok(target()?.join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
    }

    /// Builds it; a command that runs it.
    pub fn command(self) -> Result<Command> {
        Ok(Command::new(self.built()?))
    }

    /// Builds it and runs it in this process's place where the system can do that: signals then reach the run itself.
    pub fn take_over(self, args: &[OsString]) -> Result<u8> {
        let mut command = self.command()?;
        command.args(args);
        #[cfg(unix)]
        return Err(std::os::unix::process::CommandExt::exec(&mut command)).with_context(|| format!("`{}` cannot be run", self.names().1));
        #[cfg(not(unix))]
        Ok(code(status(&mut command)?))
    }
}

/// Builds `distill` and runs `distill SUBCOMMAND ARGS` in the current directory; its exit code.
pub fn distill(subcommand: &str, args: &[OsString]) -> Result<u8> {
    Ok(code(status(Command::new(Binary::Distill.built()?).arg(subcommand).args(args))?))
}

/// As [`distill`], but in this process's place.
pub fn become_distill(subcommand: &str, args: &[OsString]) -> Result<u8> {
    let args: Vec<OsString> = std::iter::once(subcommand.into()).chain(args.iter().cloned()).collect();
    Binary::Distill.take_over(&args)
}

/// `cargo test --workspace ARGS`: the test profile is optimised (Cargo.toml says how), so that numeric tests take minutes.
pub fn test(args: &[OsString]) -> Result<u8> {
    Ok(code(status(cargo(&["test", "--workspace"])?.args(args))?))
}
