//! Augmentation: its statistics, its dependence on the key, its refusals.

mod support;

use fd_data::{
    Augment, AugmentConfig, DEFAULT_RATIO, FashionMnist, Geometry, Image8, Interpolation, Normalisation, Photometric, SampleKey, Scratch,
    Source,
};
use support::message;

fn key(index: u64) -> SampleKey {
    SampleKey { seed: 3, epoch: 1, index, view: 0 }
}

fn config(geometry: Geometry) -> AugmentConfig {
    let normalise = Normalisation { mean: vec![0.0], std: vec![1.0] };
    AugmentConfig { geometry, flip: 0.0, rand_augment: None, photometric: Photometric::default(), erase: 0.0, normalise }
}

fn crop(size: [usize; 2], scale: [f64; 2], ratio: [f64; 2]) -> Geometry {
    Geometry::RandomResizedCrop { size, scale, ratio, interpolation: Interpolation::Bilinear }
}

fn whole(size: [usize; 2]) -> Geometry {
    Geometry::Resize { size, interpolation: Interpolation::Bicubic }
}

fn apply(config: &AugmentConfig, image: &Image8<'_>, key: SampleKey) -> Vec<f32> {
    let augment = Augment::new(config.clone()).unwrap();
    let mut out = vec![f32::NAN; augment.shape().iter().product()];
    augment.apply(image, key, &mut Scratch::default(), &mut out).unwrap();
    out
}

/// Grey, 200 x 200: each row's value is its number, so that a crop's rows can be read off the result.
fn ramp() -> Image8<'static> {
    Image8::new(200, 200, 1, (0..40_000).map(|i| (i / 200) as u8).collect::<Vec<u8>>()).unwrap()
}

/// With aspect ratio 1 the height of the crop is the root of its area, and area is uniform: so is the height's square.
#[test]
fn crop_areas_are_uniform_between_their_bounds() {
    let (image, config) = (ramp(), config(crop([50, 50], [0.25, 1.0], [1.0, 1.0])));
    let areas: Vec<f64> = (0..2_000)
        .map(|index| {
            let out = apply(&config, &image, key(index));
            // 50 output rows step by height / 50 input rows; the steps in between are away from the edges.
            let step = f64::from(out[50 * 40] - out[50 * 10]) * 255.0 / 30.0;
            (step * 50.0 / 200.0).powi(2)
        })
        .collect();
    let mean = areas.iter().sum::<f64>() / areas.len() as f64;
    let variance = areas.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / areas.len() as f64;
    assert!(areas.iter().all(|a| (0.22..1.03).contains(a)), "an area is out of bounds");
    assert!((mean - 0.625).abs() < 0.02 && (variance - 0.75f64.powi(2) / 12.0).abs() < 0.006, "mean {mean}, variance {variance}");
}

#[test]
fn half_of_the_images_are_flipped_and_a_flip_mirrors() {
    let image = Image8::new(2, 3, 1, vec![0, 51, 255, 255, 102, 0]).unwrap();
    let config = AugmentConfig { flip: 0.5, ..config(whole([2, 3])) };
    let (plain, mirrored) = ([0.0, 0.2, 1.0, 1.0, 0.4, 0.0], [1.0, 0.2, 0.0, 0.0, 0.4, 1.0]);
    let mut flips = 0;
    for index in 0..4_000 {
        let out = apply(&config, &image, key(index));
        assert!(out == plain || out == mirrored);
        flips += usize::from(out == mirrored);
    }
    assert!((1_900..2_100).contains(&flips), "{flips} of 4000");
}

#[test]
fn erasing_covers_its_share_with_normal_noise() {
    let image = Image8::new(40, 60, 1, vec![0; 2_400]).unwrap();
    let config = AugmentConfig { erase: 0.25, ..config(whole([40, 60])) };
    let (mut erased, mut noise) = (0, Vec::new());
    for index in 0..2_000 {
        let out = apply(&config, &image, key(index));
        let changed: Vec<f64> = out.iter().filter(|&&v| v != 0.0).map(|&v| f64::from(v)).collect();
        if !changed.is_empty() {
            erased += 1;
            let share = changed.len() as f64 / 2_400.0;
            assert!((0.015..0.36).contains(&share), "{share}");
            noise.extend(changed);
        }
    }
    let mean = noise.iter().sum::<f64>() / noise.len() as f64;
    let variance = noise.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / noise.len() as f64;
    assert!((440..560).contains(&erased), "{erased} of 2000");
    assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
}

/// timm's rectangles: the area is uniform from 2 % to a third, the log of the aspect ratio uniform to either side of 0, the place any;
/// all channels are erased in the same place, by different noise.
#[test]
fn erased_rectangles_have_uniform_areas_and_log_aspects() {
    const SIDE: usize = 100;
    let normalise = Normalisation { mean: vec![0.0; 2], std: vec![1.0; 2] };
    let config = AugmentConfig { erase: 1.0, normalise, ..config(whole([SIDE, SIDE])) };
    let image = Image8::new(SIDE, SIDE, 2, vec![0; 2 * SIDE * SIDE]).unwrap();
    let n = 2_000;
    let (mut areas, mut aspects, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..n {
        let out = apply(&config, &image, key(index));
        let erased: Vec<usize> = (0..SIDE * SIDE).filter(|&i| out[i] != 0.0).collect();
        assert!(erased.iter().all(|&i| out[SIDE * SIDE + i] != 0.0 && out[SIDE * SIDE + i] != out[i]));
        let (top, bottom) = (erased[0] / SIDE, erased[erased.len() - 1] / SIDE + 1);
        let (left, right) = (erased[0] % SIDE, erased[erased.len() - 1] % SIDE + 1);
        let (height, width) = (bottom - top, right - left);
        assert_eq!(erased.len(), height * width, "not a rectangle");
        assert_eq!(out.iter().filter(|&&v| v != 0.0).count(), 2 * erased.len());
        areas.push(erased.len() as f64 / (SIDE * SIDE) as f64);
        aspects.push((height as f64 / width as f64).ln());
        places.push(top as f64 / (SIDE - height) as f64);
    }
    for (what, values, [low, high]) in
        [("area", areas, [0.02, 1.0 / 3.0]), ("aspect", aspects, [0.3f64.ln(), -(0.3f64.ln())]), ("place", places, [0.0, 1.0])]
    {
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let (deviation, expected) = ((high - low) / 12f64.sqrt(), (low + high) / 2.0);
        assert!((mean - expected).abs() < 4.0 * deviation / (n as f64).sqrt(), "{what}: mean {mean}");
        assert!((variance.sqrt() / deviation - 1.0).abs() < 0.05, "{what}: deviation {}", variance.sqrt());
    }
}

#[test]
fn a_view_depends_on_its_key_and_not_on_what_came_before() {
    let augment = Augment::new(AugmentConfig { flip: 0.5, erase: 0.5, ..config(crop([28, 28], [0.08, 1.0], DEFAULT_RATIO)) }).unwrap();
    let source = FashionMnist::test().unwrap();
    let mut used = Scratch::default();
    let run = |scratch: &mut Scratch, key: SampleKey| {
        let mut out = vec![0.0; 784];
        augment.apply(&source.image(5).unwrap(), key, scratch, &mut out).unwrap();
        out
    };
    for index in 0..50 {
        let again = run(&mut used, key(index));
        assert_eq!(again, run(&mut Scratch::default(), key(index)));
        assert_ne!(again, run(&mut used, SampleKey { view: 1, ..key(index) }));
        assert_ne!(again, run(&mut used, SampleKey { epoch: 2, ..key(index) }));
    }
}

/// The digest of twenty views as version 0.1 drew them: a sample's random numbers, once published, stay what they are.
#[test]
fn views_without_photometric_changes_stay_what_they_were() {
    let config = AugmentConfig { flip: 0.5, erase: 0.5, ..config(crop([28, 28], [0.08, 1.0], DEFAULT_RATIO)) };
    let source = FashionMnist::test().unwrap();
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    for index in 0..20 {
        for value in apply(&config, &source.image(index).unwrap(), key(index as u64)) {
            digest = (digest ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(format!("{digest:016x}"), "7baaefc123aca653");
}

/// An image that has the wanted size already passes unchanged, by the short way and by the long one.
#[test]
fn without_a_change_of_size_pixels_stay_exact() {
    let source = FashionMnist::test().unwrap();
    let image = source.image(0).unwrap();
    let expected: Vec<f32> = image.data.iter().map(|&v| f32::from(v) / 255.0).collect();
    let centre = Geometry::CentreCrop { resize: 28, size: [28, 28], interpolation: Interpolation::Bilinear };
    for geometry in [whole([28, 28]), centre, crop([28, 28], [1.0, 1.0], [1.0, 1.0])] {
        assert_eq!(apply(&config(geometry), &image, key(0)), expected);
    }
}

#[test]
fn extreme_images_fall_back_to_the_centre() {
    let wide = Image8::new(1, 300, 1, (0..300).map(|i| (i / 2) as u8).collect::<Vec<u8>>()).unwrap();
    let out = apply(&config(crop([2, 2], [1.0, 1.0], [0.75, 1.5])), &wide, key(0));
    // One row allows round(1.5) = 2 columns: those at 149 and 150.
    assert!(out.iter().all(|&v| (v * 255.0 - 74.5).abs() <= 1.0), "{out:?}");
    let dot = Image8::new(1, 1, 1, vec![9]).unwrap();
    assert!(apply(&config(crop([5, 3], [0.08, 1.0], DEFAULT_RATIO)), &dot, key(1)).iter().all(|&v| v == 9.0 / 255.0));
}

#[test]
fn settings_are_read_strictly() {
    let text = "flip = 0.5\nerase = 0.25\n[geometry]\nkind = \"random-resized-crop\"\nsize = [224, 224]\nscale = [0.08, 1.0]\n\
                interpolation = \"bilinear\"\n[normalise]\nmean = [0.5]\nstd = [0.5]";
    let config: AugmentConfig = toml::from_str(text).unwrap();
    assert!(matches!(config.geometry, Geometry::RandomResizedCrop { ratio: DEFAULT_RATIO, size: [224, 224], .. }));
    for missing in ["flip = 0.5\n", "erase = 0.25\n", "scale = [0.08, 1.0]\n", "interpolation = \"bilinear\"\n"] {
        assert!(toml::from_str::<AugmentConfig>(&text.replace(missing, "")).is_err(), "{missing} has no default");
    }
    for unknown in [text.replace("flip", "flap = 1\nflip"), text.replace("size", "sise = 1\nsize")] {
        assert!(toml::from_str::<AugmentConfig>(&unknown).is_err());
    }
}

#[test]
fn impossible_settings_are_refused() {
    let good = config(whole([4, 4]));
    let refused = |change: &dyn Fn(&mut AugmentConfig)| {
        let mut config = good.clone();
        change(&mut config);
        message(Augment::new(config))
    };
    assert_eq!(refused(&|c| c.flip = 1.5), "flip: expected a probability, found 1.5");
    assert_eq!(refused(&|c| c.erase = f64::NAN), "erase: expected a probability, found NaN");
    assert_eq!(refused(&|c| c.geometry = whole([0, 4])), "size: expected 1 to 65536 pixels, found [0, 4]");
    assert!(refused(&|c| c.geometry = crop([4, 4], [0.0, 1.0], DEFAULT_RATIO)).starts_with("scale: "));
    assert!(refused(&|c| c.geometry = crop([4, 4], [0.5, 1.0], [2.0, 1.0])).starts_with("ratio: "));
    let small = Geometry::CentreCrop { resize: 3, size: [2, 4], interpolation: Interpolation::Bilinear };
    assert!(refused(&|c| c.geometry = small.clone()).starts_with("resize: "));
    assert!(refused(&|c| c.normalise.std = vec![0.0]).starts_with("std: "));
    assert!(refused(&|c| c.normalise.mean.clear()).starts_with("mean: "));
}

#[test]
fn buffers_of_the_wrong_length_are_refused() {
    let augment = Augment::new(config(whole([4, 4]))).unwrap();
    let mut scratch = Scratch::default();
    let image = Image8::new(2, 2, 1, vec![0; 4]).unwrap();
    let error = message(augment.apply(&image, key(0), &mut scratch, &mut [0.0; 15]));
    assert_eq!(error, "augmented values: expected 16, found 15");
    let colour = Image8::new(2, 2, 3, vec![0; 12]).unwrap();
    let error = message(augment.apply(&colour, key(0), &mut scratch, &mut [0.0; 16]));
    assert_eq!(error, "augmentation: mixed channel counts: expected 1, found 3");
    let torn = Image8 { height: 9, ..image };
    assert!(message(augment.apply(&torn, key(0), &mut scratch, &mut [0.0; 16])).starts_with("image values"));
    assert!(Image8::new(0, 2, 1, vec![]).is_err() && Image8::new(usize::MAX, 2, 1, vec![0]).is_err());
}
