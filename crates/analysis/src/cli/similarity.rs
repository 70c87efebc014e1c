//! `analyze similarity`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fd_analysis::similarity::cka::Estimator;
use fd_analysis::similarity::{Images, RowsOf, SimilarityOptions};
use fd_compute::Device;
use fd_distill::Error;
use fd_distill::asked::Asked;
use fd_distill::features::Fitting;
use fd_model::Allow;

use fd_distill::arguments::at_most;

use super::labelled;

/// What a row is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RowsArg {
    /// The mean of an image's patches
    Mean,
    /// An image's CLS token
    Cls,
    /// Every patch
    Tokens,
}

/// How CKA is computed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EstimatorArg {
    /// Of all rows at once; biased upwards where rows are few
    Exact,
    /// Unbiased, averaged over batches
    Minibatch,
}

/// `analyze similarity`.
#[derive(Debug, Args)]
pub struct SimilarityArgs {
    /// A model: its name in the results, and its weights; may be given several times
    #[arg(long, value_name = "LABEL=FILE", value_parser = labelled, required = true)]
    weights: Vec<(String, String)>,
    /// The model in a file that holds several: a part of its path, such as teacher
    #[arg(long, value_name = "LABEL=PATH", value_parser = labelled)]
    key: Vec<(String, String)>,
    /// The architecture that a model has to be; default: what it is recognised as
    #[arg(long, value_name = "LABEL=PRESET", value_parser = labelled)]
    model: Vec<(String, String)>,
    /// A key of a model, for what files do not say, such as teacher=num_heads=6
    #[arg(long = "set", value_name = "LABEL=KEY=VALUE", value_parser = labelled)]
    sets: Vec<(String, String)>,
    /// A tensor of any model that may be missing, left over, of another shape or not finite; NAME* stands for all that begin so
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// A folder of images (flat, or a sub-folder a class), fashion-mnist (its test images) or fashion-mnist-train
    #[arg(long, value_name = "DIR")]
    data: Images,
    /// The folder of results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// So many of the images, drawn by the seed; default: all
    #[arg(long, value_name = "N", value_parser = at_most::<100_000_000>)]
    images: Option<usize>,
    /// Draws the images
    #[arg(long, default_value = "0")]
    seed: u64,
    /// What a row of features is
    #[arg(long, value_enum, default_value = "mean")]
    rows: RowsArg,
    /// How CKA is computed
    #[arg(long, value_enum, default_value = "exact")]
    estimator: EstimatorArg,
    /// Layers: embedded, blocks.N, norm; default: all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    layers: Vec<String>,
    /// Images a forward pass; the minibatch of the minibatch estimator
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_most::<4096>)]
    batch: usize,
    /// Share of the short side that the crop in the middle keeps
    #[arg(long, value_name = "SHARE", default_value = "0.875")]
    crop: f64,
    /// Resize the whole image instead, whatever its aspect ratio
    #[arg(long, conflicts_with = "crop")]
    stretch: bool,
    /// Labelled images to fit a linear probe a layer on, which the labelled --data test
    #[arg(long, value_name = "DIR")]
    probe_train: Option<Images>,
    /// Strength of the probes' ridge, for features of variance 1
    #[arg(long, default_value = "0.01")]
    ridge: f64,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

impl SimilarityArgs {
    /// What the analysis needs.
    pub fn options(&self, device: Device) -> Result<SimilarityOptions, Error> {
        for (option, values) in [("--key", &self.key), ("--model", &self.model), ("--set", &self.sets)] {
            if let Some((label, _)) = values.iter().find(|(label, _)| self.weights.iter().all(|(known, _)| known != label)) {
                return Err(Error::Usage(format!("{option} {label}=…: no --weights {label}=FILE")));
            }
        }
        Ok(SimilarityOptions {
            models: self.weights.iter().map(|(label, file)| (label.clone(), self.asked(label, file))).collect(),
            data: self.data.clone(),
            images: self.images,
            seed: self.seed,
            rows: match self.rows {
                RowsArg::Mean => RowsOf::Mean,
                RowsArg::Cls => RowsOf::Cls,
                RowsArg::Tokens => RowsOf::Tokens,
            },
            estimator: match self.estimator {
                EstimatorArg::Exact => Estimator::Exact,
                EstimatorArg::Minibatch => Estimator::Minibatch,
            },
            layers: self.layers.clone(),
            batch: self.batch,
            fitting: if self.stretch { Fitting::Stretch } else { Fitting::Crop(self.crop) },
            probe: self.probe_train.clone(),
            ridge: self.ridge,
            device,
        })
    }

    fn asked(&self, label: &str, file: &str) -> Asked {
        let of = |values: &[(String, String)]| values.iter().filter(|(l, _)| l == label).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        Asked {
            file: file.into(),
            key: of(&self.key).pop(),
            model: of(&self.model).pop(),
            sets: of(&self.sets),
            img_size: None,
            allow: Allow { names: self.allow.clone(), interpolate: false },
            normalise: None,
        }
    }

    /// The folder of results.
    pub fn out(&self) -> PathBuf {
        self.out.clone()
    }

    /// May what is there be replaced?
    pub fn force(&self) -> bool {
        self.force
    }
}
