//! What the subcommands do: read, run, write; the work is the library's.

mod columns;
mod config;
mod doctor;
mod execute;
mod features;
mod gpu;
mod init;
mod paper;
mod plan;
mod sweep;
mod table;
mod weights;

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use fd_compute::Device;
use fd_distill::bench::{self, BenchOptions};
use fd_distill::{parity as goldens, status as runs};

pub use config::{ConfigOptions, config};
pub use doctor::doctor;
pub use execute::RunOptions;
pub use features::{KnnOptions, features, knn};
pub use gpu::{gpu_check, roofline};
pub use init::init;
pub use paper::{PaperOptions, paper};
pub use plan::{PlanOptions, Priced, plan};
pub use sweep::{SweepOptions, sweep};
pub use table::{TableOptions, table};
pub use weights::{ConvertOptions, InspectOptions, convert, inspect};

/// How a command ended that was not stopped by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// A check said no.
    CheckFailed,
}

/// Standard output whose reader may leave: what is written after that goes nowhere, silently.
#[derive(Debug)]
pub struct Output {
    gone: bool,
}

impl Output {
    /// With a reader still there.
    pub fn new() -> Output {
        Output { gone: false }
    }

    fn forgive<T>(&mut self, result: std::io::Result<T>, instead: T) -> std::io::Result<T> {
        match result {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(instead)
            }
            result => result,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        self.forgive(std::io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.gone {
            return Ok(());
        }
        self.forgive(std::io::stdout().flush(), ())
    }
}

/// Compares the engine with golden vectors.
pub fn parity(folder: &Path, device: Device, out: &mut Output) -> anyhow::Result<Outcome> {
    let report = goldens::parity(folder, device, out)?;
    Ok(if report.failed > 0 { Outcome::CheckFailed } else { Outcome::Done })
}

/// Prints the benchmark's line.
pub fn fd_step(options: &BenchOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let line = bench::fd_step(options)?;
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

/// Prints where a step's time goes.
pub fn profile(options: &BenchOptions, json: bool, out: &mut Output) -> anyhow::Result<Outcome> {
    let profiled = bench::profile(options)?;
    let text = if json { profiled.json()? } else { profiled.markdown() };
    writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

/// Prints a line for each shape.
pub fn attention(repeats: usize, only: &str, out: &mut Output) -> anyhow::Result<Outcome> {
    let lines = bench::attention(repeats, only)?.join("\n");
    writeln!(out, "{lines}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

/// Says how the runs below a folder stand.
pub fn status(folder: &Path, out: &mut Output) -> anyhow::Result<Outcome> {
    let text = if folder.exists() { runs::status(folder)? } else { format!("{}: no runs yet\n", folder.display()) };
    write!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}
