//! From an 8-bit image to normalised floats: geometry, flip, RandAugment, photometric changes, normalisation, random erasing, in that
//! order.
//!
//! What a sample turns into depends on its [`SampleKey`] and nothing else: not on the batch it lies in, the thread that makes it or
//! what was drawn before. The random resized crop follows torchvision, random erasing follows timm (pixel mode).

use serde::{Deserialize, Serialize};

use crate::blur::GaussianBlur;
use crate::error::{DataError, Result, check_length, check_setting};
use crate::photometric::Photometric;
use crate::rand_augment::RandAugment;
use crate::random::{SampleKey, Stream};
use crate::resize::{Interpolation, MAX_SIDE, Region, Resample, Resizer};
use crate::source::Image8;

/// The aspect ratios (width / height) of a random resized crop where a configuration states none: 3/4 to 4/3, as in the paper's code.
pub const DEFAULT_RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// Attempts of a random resized crop and of random erasing before they fall back or give up.
const TRIES: usize = 10;
/// Share of the image that random erasing covers.
const ERASED_AREA: [f64; 2] = [0.02, 1.0 / 3.0];
/// Bounds of the log of an erased rectangle's aspect ratio (height / width): 0.3 to 1/0.3.
const ERASED_LOG_RATIO: f64 = 1.203_972_804_325_936;

/// How an image becomes one of a fixed size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Geometry {
    /// A crop of random area and aspect ratio, resized.
    RandomResizedCrop {
        /// `[height, width]` of the result.
        size: [usize; 2],
        /// Least and greatest share of the image's area, in (0, 1].
        scale: [f64; 2],
        /// Least and greatest aspect ratio (width / height); [`DEFAULT_RATIO`] if not stated.
        #[serde(default = "default_ratio")]
        ratio: [f64; 2],
        /// The filter.
        interpolation: Interpolation,
    },
    /// Evaluation: the short side resized to `resize`, then the centre cut out.
    CentreCrop {
        /// The short side after resizing, in pixels, at least the larger of `size`.
        resize: usize,
        /// `[height, width]` of the result.
        size: [usize; 2],
        /// The filter.
        interpolation: Interpolation,
    },
    /// Everything resized, whatever the aspect ratio.
    Resize {
        /// `[height, width]` of the result.
        size: [usize; 2],
        /// The filter.
        interpolation: Interpolation,
    },
}

fn default_ratio() -> [f64; 2] {
    DEFAULT_RATIO
}

impl Geometry {
    /// `[height, width]` of the result.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        match *self {
            Self::RandomResizedCrop { size, .. } | Self::CentreCrop { size, .. } | Self::Resize { size, .. } => size,
        }
    }

    fn check(&self) -> Result<()> {
        for side in self.size() {
            check_setting((1..=MAX_SIDE).contains(&side), "size", "1 to 65536 pixels", self.size())?;
        }
        match *self {
            Self::RandomResizedCrop { scale, ratio, .. } => {
                check_setting(0.0 < scale[0] && scale[0] <= scale[1] && scale[1] <= 1.0, "scale", "0 < min <= max <= 1", scale)?;
                let ok = 0.0 < ratio[0] && ratio[0] <= ratio[1] && ratio[1].is_finite();
                check_setting(ok, "ratio", "0 < min <= max", ratio)
            }
            Self::CentreCrop { resize, size, .. } => {
                let ok = (size[0].max(size[1])..=MAX_SIDE).contains(&resize);
                check_setting(ok, "resize", "at least the larger side of size, at most 65536", resize)
            }
            Self::Resize { .. } => Ok(()),
        }
    }

    /// What to do with an image of `[height, width]`.
    fn plan(&self, image: [usize; 2], stream: &mut Stream) -> Resample {
        match *self {
            Self::RandomResizedCrop { size, scale, ratio, interpolation } => {
                Resample::new(random_crop(image, scale, ratio, stream), size, interpolation)
            }
            Self::CentreCrop { resize, size, interpolation } => Resample::short_side_centre_crop(image, resize, size, interpolation),
            Self::Resize { size, interpolation } => Resample::new(Region::whole(image), size, interpolation),
        }
    }
}

/// torchvision's choice of a crop: area and log aspect ratio uniform, up to ten tries to fit it, else the largest central crop whose
/// ratio is allowed.
fn random_crop([height, width]: [usize; 2], scale: [f64; 2], ratio: [f64; 2], stream: &mut Stream) -> Region {
    let area = height as f64 * width as f64;
    let log_ratio = ratio.map(libm::log);
    for _ in 0..TRIES {
        let target = area * stream.between(scale);
        let aspect = libm::exp(stream.between(log_ratio));
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return Region { top, left, height: h, width: w };
        }
    }
    let found = width as f64 / height as f64;
    let (mut h, mut w) = (height, width);
    if found < ratio[0] {
        h = ((width as f64 / ratio[0]).round_ties_even() as usize).clamp(1, height);
    } else if found > ratio[1] {
        w = ((height as f64 * ratio[1]).round_ties_even() as usize).clamp(1, width);
    }
    Region { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

/// Mean and standard deviation of each channel, of pixel values scaled to 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Subtracted, one value a channel.
    pub mean: Vec<f32>,
    /// Divided by, one value a channel.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// ImageNet's RGB statistics, which most pretrained models expect.
    #[must_use]
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// The RGB statistics CLIP was trained with.
    #[must_use]
    pub fn clip() -> Self {
        Self { mean: vec![0.481_454_66, 0.457_827_5, 0.408_210_73], std: vec![0.268_629_54, 0.261_302_6, 0.275_777_1] }
    }

    /// Fashion-MNIST's grey statistics.
    #[must_use]
    pub fn fashion_mnist() -> Self {
        Self { mean: vec![0.286], std: vec![0.353] }
    }

    fn check(&self) -> Result<()> {
        let channels = self.mean.len();
        check_setting((1..=4).contains(&channels), "mean", "1 to 4 values, one a channel", &self.mean)?;
        check_setting(self.mean.iter().all(|m| m.is_finite()), "mean", "finite values", &self.mean)?;
        let ok = self.std.len() == channels && self.std.iter().all(|&s| s > 0.0 && s.is_finite());
        check_setting(ok, "std", "positive values, as many as in mean", &self.std)
    }

    /// The normalised value of each pixel value, channel by channel: in f32, operation by operation as torch's `ToTensor` and
    /// `Normalize`.
    fn table(&self) -> Vec<[f32; 256]> {
        let value = |v: usize, mean: f32, std: f32| (v as f32 / 255.0 - mean) / std;
        self.mean.iter().zip(&self.std).map(|(&mean, &std)| std::array::from_fn(|v| value(v, mean, std))).collect()
    }
}

/// The settings of an augmentation or of an evaluation transform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// How the image gets its size.
    pub geometry: Geometry,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// RandAugment: a few of fifteen operations of colour and geometry; none if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
    /// Changes of colour and sharpness; none if not stated.
    #[serde(default, skip_serializing_if = "Photometric::is_none")]
    pub photometric: Photometric,
    /// Probability of erasing a random rectangle (normal noise in each value, 2 % to a third of the area).
    pub erase: f64,
    /// Normalisation; its length is the number of channels.
    pub normalise: Normalisation,
}

/// A checked [`AugmentConfig`], ready to be applied.
#[derive(Clone, Debug)]
pub struct Augment {
    config: AugmentConfig,
    table: Vec<[f32; 256]>,
    /// The pixel that normalisation takes to 0, as nearly as 8 bits allow.
    mean: Vec<u8>,
}

/// Buffers that one thread uses again from image to image.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    resizer: Resizer,
    pixels: Vec<u8>,
    before: Vec<u8>,
    gaussian: GaussianBlur,
}

impl Augment {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Config`] for one outside of its range.
    pub fn new(config: AugmentConfig) -> Result<Self> {
        config.geometry.check()?;
        config.normalise.check()?;
        let channels = config.normalise.mean.len();
        config.photometric.check(channels)?;
        config.rand_augment.as_ref().map_or(Ok(()), |rand_augment| rand_augment.check(channels))?;
        for (key, p) in [("flip", config.flip), ("erase", config.erase)] {
            check_setting((0.0..=1.0).contains(&p), key, "a probability", p)?;
        }
        let table = config.normalise.table();
        let mean = config.normalise.mean.iter().map(|&mean| (255.0 * f64::from(mean)).round_ties_even() as u8).collect();
        Ok(Self { config, table, mean })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &AugmentConfig {
        &self.config
    }

    /// `[channels, height, width]` of the result.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        let [height, width] = self.config.geometry.size();
        [self.table.len(), height, width]
    }

    /// Writes the sample's view into `out`: `channels * height * width` floats (CHW), normalised.
    ///
    /// # Errors
    /// [`DataError::Channels`] if the image has other channels than the normalisation, [`DataError::Shape`] if `out` or the image's
    /// data have the wrong length.
    pub fn apply(&self, image: &Image8<'_>, key: SampleKey, scratch: &mut Scratch, out: &mut [f32]) -> Result<()> {
        let [channels, height, width] = self.shape();
        check_length("augmented values", channels * height * width, out.len())?;
        if image.channels != channels {
            return Err(DataError::Channels { file: "augmentation".into(), expected: channels, found: image.channels });
        }
        image.check()?;
        let mut stream = Stream::of_sample(key);
        let resample = self.config.geometry.plan([image.height, image.width], &mut stream);
        resample.check(image)?;
        let flip = stream.chance(self.config.flip);
        let AugmentConfig { rand_augment, photometric, .. } = &self.config;
        match resample.unscaled() {
            Some(kept) if photometric.is_none() && rand_augment.is_none() => self.write(&image.data, image.width, kept, flip, out),
            _ => {
                let Scratch { resizer, pixels, before, gaussian } = scratch;
                pixels.resize(out.len(), 0);
                resizer.resize(image, &resample, pixels)?;
                // The flip is due here, but makes no difference to photometric changes and costs nothing in `write`.
                let mirrored = flip && rand_augment.is_some();
                if mirrored {
                    mirror(pixels, self.shape());
                }
                if let Some(rand_augment) = rand_augment {
                    rand_augment.apply(pixels, self.shape(), &self.mean, &mut stream, before);
                }
                photometric.apply(pixels, self.shape(), &mut stream, gaussian);
                self.write(pixels, width, Region::whole([height, width]), flip && !mirrored, out);
            }
        }
        if stream.chance(self.config.erase) {
            erase(out, self.shape(), &mut stream);
        }
        Ok(())
    }

    /// Normalises the `kept` region of HWC pixels with rows of `row` pixels into CHW floats, mirrored if `flip`.
    fn write(&self, pixels: &[u8], row: usize, kept: Region, flip: bool, out: &mut [f32]) {
        let channels = self.table.len();
        for (c, (table, plane)) in self.table.iter().zip(out.chunks_exact_mut(kept.height * kept.width)).enumerate() {
            for (y, line) in plane.chunks_exact_mut(kept.width).enumerate() {
                let start = ((kept.top + y) * row + kept.left) * channels;
                let values = pixels[start..start + kept.width * channels].iter().skip(c).step_by(channels);
                let values = values.map(|&v| table[usize::from(v)]);
                if flip {
                    line.iter_mut().rev().zip(values).for_each(|(out, v)| *out = v);
                } else {
                    line.iter_mut().zip(values).for_each(|(out, v)| *out = v);
                }
            }
        }
    }
}

/// Mirrors the rows of interleaved (HWC) pixels.
fn mirror(pixels: &mut [u8], [channels, _, width]: [usize; 3]) {
    for row in pixels.chunks_exact_mut(width * channels) {
        // Reversing all values reverses each pixel's, too.
        row.reverse();
        row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
    }
}

/// Replaces a random rectangle of a normalised CHW image by standard normal noise; an image too small for one stays as it is.
fn erase(out: &mut [f32], [_, height, width]: [usize; 3], stream: &mut Stream) {
    for _ in 0..TRIES {
        let target = height as f64 * width as f64 * stream.between(ERASED_AREA);
        let aspect = libm::exp(stream.between([-ERASED_LOG_RATIO, ERASED_LOG_RATIO]));
        let h = (target * aspect).sqrt().round_ties_even() as usize;
        let w = (target / aspect).sqrt().round_ties_even() as usize;
        if h < height && w < width {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            for (_, row) in out.chunks_exact_mut(width).enumerate().filter(|(y, _)| (top..top + h).contains(&(y % height))) {
                for pair in row[left..left + w].chunks_mut(2) {
                    pair.iter_mut().zip(stream.normals()).for_each(|(out, noise)| *out = noise as f32);
                }
            }
            return;
        }
    }
}
