//! Tables that come with the binary, and the options of the paper's.

use clap::Args;
use fd_distill::Error;
use fd_distill::config::Source;
use fd_distill::price::{Fleet, Rate};
use fd_distill::table::{EMBEDDED, embedded, paper};

use super::at_most;
use super::plan::positive;
use crate::commands::{PaperOptions, RunOptions};

/// What `--preset` names.
#[derive(Clone, Debug)]
pub enum TablePreset {
    /// A table.
    One(Source),
    /// All rows of the paper.
    Paper,
}

/// All names that [`preset`] knows.
pub fn names() -> String {
    format!("{}, paper, {}", EMBEDDED.join(", "), paper::ROWS.map(|row| format!("paper/{row}")).join(", "))
}

/// Reads a name.
pub fn preset(text: &str) -> Result<TablePreset, String> {
    match embedded(text) {
        Some(source) => Ok(TablePreset::One(source)),
        None if text == "paper" => Ok(TablePreset::Paper),
        None => Err(format!("there are {}", names())),
    }
}

/// Options of `--preset paper`.
#[derive(Debug, Args)]
pub struct PaperArgs {
    /// Of --preset paper: the rows to run, a list such as dino-b,clip-b; default: all
    #[arg(long, value_name = "A,B,…", value_parser = paper::rows)]
    rows: Option<std::vec::Vec<&'static str>>,
    /// Of --preset paper with --dry-run: what a device sustains, in 10^12 floating-point operations a second [default: 400]
    #[arg(long, value_name = "X", value_parser = positive)]
    tflops: Option<f64>,
    /// Of --preset paper with --dry-run: devices that share the images [default: 1]
    #[arg(long, value_name = "N", value_parser = at_most::<1_000_000>)]
    devices: Option<usize>,
}

/// What a device is taken to sustain, in 10^12 floating-point operations a second.
const TFLOPS: f64 = 400.0;

impl PaperArgs {
    /// What the command needs.
    pub fn options(&self, run: RunOptions) -> PaperOptions {
        let fleet = Fleet { devices: self.devices.unwrap_or(1), rate: Some(Rate::Tflops(self.tflops.unwrap_or(TFLOPS))) };
        PaperOptions { rows: self.rows.clone().unwrap_or_else(|| paper::ROWS.to_vec()), run, fleet }
    }

    /// Refuses them with another table.
    ///
    /// # Errors
    /// The first that is given.
    pub fn refuse(&self) -> Result<(), Error> {
        let given = [("--rows", self.rows.is_some()), ("--tflops", self.tflops.is_some()), ("--devices", self.devices.is_some())];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Error::Usage(format!("{option} goes with --preset paper"))),
            None => Ok(()),
        }
    }
}
