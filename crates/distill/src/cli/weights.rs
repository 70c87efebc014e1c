//! The commands on weight files: what they are told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fd_compute::Device;
use fd_distill::Error;
use fd_distill::arguments::{Elements, ModelArgs, ViewArgs, at_most};
use fd_distill::asked::Asked;
use fd_distill::features::{Feature, FeatureOptions};
use fd_distill::starter::StarterOptions;
use fd_model::names::Style;

use crate::commands::{ConvertOptions, InspectOptions, KnnOptions};

/// `distill inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file: safetensors, PyTorch (.pth, .pt, old or new), TorchScript
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Names and shapes only: read no values
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// What the command needs.
    pub fn options(&self) -> InspectOptions {
        InspectOptions { asked: self.model.asked(&self.file), quick: self.quick, json: self.json }
    }
}

/// Whose names.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// The code's that published the architecture
    Official,
    /// timm's
    Timm,
    /// Hugging Face transformers': OUT is a folder
    Hf,
}

/// `distill convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The weights
    #[arg(value_name = "IN")]
    file: PathBuf,
    /// The safetensors file to write; with --to hf the folder
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// In whose names
    #[arg(long, value_enum)]
    to: To,
    /// Element type: f32 or f16
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Elements,
    /// Write no metadata: a file of ours says which model it is of, and how its images are normalised
    #[arg(long)]
    no_metadata: bool,
    #[command(flatten)]
    model: ModelArgs,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

impl ConvertArgs {
    /// What the command needs.
    ///
    /// # Errors
    /// An element type that is not written.
    pub fn options(&self) -> Result<ConvertOptions, Error> {
        if self.dtype == Elements::Bf16 {
            return Err(Error::Usage("convert writes --dtype f32 or f16".into()));
        }
        let style = match self.to {
            To::Official => Style::Official,
            To::Timm => Style::Timm,
            To::Hf => Style::Hf,
        };
        let (half, plain) = (self.dtype == Elements::F16, self.no_metadata);
        Ok(ConvertOptions { asked: self.model.asked(&self.file), out: self.out.clone(), style, half, plain, force: self.force })
    }
}

/// `distill features`.
#[derive(Debug, Args)]
pub struct FeaturesArgs {
    /// The weights
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// A folder of images: flat, or a sub-folder a class
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to: .safetensors, or .csv with a row an image
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What: cls, mean (of the patches), projected (CLIP's), tokens, embedded, blocks.N [default: cls,mean, or mean without a CLS token]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    features: Option<Vec<Feature>>,
    /// Images a forward pass
    #[arg(long, value_name = "N", default_value = "16", value_parser = at_most::<4096>)]
    batch: usize,
    /// Store half precision
    #[arg(long)]
    half: bool,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

impl FeaturesArgs {
    /// What the command needs; without a list of features, those that the model has of the usual two.
    pub fn options(&self, device: Device) -> (Asked, Option<Vec<Feature>>, FeatureOptions) {
        let options = FeatureOptions {
            data: self.data.clone(),
            out: self.out.clone(),
            features: vec![],
            fitting: self.view.fitting(),
            batch: self.batch,
            half: self.half,
            force: self.force,
            device,
        };
        (self.model.asked(&self.weights), self.features.clone(), options)
    }
}

/// `distill knn`.
#[derive(Debug, Args)]
pub struct KnnArgs {
    /// The weights
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Training images: a sub-folder a class
    #[arg(long, value_name = "DIR")]
    train: PathBuf,
    /// Test images: a sub-folder a class, of the same names
    #[arg(long, value_name = "DIR")]
    test: PathBuf,
    /// Neighbours that vote
    #[arg(long, default_value = "20", value_parser = at_most::<1_000_000>)]
    k: usize,
    /// Temperature of the votes
    #[arg(long, default_value = "0.07")]
    temperature: f64,
    /// cls, mean or projected [default: cls, or mean without a CLS token]
    #[arg(long)]
    feature: Option<Feature>,
    /// Images a forward pass
    #[arg(long, value_name = "N", default_value = "16", value_parser = at_most::<4096>)]
    batch: usize,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl KnnArgs {
    /// What the command needs.
    pub fn options(&self, device: Device) -> KnnOptions {
        KnnOptions {
            asked: self.model.asked(&self.weights),
            train: self.train.clone(),
            test: self.test.clone(),
            numbers: fd_distill::probe::Knn { k: self.k, temperature: self.temperature },
            feature: self.feature,
            fitting: self.view.fitting(),
            batch: self.batch,
            device,
        }
    }
}

/// `distill init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The teacher's weights
    #[arg(long, value_name = "FILE")]
    teacher: PathBuf,
    /// A folder of images; they need no labels
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The configuration to write; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

impl InitArgs {
    /// What the command needs.
    pub fn options(&self) -> (StarterOptions, bool) {
        let options = StarterOptions { asked: self.model.asked(&self.teacher), data: self.data.clone(), out: self.out.clone() };
        (options, self.force)
    }
}
