//! How a teacher comes to be: with labels, by DINO, by masked autoencoding, or from captions.

use fd_model::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::contrast::Contrast;
use crate::dino::Dino;
use crate::masked::Masked;
use crate::recipe::{Recipe, Supervised};

/// A way of pretraining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pretrain {
    /// On the labels of the training images; the classifier stays behind.
    Supervised {
        /// Views, optimiser, mixing.
        train: Supervised,
    },
    /// By DINO; its head stays behind.
    Dino {
        /// Crops, targets, optimiser.
        train: Dino,
    },
    /// By masked autoencoding (MAE); its decoder stays behind.
    Mae {
        /// Masking, decoder, optimiser.
        train: Masked,
    },
    /// By contrast with captions made of the classes' names (CLIP); the text encoder stays behind.
    Clip {
        /// Captions, text encoder, optimiser.
        train: Contrast,
    },
}

impl Pretrain {
    /// The optimiser's numbers.
    pub fn recipe(&self) -> &Recipe {
        match self {
            Pretrain::Supervised { train } => &train.recipe,
            Pretrain::Dino { train } => &train.recipe,
            Pretrain::Mae { train } => &train.recipe,
            Pretrain::Clip { train } => &train.recipe,
        }
    }

    /// The same for another number of epochs; the warm-up keeps its share.
    pub fn lasting(&self, epochs: usize) -> Pretrain {
        let mut other = self.clone();
        let recipe = match &mut other {
            Pretrain::Supervised { train } => &mut train.recipe,
            Pretrain::Dino { train } => &mut train.recipe,
            Pretrain::Mae { train } => &mut train.recipe,
            Pretrain::Clip { train } => &mut train.recipe,
        };
        recipe.warmup_epochs *= epochs as f64 / recipe.epochs as f64;
        recipe.epochs = epochs;
        other
    }

    /// Refuses impossible numbers; the message names the key under `at`.
    pub fn check(&self, at: &str, model: &ModelConfig, samples: usize) -> Result<(), Error> {
        let at = format!("{at}.train");
        match self {
            Pretrain::Supervised { train } if !(0.0..1.0).contains(&train.drop_path_rate) => {
                Err(Error::Usage(format!("{at}.drop_path_rate: {} is not in 0..1", train.drop_path_rate)))
            }
            Pretrain::Supervised { train } => train.recipe.check(&at, samples),
            Pretrain::Dino { train } => train.check(&at, model, samples),
            Pretrain::Mae { train } => train.check(&at, model, samples),
            Pretrain::Clip { train } => train.check(&at, model, samples),
        }
    }
}
