//! `analyze plots`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fd_analysis::plots::{PlotOptions, plots, refuse_to_replace};
use fd_compute::Device;
use fd_distill::arguments::at_most;

use super::print;

/// Landscapes of how many dimensions.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LandscapeArg {
    /// None
    None,
    /// Sections: 41 points
    #[value(name = "1d")]
    Line,
    /// Planes: 21 x 21 points
    #[value(name = "2d")]
    Plane,
}

/// What `analyze plots` is told.
#[derive(Debug, Args)]
pub struct PlotsArgs {
    /// The run directory of a finished table
    #[arg(value_name = "RUN", default_value = "runs/main")]
    run: PathBuf,
    /// Where to: figures, numbers and report.html; default: plots/ in the run directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Test images that everything is measured on
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_most::<1_000_000>)]
    images: usize,
    /// Draws the images, and the landscapes' directions
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Images in the attention explorer
    #[arg(long, value_name = "N", default_value = "6", value_parser = at_most::<64>)]
    explore: usize,
    /// Loss and accuracy around the fine-tuned models
    #[arg(long, value_enum, default_value = "1d")]
    landscape: LandscapeArg,
    /// The run directory of a finished sweep over positions; default: sweep-positions beside the run, where it is
    #[arg(long, value_name = "DIR")]
    positions: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

/// Makes the figures and the page, and says where.
pub fn run(args: &PlotsArgs, device: Device) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.run.join("plots"));
    refuse_to_replace(&out, args.force)?;
    let beside = args.run.parent().map(|runs| runs.join("sweep-positions")).filter(|dir| dir.join("models.json").is_file());
    let options = PlotOptions {
        run: args.run.clone(),
        out,
        images: args.images,
        seed: args.seed,
        explore: args.explore,
        landscape: args.landscape as usize,
        positions: args.positions.clone().or(beside),
        device,
    };
    let mut told = |what: &str| _ = writeln!(std::io::stderr(), "plots: {what} …");
    let written = plots(&options, &mut told)?;
    let page = written.last().map(|page| page.display().to_string()).unwrap_or_default();
    print(&format!("{} files; {page}\n", written.len()))
}
