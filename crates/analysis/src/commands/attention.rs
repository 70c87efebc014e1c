//! `analyze attention`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use fd_analysis::attention::{AttentionOptions, Conventions, SpecialTokens, analyse, refuse_to_replace, write};
use fd_analysis::images::{Choice, Origin};
use fd_analysis::models::{Labelled, distinct};
use fd_compute::Device;
use fd_distill::arguments::{ModelArgs, ViewArgs, at_most};
use fd_distill::progress::Progress;

use super::print;

/// What `analyze attention` is told.
#[derive(Debug, Args)]
pub struct AttentionArgs {
    /// A weight file, perhaps with a label: FILE or LABEL=FILE; may be given several times
    #[arg(long, value_name = "[LABEL=]FILE", required_unless_present = "run")]
    weights: Vec<String>,
    /// The encoders of a run of ours, or one of them; may be given several times
    #[arg(long, value_name = "NAME[:FILE]")]
    run: Vec<String>,
    /// Where runs are
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// A folder of images (flat, or a sub-folder a class), or fashion-mnist or fashion-mnist:train
    #[arg(long, value_name = "DIR")]
    data: String,
    /// How many images; default: all
    #[arg(long, value_name = "N", value_parser = at_most::<1_000_000_000>)]
    size: Option<usize>,
    /// Draw them by this seed; default: the first ones in order
    #[arg(long, value_name = "SEED", requires = "size")]
    seed: Option<u64>,
    /// Where to: attention.csv, layers.csv, maps.safetensors, attention.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Layers, from 0; default: all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// Keep the rows and columns of CLS and registers; default: dropped, and rows renormalised
    #[arg(long)]
    keep_cls: bool,
    /// Do not divide what is left of a row by its sum
    #[arg(long, conflicts_with = "keep_cls")]
    no_renormalise: bool,
    /// Average the maps of single heads, too
    #[arg(long)]
    head_maps: bool,
    /// Keep the attention of the first N images, in half precision: images.safetensors
    #[arg(long, value_name = "N", default_value = "0")]
    keep_images: usize,
    /// Images a forward pass; default: up to 8, fewer where attention is large
    #[arg(long, value_name = "N", value_parser = at_most::<4096>)]
    batch: Option<usize>,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

impl AttentionArgs {
    fn options(&self, device: Device) -> anyhow::Result<AttentionOptions> {
        let mut models = self.weights.iter().map(|text| Labelled::parse(text)).collect::<Result<Vec<_>, _>>()?;
        for text in &self.run {
            models.extend(Labelled::of_run(&self.runs, text)?);
        }
        distinct(&models)?;
        let special_tokens = if self.keep_cls { SpecialTokens::Kept } else { SpecialTokens::Dropped };
        Ok(AttentionOptions {
            models: models.into_iter().map(|m| (m.label, self.model.asked(&m.file))).collect(),
            images: Choice { data: Origin::Named(self.data.clone()), size: self.size, seed: self.seed, fitting: self.view.fitting() },
            conventions: Conventions { special_tokens, renormalised: !self.keep_cls && !self.no_renormalise },
            layers: self.layers.clone(),
            batch: self.batch,
            head_maps: self.head_maps,
            keep_images: self.keep_images,
            device,
        })
    }
}

/// Analyses, then writes the files and prints a table of the layers.
pub fn attention(args: &AttentionArgs, device: Device) -> anyhow::Result<()> {
    refuse_to_replace(&args.out, args.force)?;
    let options = args.options(device)?;
    // What is assumed, left aside or interpolated has to be seen.
    let told = |label: &str, report: &str| _ = writeln!(std::io::stderr(), "{label}: {report}");
    let analysis = analyse(&options, &mut Progress::new(1.0), told)?;
    let written = write(&args.out, &analysis)?;
    let speeds: String = analysis.report.models.iter().zip(&analysis.speeds).map(|(m, speed)| format!("{}: {speed}\n", m.label)).collect();
    let files: Vec<String> = written.iter().map(|file| file.display().to_string()).collect();
    print(&format!(
        "{}\n{} images of {}\n{speeds}{}\n",
        analysis.report.table(),
        analysis.report.data.images,
        analysis.report.data.source,
        files.join(", ")
    ))
}
