//! `distill plan`: which options go with what is priced.

use std::path::{Path, PathBuf};

use clap::Args;
use fd_distill::Error;
use fd_distill::config::Source;
use fd_distill::price::{Fleet, Rate, Schedule};
use fd_distill::table;
use fd_model::PRESETS;

use super::at_most;
use super::preset::names;
use crate::commands::{PlanOptions, Priced};

/// ImageNet-1K's training images.
const IMAGENET: usize = 1_281_167;
const IMAGENET_CLASSES: usize = 1000;
/// The paper's epochs.
const EPOCHS: usize = 300;
const BATCH: usize = 128;
/// Balanced subsets of a table's images are drawn one by one.
const MOST_IMAGINED: usize = 20_000_000;

/// `distill plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// An architecture (vit-base, swinv2-g, …), distilled into the paper's student of its sizes (a ViT with one relative position bias for
    /// all blocks, a Swin v2); a table that comes with the binary (main, smoke, small, a row of the paper such as paper/dino-b); a table's file. Default: an overview of all
    /// architectures
    #[arg(value_name = "CONFIG")]
    config: Option<String>,
    /// The overview
    #[arg(long, conflicts_with = "config")]
    all: bool,
    /// Of a table: override a key, such as distil.recipe.batch=256
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Of an architecture: the teacher; default: the same architecture, for swinv2-t, -s and -b the Swin of that size
    #[arg(long, value_name = "NAME")]
    teacher: Option<String>,
    /// Of an architecture: side of both models' images, in pixels; default: the published one
    #[arg(long, value_name = "N", value_parser = at_most::<2048>)]
    img_size: Option<usize>,
    /// Images a step and device [default: 128]
    #[arg(long, value_name = "N", value_parser = at_most::<16384>)]
    batch: Option<usize>,
    /// Of an architecture: micro-batches to compare with whole batches; default: 8, or the largest number below that divides the batch
    #[arg(long, value_name = "N", value_parser = at_most::<16384>)]
    accumulate: Option<usize>,
    /// Training images [default: 1281167, ImageNet-1K's]; of a table: so many imagined ones in place of its own
    #[arg(long, value_name = "N", value_parser = at_most::<1_000_000_000_000>)]
    images: Option<usize>,
    /// Of a table with --images: their classes [default: 1000]
    #[arg(long, value_name = "N", value_parser = at_most::<16_777_216>)]
    classes: Option<usize>,
    /// Passes over the images [default: 300]
    #[arg(long, value_name = "N", value_parser = at_most::<1_000_000>)]
    epochs: Option<usize>,
    /// Devices that share the images
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_most::<1_000_000>)]
    devices: usize,
    /// What a device sustains, in 10^12 floating-point operations a second: gives days
    #[arg(long, value_name = "X", value_parser = positive, conflicts_with = "images_per_second")]
    tflops: Option<f64>,
    /// Of an architecture: what a device trains, in images a second: gives days
    #[arg(long, value_name = "X", value_parser = positive)]
    images_per_second: Option<f64>,
    /// One JSON object with the same numbers, in FLOP and bytes
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    /// What the command needs.
    ///
    /// # Errors
    /// A name that is nothing, and options that do not go with what is priced.
    pub fn options(&self) -> Result<PlanOptions, Error> {
        let rate = self.tflops.map(Rate::Tflops).or(self.images_per_second.map(Rate::ImagesPerSecond));
        Ok(PlanOptions { priced: self.priced()?, fleet: Fleet { devices: self.devices, rate }, json: self.json })
    }

    fn priced(&self) -> Result<Priced, Error> {
        let batch = self.batch.unwrap_or(BATCH);
        let schedule = Schedule { images: self.images.unwrap_or(IMAGENET), epochs: self.epochs.unwrap_or(EPOCHS) };
        let of_pair = [("--teacher", self.teacher.is_some()), ("--img-size", self.img_size.is_some())];
        let steps = [("--accumulate", self.accumulate.is_some()), ("--images-per-second", self.images_per_second.is_some())];
        let of_table = [("--set", !self.sets.is_empty()), ("--classes", self.classes.is_some())];
        let Some(name) = self.config.as_deref() else {
            refuse(of_pair.into_iter().chain(steps), "goes with one architecture, not with the overview of all")?;
            refuse(of_table, "goes with a table, not with the overview of all architectures")?;
            return Ok(Priced::Overview { batch, schedule });
        };
        if PRESETS.contains(&name) {
            refuse(of_table, "goes with a table, not with an architecture")?;
            let accumulate = self.accumulate.unwrap_or_else(|| (1..=8).rev().find(|n| batch.is_multiple_of(*n)).unwrap_or(1));
            let (name, teacher) = (name.into(), self.teacher.clone());
            return Ok(Priced::Pair { name, teacher, img_size: self.img_size, batch, accumulate, schedule });
        }
        let source = table_of(name)?;
        let keys = [("--batch", self.batch.is_some()), ("--epochs", self.epochs.is_some())];
        refuse(of_pair.into_iter().chain(steps), "goes with an architecture, not with a table")?;
        refuse(keys, "goes with an architecture: a table's recipes say it (--set distil.recipe.KEY=VALUE)")?;
        if self.classes.is_some() && self.images.is_none() {
            return Err(Error::Usage("--classes goes with --images: the table's own images have their classes".into()));
        }
        if self.images.is_some_and(|images| images > MOST_IMAGINED) {
            return Err(Error::Usage(format!("--images: a table's are at most {MOST_IMAGINED}")));
        }
        let imagined = self.images.map(|images| (images, self.classes.unwrap_or(IMAGENET_CLASSES)));
        // The paper's data need not be there.
        Ok(Priced::Table { source, sets: self.sets.clone(), imagined, published: name.starts_with("paper/") })
    }
}

fn refuse(given: impl IntoIterator<Item = (&'static str, bool)>, why: &str) -> Result<(), Error> {
    match given.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Error::Usage(format!("{option} {why}"))),
        None => Ok(()),
    }
}

/// A table by its name, or by its file.
fn table_of(name: &str) -> Result<Source, Error> {
    let file = Path::new(name);
    match table::embedded(name) {
        Some(source) => Ok(source),
        None if file.exists() || file.extension().is_some_and(|e| e == "toml") => Ok(Source::File(PathBuf::from(name))),
        None => Err(Error::Usage(format!("`{name}` is no file, no table ({}) and no architecture ({})", names(), PRESETS.join(", ")))),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or_else(|| "expected a number above 0".into())
}
