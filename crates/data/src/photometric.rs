//! Changes of colour and sharpness, in the order of DINO's augmentation: colour jitter, grayscale, Gaussian blur, solarisation.
//!
//! They work on 8-bit pixels between the crop and normalisation. Parameters are drawn as torchvision's transforms of the same names
//! draw theirs, from the sample's own stream; a change that is not configured draws nothing, one that does nothing to a grey image
//! draws all the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blur::GaussianBlur;
use crate::colour;
use crate::error::{Result, check_setting};
use crate::random::Stream;
use crate::schema::above_zero;

/// The largest standard deviation of a blur, in pixels: far beyond any use, it bounds the work.
const MAX_SIGMA: f64 = 1000.0;

/// Random photometric changes of a view; the default is none. They need images of 1 (grey) or 3 (RGB) channels. In TOML, for example:
///
/// ```toml
/// photometric.jitter = { prob = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.2, hue = 0.1 }
/// photometric.grayscale = 0.2
/// photometric.blur = { prob = 0.5, sigma = [0.1, 2.0] }
/// photometric.solarise = { prob = 0.2, threshold = 128 }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Photometric {
    /// Colour jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub jitter: Option<Jitter>,
    /// Probability of becoming grey (in three equal channels); 0: never. A grey image stays what it is.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub grayscale: f64,
    /// Gaussian blur.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub blur: Option<Blur>,
    /// Inversion of bright values.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub solarise: Option<Solarise>,
}

/// Colour jitter: up to four changes in random order, each by its own random factor. A strength of 0 leaves that change out; grey
/// images have neither saturation nor hue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Probability of the whole.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub prob: f64,
    /// b: pixels are multiplied by a factor in [max(0, 1 - b), 1 + b].
    #[schemars(range(min = 0.0))]
    pub brightness: f64,
    /// c: the distance from the image's mean grey is multiplied by a factor in [max(0, 1 - c), 1 + c].
    #[schemars(range(min = 0.0))]
    pub contrast: f64,
    /// s: the distance from a pixel's own grey is multiplied by a factor in [max(0, 1 - s), 1 + s].
    #[schemars(range(min = 0.0))]
    pub saturation: f64,
    /// h, at most 0.5: the hue moves by [-h, h] turns.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub hue: f64,
}

/// Gaussian blur: the Gaussian itself, cut off at three standard deviations, edges repeated. (Pillow's is an approximation by boxes.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub prob: f64,
    /// Least and greatest standard deviation, in pixels of the view.
    #[schemars(inner(range(max = MAX_SIGMA)), transform = above_zero)]
    pub sigma: [f64; 2],
}

/// Solarisation: values that reach the threshold are inverted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Solarise {
    /// Probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub prob: f64,
    /// The least value that is inverted.
    pub threshold: u8,
}

impl Photometric {
    /// Whether no change is configured.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses settings out of range, and any at all for images that are neither grey nor RGB.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        check_setting(self.is_none() || [1, 3].contains(&channels), "photometric", "images of 1 or 3 channels", channels)?;
        let (jitter, blur, solarise) = (self.jitter.as_ref(), self.blur.as_ref(), self.solarise.as_ref());
        for (key, p) in [
            ("photometric.jitter.prob", jitter.map(|j| j.prob)),
            ("photometric.grayscale", Some(self.grayscale)),
            ("photometric.blur.prob", blur.map(|b| b.prob)),
            ("photometric.solarise.prob", solarise.map(|s| s.prob)),
        ] {
            check_setting(p.is_none_or(|p| (0.0..=1.0).contains(&p)), key, "a probability", p.unwrap_or_default())?;
        }
        if let Some(jitter) = jitter {
            for (key, strength) in [
                ("photometric.jitter.brightness", jitter.brightness),
                ("photometric.jitter.contrast", jitter.contrast),
                ("photometric.jitter.saturation", jitter.saturation),
            ] {
                check_setting(strength >= 0.0 && strength.is_finite(), key, "0 or more", strength)?;
            }
            check_setting((0.0..=0.5).contains(&jitter.hue), "photometric.jitter.hue", "0 to 0.5", jitter.hue)?;
        }
        blur.map_or(Ok(()), |Blur { sigma, .. }| {
            let ok = 0.0 < sigma[0] && sigma[0] <= sigma[1] && sigma[1] <= MAX_SIGMA;
            check_setting(ok, "photometric.blur.sigma", "0 < min <= max <= 1000", sigma)
        })
    }

    /// Changes interleaved (HWC) pixels of an image of `shape` = `[channels, height, width]` in place. Mirroring the image before or
    /// after makes no difference.
    pub(crate) fn apply(&self, pixels: &mut [u8], shape: [usize; 3], stream: &mut Stream, gaussian: &mut GaussianBlur) {
        let channels = shape[0];
        if let Some(jitter) = self.jitter.as_ref().filter(|j| stream.chance(j.prob)) {
            jitter.draw(stream).into_iter().for_each(|change| change.apply(pixels, channels));
        }
        if self.grayscale > 0.0 && stream.chance(self.grayscale) && channels == 3 {
            colour::grayscale(pixels);
        }
        if let Some(blur) = self.blur.as_ref().filter(|b| stream.chance(b.prob)) {
            gaussian.apply(pixels, shape, stream.between(blur.sigma));
        }
        if let Some(solarise) = self.solarise.as_ref().filter(|s| stream.chance(s.prob)) {
            colour::solarise(pixels, solarise.threshold);
        }
    }
}

/// One change of a jitter with what was drawn for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    /// In turns; exactly 0 only if the hue is not to change.
    Hue(f64),
}

impl Jitter {
    /// The four changes in the order to apply them.
    fn draw(&self, stream: &mut Stream) -> [Change; 4] {
        let mut factor = |strength: f64| stream.between([(1.0 - strength).max(0.0), 1.0 + strength]);
        let (brightness, contrast, saturation) = (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let hue = stream.between([-self.hue, self.hue]);
        let mut changes = [Change::Brightness(brightness), Change::Contrast(contrast), Change::Saturation(saturation), Change::Hue(hue)];
        stream.shuffle(&mut changes);
        changes
    }
}

impl Change {
    fn apply(self, pixels: &mut [u8], channels: usize) {
        match self {
            Self::Brightness(factor) => colour::brightness(pixels, factor as f32),
            Self::Contrast(factor) => colour::contrast(pixels, channels, factor as f32),
            Self::Saturation(factor) if channels == 3 => colour::saturation(pixels, factor as f32),
            // The 8-bit shift is cut off towards 0, and a negative one wraps around.
            Self::Hue(turns) if channels == 3 && turns != 0.0 => colour::hue(pixels, (turns * 255.0) as i32 as u8),
            Self::Saturation(_) | Self::Hue(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SampleKey;

    fn stream(index: u64) -> Stream {
        Stream::of_sample(SampleKey { seed: 1, epoch: 2, index, view: 3 })
    }

    #[test]
    fn jitter_draws_uniform_factors_in_uniform_order() {
        let jitter = Jitter { prob: 1.0, brightness: 0.4, contrast: 0.2, saturation: 1.5, hue: 0.1 };
        let mut orders = std::collections::BTreeMap::new();
        let (mut factors, n) = ([const { Vec::new() }; 4], 12_000);
        for index in 0..n {
            let order = jitter.draw(&mut stream(index)).map(|change| {
                let (number, factor) = match change {
                    Change::Brightness(f) => (0, f),
                    Change::Contrast(f) => (1, f),
                    Change::Saturation(f) => (2, f),
                    Change::Hue(f) => (3, f),
                };
                factors[number].push(factor);
                number
            });
            *orders.entry(order).or_insert(0) += 1;
        }
        assert!(orders.len() == 24 && orders.values().all(|count| (400..600).contains(count)), "{orders:?}");
        for (drawn, [low, high]) in factors.iter().zip([[0.6, 1.4], [0.8, 1.2], [0.0, 2.5], [-0.1, 0.1]]) {
            let mean = drawn.iter().sum::<f64>() / n as f64;
            let variance = drawn.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n as f64;
            let width: f64 = high - low;
            assert!(drawn.iter().all(|f| (low..=high).contains(f)), "out of [{low}, {high}]");
            assert!((mean - (low + high) / 2.0).abs() < 0.01 * width, "mean {mean} of [{low}, {high}]");
            assert!((variance * 12.0 / (width * width) - 1.0).abs() < 0.03, "variance {variance} of [{low}, {high}]");
        }
    }

    #[test]
    fn without_strength_no_pixel_changes() {
        let jitter = Jitter { prob: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let photometric = Photometric { jitter: Some(jitter), ..Photometric::default() };
        let pixels: Vec<u8> = (0..=255).chain(0..224).collect();
        for index in 0..10 {
            let mut changed = pixels.clone();
            photometric.apply(&mut changed, [3, 10, 16], &mut stream(index), &mut GaussianBlur::default());
            assert_eq!(changed, pixels);
        }
    }

    /// The order of the four and the clipping between them: what the streams say, done by hand.
    #[test]
    fn changes_follow_each_other_as_drawn() {
        let jitter = Jitter { prob: 0.5, brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.5 };
        let (blur, solarise) = (Some(Blur { prob: 0.5, sigma: [0.4, 2.0] }), Some(Solarise { prob: 0.5, threshold: 100 }));
        let photometric = Photometric { jitter: Some(jitter.clone()), grayscale: 0.5, blur, solarise };
        let pixels: Vec<u8> = (0..90u32).map(|i| (i * i * 57 % 256) as u8).collect();
        for index in 0..200 {
            let (mut ours, mut by_hand, mut draws) = (pixels.clone(), pixels.clone(), stream(index));
            photometric.apply(&mut ours, [3, 5, 6], &mut stream(index), &mut GaussianBlur::default());
            if draws.uniform() < 0.5 {
                for change in jitter.draw(&mut draws) {
                    match change {
                        Change::Brightness(f) => colour::brightness(&mut by_hand, f as f32),
                        Change::Contrast(f) => colour::contrast(&mut by_hand, 3, f as f32),
                        Change::Saturation(f) => colour::saturation(&mut by_hand, f as f32),
                        Change::Hue(f) => colour::hue(&mut by_hand, ((f * 255.0).trunc() + 256.0) as u32 as u8),
                    }
                }
            }
            if draws.uniform() < 0.5 {
                colour::grayscale(&mut by_hand);
            }
            if draws.uniform() < 0.5 {
                GaussianBlur::default().apply(&mut by_hand, [3, 5, 6], 0.4 + 1.6 * draws.uniform());
            }
            if draws.uniform() < 0.5 {
                colour::solarise(&mut by_hand, 100);
            }
            assert_eq!(ours, by_hand, "sample {index}");
        }
    }
}
