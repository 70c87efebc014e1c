//! RandAugment (Cubuk et al., *RandAugment: Practical automated data augmentation*, 2020) as timm's `rand-m9-mstd0.5-inc1` does it,
//! which the paper fine-tunes with (section 3 of its recipe): a few of fifteen operations, whose strength grows with the magnitude.
//!
//! Levels are mapped to arguments as timm maps them and the operations have Pillow's arithmetic; `tools/augment_fixtures.py` wrote what
//! the tests compare with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, check_setting};
use crate::random::Stream;
use crate::resize::Interpolation;
use crate::{affine, colour, levels};

/// The largest magnitude.
const MAX_MAGNITUDE: f64 = 10.0;
/// The most operations an image: far beyond any use, it bounds the work.
const MAX_LAYERS: usize = 100;

/// The settings of RandAugment. Pixels that a rotation, shear or translation uncovers get the normalisation's mean. timm leaves out
/// colour jitter beside it; here both happen if both are stated. In TOML, for example, timm's `rand-m9-mstd0.5-inc1`:
///
/// ```toml
/// rand_augment = { layers = 2, magnitude = 9.0, magnitude_std = 0.5, prob = 0.5 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Operations drawn for each image, with replacement.
    #[schemars(range(min = 1, max = MAX_LAYERS))]
    pub layers: usize,
    /// Mean of an operation's magnitude, from 0 (the least) to 10.
    #[schemars(range(min = 0.0, max = MAX_MAGNITUDE))]
    pub magnitude: f64,
    /// Standard deviation of the magnitude, which is then cut off at 0 and 10.
    #[schemars(range(min = 0.0))]
    pub magnitude_std: f64,
    /// Probability that an operation drawn is applied.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub prob: f64,
    /// The filter of rotations, shears and translations; either at random if not stated. (timm takes that of the crop if it has one.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if)]
    pub interpolation: Option<Interpolation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    AutoContrast,
    Equalise,
    Invert,
    Rotate,
    Posterise,
    Solarise,
    SolariseAdd,
    Colour,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

const OPERATIONS: [Operation; 15] = {
    use Operation::*;
    [
        AutoContrast,
        Equalise,
        Invert,
        Rotate,
        Posterise,
        Solarise,
        SolariseAdd,
        Colour,
        Contrast,
        Brightness,
        Sharpness,
        ShearX,
        ShearY,
        TranslateX,
        TranslateY,
    ]
};

/// An operation with all that was drawn for it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    operation: Operation,
    /// 0 to 10.
    magnitude: f64,
    /// The other direction, where there are two.
    negative: bool,
    interpolation: Interpolation,
}

impl RandAugment {
    /// Refuses settings out of range, and images that are neither grey nor RGB.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        check_setting([1, 3].contains(&channels), "rand_augment", "images of 1 or 3 channels", channels)?;
        check_setting((1..=MAX_LAYERS).contains(&self.layers), "rand_augment.layers", "1 to 100", self.layers)?;
        check_setting((0.0..=MAX_MAGNITUDE).contains(&self.magnitude), "rand_augment.magnitude", "0 to 10", self.magnitude)?;
        let std = self.magnitude_std;
        check_setting(std >= 0.0 && std.is_finite(), "rand_augment.magnitude_std", "0 or more", std)?;
        check_setting((0.0..=1.0).contains(&self.prob), "rand_augment.prob", "a probability", self.prob)
    }

    /// Changes interleaved (HWC) pixels of an image of `shape` = `[channels, height, width]` in place; `before` is a buffer.
    pub(crate) fn apply(&self, pixels: &mut [u8], shape: [usize; 3], fill: &[u8], stream: &mut Stream, before: &mut Vec<u8>) {
        for _ in 0..self.layers {
            if let Some(change) = self.draw(stream) {
                change.apply(pixels, shape, fill, before);
            }
        }
    }

    /// The next operation; none if it is not to be applied.
    fn draw(&self, stream: &mut Stream) -> Option<Change> {
        let operation = OPERATIONS[stream.below(OPERATIONS.len())];
        if !stream.chance(self.prob) {
            return None;
        }
        let magnitude = (self.magnitude + self.magnitude_std * stream.normals()[0]).clamp(0.0, MAX_MAGNITUDE);
        let (negative, bicubic) = (stream.chance(0.5), stream.chance(0.5));
        let either = if bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
        Some(Change { operation, magnitude, negative, interpolation: self.interpolation.unwrap_or(either) })
    }
}

impl Change {
    fn apply(self, pixels: &mut [u8], shape: [usize; 3], fill: &[u8], before: &mut Vec<u8>) {
        let [channels, height, width] = shape;
        let level = self.magnitude / MAX_MAGNITUDE;
        let signed = |x: f64| if self.negative { -x } else { x };
        // 1 changes nothing; it is kept from 0, where the image would be gone.
        let factor = (1.0 + signed(level * 0.9)).max(0.1) as f32;
        let shear = signed(level * 0.3);
        let shift = signed(level * 0.45);
        let mut map = |matrix| affine::transform(pixels, shape, matrix, fill, self.interpolation, before);
        match self.operation {
            Operation::Rotate => map(affine::rotation(signed(level * 30.0), [height, width])),
            Operation::ShearX => map([1.0, shear, 0.0, 0.0, 1.0, 0.0]),
            Operation::ShearY => map([1.0, 0.0, 0.0, shear, 1.0, 0.0]),
            Operation::TranslateX => map([1.0, 0.0, shift * width as f64, 0.0, 1.0, 0.0]),
            Operation::TranslateY => map([1.0, 0.0, 0.0, 0.0, 1.0, shift * height as f64]),
            Operation::AutoContrast => levels::auto_contrast(pixels, channels),
            Operation::Equalise => levels::equalise(pixels, channels),
            Operation::Invert => levels::invert(pixels),
            Operation::Posterise => levels::posterise(pixels, 4 - (level * 4.0) as u32),
            Operation::Solarise => {
                // A threshold of 256 leaves everything.
                if let Ok(threshold) = u8::try_from(256 - (level * 256.0) as u32) {
                    colour::solarise(pixels, threshold);
                }
            }
            Operation::SolariseAdd => levels::solarise_add(pixels, (level * 110.0) as u8),
            Operation::Colour if channels == 3 => colour::saturation(pixels, factor),
            Operation::Colour => {}
            Operation::Contrast => colour::contrast(pixels, channels, factor),
            Operation::Brightness => colour::brightness(pixels, factor),
            Operation::Sharpness => colour::sharpness(pixels, shape, factor, before),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::random::SampleKey;

    const PAPER: RandAugment = RandAugment { layers: 2, magnitude: 9.0, magnitude_std: 0.5, prob: 0.5, interpolation: None };

    fn operation(name: &str) -> Operation {
        let names = [
            "AutoContrast",
            "Equalize",
            "Invert",
            "Rotate",
            "PosterizeIncreasing",
            "SolarizeIncreasing",
            "SolarizeAdd",
            "ColorIncreasing",
            "ContrastIncreasing",
            "BrightnessIncreasing",
            "SharpnessIncreasing",
            "ShearX",
            "ShearY",
            "TranslateXRel",
            "TranslateYRel",
        ];
        OPERATIONS[names.iter().position(|n| *n == name).unwrap()]
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
        value.as_str().unwrap().as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn every_operation_equals_timm_s_byte_for_byte() {
        let file: Value = serde_json::from_str(include_str!("../tests/fixtures/rand_augment/cases.json")).unwrap();
        let (mut seen, mut changed) = (BTreeMap::new(), 0);
        for case in file["cases"].as_array().unwrap() {
            let image = &file["images"][case["image"].as_str().unwrap()];
            let shape = ["channels", "height", "width"].map(|key| image[key].as_u64().unwrap() as usize);
            let fill: Vec<u8> = serde_json::from_value(file["fill"][shape[0].to_string()].clone()).unwrap();
            let change = Change {
                operation: operation(case["operation"].as_str().unwrap()),
                magnitude: case["level"].as_f64().unwrap(),
                negative: case["negative"].as_bool().unwrap(),
                interpolation: serde_json::from_value(case["resample"].clone()).unwrap(),
            };
            let mut pixels = bytes(&image["pixels"]);
            change.apply(&mut pixels, shape, &fill, &mut Vec::new());
            assert_eq!(pixels, bytes(&case["pixels"]), "{change:?} of {}", case["image"]);
            changed += usize::from(case["pixels"] != image["pixels"]);
            *seen.entry(change.operation).or_insert(0) += 1;
        }
        let expected = OPERATIONS.map(|operation| match operation {
            Operation::AutoContrast | Operation::Equalise | Operation::Invert => 7,
            Operation::Posterise | Operation::Solarise | Operation::SolariseAdd => 8,
            Operation::Colour | Operation::Contrast | Operation::Brightness | Operation::Sharpness => 24,
            _ => 40,
        });
        assert_eq!(seen.into_values().collect::<Vec<_>>(), expected);
        assert!(changed > 200, "{changed} cases change anything");
    }

    /// What Pillow 13 refuses: no bit is left.
    #[test]
    fn the_greatest_magnitude_posterises_to_black() {
        let change = Change { operation: Operation::Posterise, magnitude: 10.0, negative: false, interpolation: Interpolation::Bilinear };
        let mut pixels = [1, 128, 255];
        change.apply(&mut pixels, [3, 1, 1], &[0; 3], &mut Vec::new());
        assert_eq!(pixels, [0; 3]);
    }

    #[test]
    fn draws_have_timm_s_distributions() {
        let n = 60_000;
        let mut stream = Stream::of_sample(SampleKey { seed: 1, epoch: 2, index: 3, view: 4 });
        let drawn: Vec<Change> = (0..n).filter_map(|_| PAPER.draw(&mut stream)).collect();
        let near = |count: usize, of: usize, p: f64, what: &str| {
            let (mean, deviation) = (of as f64 * p, (of as f64 * p * (1.0 - p)).sqrt());
            assert!((count as f64 - mean).abs() < 4.0 * deviation, "{what}: {count} of {of}");
        };
        near(drawn.len(), n, 0.5, "applied");
        for operation in OPERATIONS {
            let of_it: Vec<_> = drawn.iter().filter(|c| c.operation == operation).collect();
            near(of_it.len(), drawn.len(), 1.0 / 15.0, &format!("{operation:?}"));
            near(of_it.iter().filter(|c| c.negative).count(), of_it.len(), 0.5, "negative");
            near(of_it.iter().filter(|c| c.interpolation == Interpolation::Bicubic).count(), of_it.len(), 0.5, "bicubic");
        }
        let both = drawn.iter().filter(|c| c.negative && c.interpolation == Interpolation::Bicubic).count();
        near(both, drawn.len(), 0.25, "negative and bicubic");
        // N(9, 1/2) cut off at 10: beyond two deviations lies 2.275 %; the mean falls by 1/2 (phi(2) - 2 (1 - Phi(2))) = 0.004245.
        let greatest = drawn.iter().filter(|c| c.magnitude == 10.0).count();
        near(greatest, drawn.len(), 0.02275, "cut off");
        let mean = drawn.iter().map(|c| c.magnitude).sum::<f64>() / drawn.len() as f64;
        assert!((mean - 8.99576).abs() < 4.0 * 0.5 / (drawn.len() as f64).sqrt(), "{mean}");
        near(drawn.iter().filter(|c| c.magnitude < 8.5).count(), drawn.len(), 0.15866, "below 8.5");
        near(drawn.iter().filter(|c| c.magnitude < 9.0).count(), drawn.len(), 0.5, "below 9");
        near(drawn.iter().filter(|c| c.magnitude < 9.5).count(), drawn.len(), 0.84134, "below 9.5");
    }

    #[test]
    fn a_stated_filter_is_the_only_one_and_changes_no_other_draw() {
        let bilinear = RandAugment { interpolation: Some(Interpolation::Bilinear), ..PAPER };
        for index in 0..200 {
            let stream = || Stream::of_sample(SampleKey { seed: 1, epoch: 0, index, view: 0 });
            let expected = PAPER.draw(&mut stream()).map(|change| Change { interpolation: Interpolation::Bilinear, ..change });
            assert_eq!(bilinear.draw(&mut stream()), expected);
        }
    }
}
