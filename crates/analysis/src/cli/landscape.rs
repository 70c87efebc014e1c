//! `analyze landscape`: what it is told.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use fd_analysis::landscape::direction::{Filter, Tensors};
use fd_analysis::landscape::images::{DataChoice, Selection};
use fd_analysis::landscape::subject::{Named, RunChoice};
use fd_analysis::landscape::{Curvature, Options, Settings};
use fd_compute::Device;
use fd_data::{DataSpec, Split};
use fd_distill::arguments::at_most;

/// `analyze landscape`.
#[derive(Debug, Args)]
pub struct LandscapeArgs {
    /// Weight files of fine-tuned models, each by its file's name or the one before `=`
    #[arg(value_name = "[NAME=]FILE", required_unless_present = "run")]
    models: Vec<String>,
    /// A key of the files' models, for what files do not say, such as num_heads=6
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The run directory of a table: take its fine-tuned models and its test images
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The run's fine-tuning; default: its first
    #[arg(long, value_name = "NAME", requires = "run")]
    column: Option<String>,
    /// A row of the run's table, such as "DINO + FD"; may be given several times; default: all
    #[arg(long = "row", value_name = "NAME", requires = "run")]
    rows: Vec<String>,
    /// Seeds of the run's fine-tuning; default: its first
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', requires = "run")]
    run_seeds: Option<Vec<u32>>,

    /// Images: a folder with a sub-folder a class, fashion-mnist, or { kind = "idx", … }; default: the run's
    #[arg(long, value_name = "DATA", required_unless_present = "run")]
    data: Option<String>,
    /// Which half of the run's data, or of fashion-mnist
    #[arg(long, value_enum, default_value = "test")]
    split: Half,
    /// Images, as many of every class as can be; all of them if 0
    #[arg(long, value_name = "N", default_value = "256")]
    images: usize,
    /// Which images, and how they are augmented
    #[arg(long, value_name = "SEED", default_value = "0")]
    image_seed: u32,
    /// See them as the run's fine-tuning does, by one draw for all points
    #[arg(long, requires = "run")]
    augment: bool,

    /// Lines or planes
    #[arg(long, default_value = "2", value_parser = at_most::<2>)]
    dims: usize,
    /// Steps go from -RANGE to RANGE, in units of the filters' own norms
    #[arg(long, default_value = "1")]
    range: f64,
    /// Points along each axis, odd; default: 41 in one dimension, 21 in two
    #[arg(long, value_name = "N")]
    points: Option<usize>,
    /// Seeds of the directions: a landscape for each
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u32>,
    /// What moves: all, matrices (no vectors, tokens, position tables), or names such as blocks.*.mlp.*
    #[arg(long, value_name = "all|matrices|NAMES", default_value = "matrices")]
    tensors: Tensors,
    /// What is rescaled together
    #[arg(long, value_enum, default_value = "row")]
    filter: Together,
    /// Make the second axis orthogonal to the first in each filter
    #[arg(long)]
    orthogonal: bool,

    /// Distances at which the loss's increase is averaged over directions
    #[arg(long = "radius", value_name = "R,…", value_delimiter = ',', default_value = "0.1,0.25,0.5")]
    radii: Vec<f64>,
    /// Directions of that average; 0: not wanted
    #[arg(long, value_name = "N", default_value = "10", value_parser = count)]
    directions: usize,
    /// Hessian-vector products for its largest and smallest eigenvalue, at most; 0: not wanted
    #[arg(long, value_name = "N", default_value = "40", value_parser = count)]
    hessian_iterations: usize,
    /// Relative residual of these eigenvalues at which that ends earlier
    #[arg(long, value_name = "SHARE", default_value = "0.001")]
    hessian_tolerance: f64,
    /// Random vectors for its trace; 0: not wanted
    #[arg(long, value_name = "N", default_value = "20", value_parser = count)]
    hessian_vectors: usize,
    /// It is that of these tensors
    #[arg(long, value_name = "all|matrices|NAMES", default_value = "all")]
    hessian_tensors: Tensors,

    /// Images a pass
    #[arg(long, value_name = "N", default_value = "32", value_parser = at_most::<4096>)]
    batch: usize,
    /// The folder to write; the same command goes on where it was stopped
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace what another configuration has left there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Half {
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Together {
    /// Output rows of matrices
    Row,
    /// Input columns of matrices
    Column,
    /// Whole tensors
    Tensor,
    /// Nothing: directions keep unit variance
    None,
}

impl LandscapeArgs {
    /// What the command needs.
    pub fn options(&self, device: Device) -> anyhow::Result<Options> {
        let wide = |seeds: &[u32]| seeds.iter().map(|s| u64::from(*s)).collect::<Vec<u64>>();
        if let Some(twice) = self.seeds.iter().enumerate().find_map(|(i, s)| self.seeds[..i].contains(s).then_some(s)) {
            bail!("--seeds: {twice} stands there twice");
        }
        let run = self.run.clone().map(|dir| RunChoice {
            dir,
            column: self.column.clone(),
            rows: Some(self.rows.clone()).filter(|rows| !rows.is_empty()),
            seeds: self.run_seeds.as_deref().map(wide),
        });
        let hessian = Curvature {
            iterations: self.hessian_iterations,
            tolerance: self.hessian_tolerance,
            vectors: self.hessian_vectors,
            tensors: self.hessian_tensors.clone(),
        };
        let settings = Settings {
            dims: self.dims,
            range: self.range,
            points: self.points.unwrap_or(if self.dims == 1 { 41 } else { 21 }),
            seeds: wide(&self.seeds),
            tensors: self.tensors.clone(),
            filter: match self.filter {
                Together::Row => Filter::Row,
                Together::Column => Filter::Column,
                Together::Tensor => Filter::Tensor,
                Together::None => Filter::None,
            },
            orthogonal: self.orthogonal,
            radii: self.radii.clone(),
            directions: self.directions,
            batch: self.batch,
            hessian,
        };
        let selection = Selection { images: self.images, seed: self.image_seed.into(), augment: self.augment };
        let models = self.models.iter().map(|text| named(text)).collect();
        let (sets, out) = (self.sets.clone(), self.out.clone());
        Ok(Options { models, run, sets, data: self.data()?, selection, settings, out, force: self.force, device })
    }

    fn data(&self) -> anyhow::Result<DataChoice> {
        let split = match self.split {
            Half::Train => Split::Train,
            Half::Test => Split::Test,
        };
        Ok(match self.data.as_deref() {
            None => DataChoice::Run(split),
            Some("fashion-mnist") => DataChoice::Spec(DataSpec::FashionMnist { split }),
            Some(table) if table.trim_start().starts_with('{') => {
                #[derive(serde::Deserialize)]
                struct Line {
                    data: DataSpec,
                }
                let line: Line = toml::from_str(&format!("data = {table}")).with_context(|| format!("--data {table}"))?;
                DataChoice::Spec(line.data)
            }
            Some(folder) => DataChoice::Folder(folder.into()),
        })
    }
}

/// From 0 to what the work can be counted with.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 100_000_000).ok_or_else(|| "expected a number from 0 to 100000000".into())
}

/// `NAME=FILE`, or a file that is called as it is.
fn named(text: &str) -> Named {
    match text.split_once('=') {
        Some((name, file)) if !Path::new(text).exists() => Named { name: name.trim().into(), file: file.into() },
        _ => {
            let file = PathBuf::from(text);
            Named { name: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_have_names() {
        let of = |name: &str, file: &str| Named { name: name.into(), file: file.into() };
        assert_eq!(named("DINO + FD=a/b.safetensors"), of("DINO + FD", "a/b.safetensors"));
        assert_eq!(named("a/b.safetensors"), of("b", "a/b.safetensors"));
    }
}
