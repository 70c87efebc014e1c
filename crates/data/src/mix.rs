//! Mixup and CutMix of a whole batch, with label smoothing folded into the soft targets (timm's batch mode).
//!
//! Sample `i` is mixed with sample `B - 1 - i`; one lambda and one rectangle serve the batch. They depend on the run's seed, the epoch
//! and the batch's first global sample position only, so that they survive a resume.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result, check_length, check_setting};
use crate::random::{Purpose, Stream};
use crate::resize::Region;
use crate::schema::below_one;

/// The settings of [`Mix`]. An alpha of 0 turns that kind of mixing off; with both at 0 only label smoothing remains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// Lambda of a mixup is drawn from Beta(alpha, alpha).
    #[schemars(range(min = 0.0))]
    pub mixup_alpha: f64,
    /// The same for CutMix.
    #[schemars(range(min = 0.0))]
    pub cutmix_alpha: f64,
    /// Probability that a batch is mixed at all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub prob: f64,
    /// Probability of CutMix where both are on.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub switch_prob: f64,
    /// The share of a target spread evenly over all classes, in [0, 1).
    #[schemars(range(min = 0.0), transform = below_one)]
    pub label_smoothing: f64,
}

/// What names a batch: all that its mixing depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MixKey {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch's first position in the epoch's global order of samples.
    pub first: u64,
}

/// What happened to a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// The share of a sample's own label, 1 if nothing was mixed. After CutMix it is the share of its own pixels.
    pub lambda: f32,
    /// The rectangle exchanged by CutMix; none for mixup.
    pub cut: Option<Region>,
}

/// A checked [`MixConfig`].
#[derive(Clone, Debug)]
pub struct Mix {
    config: MixConfig,
}

impl Mix {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Config`] for one outside of its range.
    pub fn new(config: MixConfig) -> Result<Self> {
        for (key, alpha) in [("mixup_alpha", config.mixup_alpha), ("cutmix_alpha", config.cutmix_alpha)] {
            check_setting(alpha >= 0.0 && alpha.is_finite(), key, "0 or more", alpha)?;
        }
        for (key, p) in [("prob", config.prob), ("switch_prob", config.switch_prob)] {
            check_setting((0.0..=1.0).contains(&p), key, "a probability", p)?;
        }
        let smoothing = config.label_smoothing;
        check_setting((0.0..1.0).contains(&smoothing), "label_smoothing", "at least 0, less than 1", smoothing)?;
        Ok(Self { config })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &MixConfig {
        &self.config
    }

    /// Mixes `images` of shape `[B, C, H, W]` in place and writes their soft targets, `[B, classes]`; each row sums to 1.
    /// Several views of one batch are mixed one by one: with equal keys they get equal lambdas and rectangles.
    ///
    /// # Errors
    /// [`DataError::Shape`] for a buffer of the wrong length, [`DataError::Label`] for a label not below `classes`.
    pub fn mix(
        &self,
        images: &mut [f32],
        [batch, channels, height, width]: [usize; 4],
        labels: &[u32],
        classes: usize,
        key: MixKey,
        targets: &mut [f32],
    ) -> Result<Mixed> {
        let values = [batch, channels, height, width].into_iter().try_fold(1usize, usize::checked_mul);
        check_length("values of the batch to mix", values.unwrap_or(usize::MAX), images.len())?;
        check_length("labels of the batch to mix", batch, labels.len())?;
        check_length("soft targets", batch.saturating_mul(classes), targets.len())?;
        if let Some(index) = labels.iter().position(|&label| label as usize >= classes) {
            return Err(DataError::Label { file: "batch to mix".into(), index, expected: classes, found: labels[index] });
        }
        let mixed = self.draw([height, width], key);
        if mixed.lambda < 1.0 && !images.is_empty() {
            blend(images, images.len() / batch, [height, width], mixed);
        }
        self.soft_targets(labels, classes, mixed.lambda, targets);
        Ok(mixed)
    }

    fn draw(&self, [height, width]: [usize; 2], key: MixKey) -> Mixed {
        let config = &self.config;
        let mut stream = Stream::new(key.seed, Purpose::Mix, [key.epoch, 0], key.first);
        let (mixup, cutmix) = (config.mixup_alpha > 0.0, config.cutmix_alpha > 0.0);
        if !(mixup || cutmix) || !stream.chance(config.prob) {
            return Mixed { lambda: 1.0, cut: None };
        }
        if !cutmix || (mixup && !stream.chance(config.switch_prob)) {
            return Mixed { lambda: stream.beta(config.mixup_alpha) as f32, cut: None };
        }
        let lambda = stream.beta(config.cutmix_alpha);
        let side = |len: usize, stream: &mut Stream| {
            let (half, centre) = ((len as f64 * (1.0 - lambda).sqrt()) as usize / 2, stream.below(len));
            (centre.saturating_sub(half), (centre + half).min(len))
        };
        let ((top, bottom), (left, right)) = (side(height, &mut stream), side(width, &mut stream));
        let cut = Region { top, left, height: bottom - top, width: right - left };
        // Rounding and clipping at the border changed the area: the labels follow the pixels.
        let share = (cut.height * cut.width) as f64 / (height * width).max(1) as f64;
        Mixed { lambda: (1.0 - share) as f32, cut: Some(cut) }
    }

    fn soft_targets(&self, labels: &[u32], classes: usize, lambda: f32, targets: &mut [f32]) {
        let smoothing = self.config.label_smoothing as f32;
        let off = smoothing / classes as f32;
        targets.fill(off);
        let rows = targets.chunks_exact_mut(classes.max(1));
        for (row, (&own, &partner)) in rows.zip(labels.iter().zip(labels.iter().rev())) {
            row[own as usize] += (1.0 - smoothing) * lambda;
            row[partner as usize] += (1.0 - smoothing) * (1.0 - lambda);
        }
    }
}

/// Mixes each sample of `size` values with its mirror image in the batch, both at once.
fn blend(images: &mut [f32], size: usize, [height, width]: [usize; 2], mixed: Mixed) {
    let batch = images.len() / size;
    // The middle sample of an odd batch is its own partner.
    let (front, back) = images.split_at_mut(batch.div_ceil(2) * size);
    for (a, b) in front.chunks_exact_mut(size).zip(back.chunks_exact_mut(size).rev()) {
        match mixed.cut {
            Some(cut) => {
                for plane in 0..size / (height * width) {
                    for y in cut.top..cut.top + cut.height {
                        let start = (plane * height + y) * width + cut.left;
                        a[start..start + cut.width].swap_with_slice(&mut b[start..start + cut.width]);
                    }
                }
            }
            None => {
                let (own, other) = (mixed.lambda, 1.0 - mixed.lambda);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a * own + *b * other, *b * own + *a * other);
                }
            }
        }
    }
}
