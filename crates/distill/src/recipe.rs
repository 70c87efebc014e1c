//! What a configuration says about a stage: views of the images, the optimiser's numbers. Nothing here has a hidden default.

use fd_data::schema::{above_zero, below_one};
use fd_data::{Augment, AugmentConfig, Geometry, Interpolation, MixConfig, Photometric, RandAugment};
pub use fd_model::Statistics as Normalise;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// How training images are augmented: crop, flip, RandAugment, photometric changes, erase. The paper's fine-tuning (section 3 of its
/// recipe), as timm builds it, for example; its colour jitter of 0.4 is what timm leaves out beside RandAugment:
///
/// ```toml
/// [fine_tune.train.views]
/// crop_scale = [0.08, 1.0]
/// crop_ratio = [0.75, 1.3333333333333333]
/// interpolation = "bicubic"
/// flip = 0.5
/// erase = 0.25
/// rand_augment = { layers = 2, magnitude = 9.0, magnitude_std = 0.5, prob = 0.5, interpolation = "bicubic" }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Least and greatest share of the image's area that a random resized crop takes; [1, 1] takes all of it.
    #[schemars(inner(range(max = 1.0)), transform = above_zero)]
    pub crop_scale: [f64; 2],
    /// Least and greatest aspect ratio of the crop.
    #[schemars(transform = above_zero)]
    pub crop_ratio: [f64; 2],
    /// The filter that resizes it. The official distillation code resizes bilinearly.
    pub interpolation: Interpolation,
    /// Probability of a horizontal flip.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub flip: f64,
    /// Probability of random erasing (normal noise in each value of a rectangle, 2 % to a third of the area).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub erase: f64,
    /// RandAugment: a few of fifteen operations of colour and geometry; none if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub rand_augment: Option<RandAugment>,
    /// Colour jitter, grayscale, blur, solarisation; nothing if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub photometric: Option<Photometric>,
}

impl Views {
    /// The augmentation for images of `size` (height, width).
    pub fn augment(&self, size: (usize, usize), normalise: &Normalise) -> Result<Augment, Error> {
        let whole = self.crop_scale == [1.0, 1.0];
        let (size, interpolation) = ([size.0, size.1], self.interpolation);
        let geometry = if whole {
            Geometry::Resize { size, interpolation }
        } else {
            Geometry::RandomResizedCrop { size, scale: self.crop_scale, ratio: self.crop_ratio, interpolation }
        };
        build(geometry, self, normalise)
    }
}

/// The evaluation's view: the whole image at `size`, with the same normalisation as in training (the official code's differs).
pub fn plain_view(size: (usize, usize), normalise: &Normalise) -> Result<Augment, Error> {
    unchanged(Geometry::Resize { size: [size.0, size.1], interpolation: Interpolation::Bicubic }, normalise)
}

/// The evaluation's view on ImageNet: the short side resized so that `size` is a share `crop` of it, then the middle cut out.
pub fn central_view(size: (usize, usize), crop: f64, normalise: &Normalise) -> Result<Augment, Error> {
    // Rounded down, as the official code does.
    let resize = (size.0.max(size.1) as f64 / crop) as usize;
    unchanged(Geometry::CentreCrop { resize, size: [size.0, size.1], interpolation: Interpolation::Bicubic }, normalise)
}

fn unchanged(geometry: Geometry, normalise: &Normalise) -> Result<Augment, Error> {
    let interpolation = Interpolation::Bicubic;
    let plain =
        Views { crop_scale: [1.0; 2], crop_ratio: [1.0; 2], interpolation, flip: 0.0, erase: 0.0, rand_augment: None, photometric: None };
    build(geometry, &plain, normalise)
}

fn build(geometry: Geometry, views: &Views, normalise: &Normalise) -> Result<Augment, Error> {
    let normalise = fd_data::Normalisation { mean: normalise.mean.clone(), std: normalise.std.clone() };
    let (rand_augment, photometric) = (views.rand_augment.clone(), views.photometric.clone().unwrap_or_default());
    Ok(Augment::new(AugmentConfig { geometry, flip: views.flip, erase: views.erase, rand_augment, photometric, normalise })?)
}

/// (factor, term) that take a channel from one (mean, standard deviation) to another.
pub fn renormalise((mean, std): (f64, f64), (to_mean, to_std): (f64, f64)) -> (f64, f64) {
    (std / to_std, (mean - to_mean) / to_std)
}

/// Most epochs of a stage.
pub(crate) const MOST_EPOCHS: usize = 1_000_000;

/// The optimiser's numbers and its length: AdamW, cosine with linear warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Epochs of linear warm-up; fractions are allowed.
    #[schemars(range(min = 0.0))]
    pub warmup_epochs: f64,
    /// Images a step.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Micro-batches a step: gradients of batch / accumulate images each are averaged.
    #[schemars(range(min = 1))]
    pub accumulate: usize,
    /// Peak learning rate, for this batch (the paper states rates for 512 images: base x batch / 512).
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Learning rate at the start of the warm-up.
    #[schemars(range(min = 0.0))]
    pub warmup_lr: f64,
    /// Learning rate at the end.
    #[schemars(range(min = 0.0))]
    pub min_lr: f64,
    /// Decoupled weight decay of matrices.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Factor on the learning rate from each layer to the one below; 1: none.
    #[schemars(range(max = 1.0), transform = above_zero)]
    pub layer_decay: f64,
    /// AdamW's running-mean factors.
    #[schemars(inner(range(min = 0.0)), transform = below_one)]
    pub betas: [f64; 2],
    /// Largest norm of a step's gradient; 0: no clipping.
    #[schemars(range(min = 0.0))]
    pub clip_grad: f64,
    /// Steps of the stage that may be skipped because loss or gradient is not finite; one more stops it.
    pub skip_nonfinite: usize,
}

impl Recipe {
    /// Refuses impossible numbers; the message names the key under `stage`.
    pub fn check(&self, stage: &str, samples: usize) -> Result<(), Error> {
        let refuse = |key: &str, why: String| Err(Error::Usage(format!("{stage}.recipe.{key}: {why}")));
        if !(1..=MOST_EPOCHS).contains(&self.epochs) {
            return refuse("epochs", format!("{} is not from 1 to {MOST_EPOCHS}", self.epochs));
        }
        if self.batch == 0 || self.batch > samples {
            return refuse("batch", format!("{} does not fit {samples} training images", self.batch));
        }
        if self.accumulate == 0 || !self.batch.is_multiple_of(self.accumulate) {
            return refuse("accumulate", format!("{} does not divide a batch of {}", self.accumulate, self.batch));
        }
        for (key, value) in [("lr", self.lr), ("warmup_lr", self.warmup_lr), ("min_lr", self.min_lr), ("weight_decay", self.weight_decay)] {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(key, format!("{value} must not be negative"));
            }
        }
        if !(0.0..self.epochs as f64 + 1e-9).contains(&self.warmup_epochs) {
            return refuse("warmup_epochs", format!("{} is not within {} epochs", self.warmup_epochs, self.epochs));
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            return refuse("layer_decay", format!("{} is not in 0..1", self.layer_decay));
        }
        if self.betas.iter().any(|b| !(0.0..1.0).contains(b)) {
            return refuse("betas", format!("{:?} are not in 0..1", self.betas));
        }
        if !(self.clip_grad >= 0.0 && self.clip_grad.is_finite()) {
            return refuse("clip_grad", format!("{} must not be negative", self.clip_grad));
        }
        Ok(())
    }
}

/// A stage that trains on labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Supervised {
    /// The optimiser's numbers.
    pub recipe: Recipe,
    /// The views.
    pub views: Views,
    /// Mixup, CutMix and label smoothing.
    pub mix: MixConfig,
    /// Drop path of the last block.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub drop_path_rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_evaluation_is_the_share_that_is_asked_for() {
        let normalise = Normalise { mean: vec![0.5; 3], std: vec![0.5; 3] };
        let resize = |side: usize, crop| match central_view((side, side), crop, &normalise).unwrap().config().geometry {
            Geometry::CentreCrop { resize, size, .. } => (resize, size),
            ref other => panic!("{other:?}"),
        };
        for (side, short) in [(224, 256), (336, 384), (192, 219)] {
            assert_eq!(resize(side, 0.875), (short, [side, side]));
        }
        assert_eq!(resize(28, 1.0), (28, [28, 28]));
    }
}
