//! RandAugment as part of an augmentation. What it draws and does to pixels is tested beside the code that does it.

mod support;

use std::collections::HashSet;

use fd_data::{Augment, AugmentConfig, Geometry, Image8, Interpolation, Normalisation, Photometric, RandAugment, SampleKey, Scratch};
use support::message;

const PAPER: RandAugment = RandAugment { layers: 2, magnitude: 9.0, magnitude_std: 0.5, prob: 0.5, interpolation: None };
const ALWAYS: RandAugment = RandAugment { prob: 1.0, ..PAPER };

fn key(index: u64) -> SampleKey {
    SampleKey { seed: 5, epoch: 0, index, view: 2 }
}

fn config(rand_augment: Option<RandAugment>, size: [usize; 2], mean: &[f32]) -> AugmentConfig {
    let geometry = Geometry::Resize { size, interpolation: Interpolation::Bilinear };
    let normalise = Normalisation { mean: mean.to_vec(), std: vec![1.0; mean.len()] };
    AugmentConfig { geometry, flip: 0.0, rand_augment, photometric: Photometric::default(), erase: 0.0, normalise }
}

/// The view's values as bytes, CHW.
fn apply(config: &AugmentConfig, image: &Image8<'_>, key: SampleKey) -> Vec<u8> {
    let augment = Augment::new(config.clone()).unwrap();
    let [channels, height, width] = augment.shape();
    let mut out = vec![f32::NAN; channels * height * width];
    augment.apply(image, key, &mut Scratch::default(), &mut out).unwrap();
    let means = config.normalise.mean.iter().flat_map(|mean| std::iter::repeat_n(mean, height * width));
    out.iter().zip(means).map(|(v, mean)| ((v + mean) * 255.0).round() as u8).collect()
}

fn values(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i * 31 % 256) as u8).collect()
}

fn colourful(height: usize, width: usize) -> Image8<'static> {
    Image8::new(height, width, 3, values(height * width * 3)).unwrap()
}

#[test]
fn with_probability_0_nothing_changes() {
    let never = RandAugment { prob: 0.0, ..PAPER };
    for index in 0..40 {
        let with = AugmentConfig { flip: 0.5, ..config(Some(never.clone()), [6, 9], &[0.5; 3]) };
        let without = AugmentConfig { rand_augment: None, ..with.clone() };
        assert_eq!(apply(&with, &colourful(6, 9), key(index)), apply(&without, &colourful(6, 9), key(index)));
    }
}

/// With the paper's settings a quarter of the views has neither operation applied.
#[test]
fn a_view_depends_on_its_key_and_not_on_what_came_before() {
    let (augment, image) = (Augment::new(config(Some(PAPER), [12, 16], &[0.5; 3])).unwrap(), colourful(9, 11));
    let mut used = Scratch::default();
    let run = |scratch: &mut Scratch, key| {
        let mut out = vec![0.0; 576];
        augment.apply(&image, key, scratch, &mut out).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    for of in [
        |i| SampleKey { seed: i, epoch: 0, index: 0, view: 0 },
        |i| SampleKey { seed: 0, epoch: i, index: 0, view: 0 },
        |i| SampleKey { seed: 0, epoch: 0, index: i, view: 0 },
        |i| SampleKey { seed: 0, epoch: 0, index: 0, view: i },
    ] {
        let mut distinct = HashSet::new();
        for i in 0..100 {
            let view = run(&mut used, of(i));
            assert_eq!(view, run(&mut Scratch::default(), of(i)));
            distinct.insert(view);
        }
        assert!(distinct.len() > 60, "{} of 100 views differ", distinct.len());
    }
}

/// Flip, RandAugment, photometric changes: of a mirrored image it makes what a flip and it make of the image, and grey comes last.
#[test]
fn the_order_is_the_documented_one() {
    let image = colourful(7, 10);
    let mirrored = image.data.chunks(30).flat_map(|row| row.chunks(3).rev().flatten().copied()).collect::<Vec<u8>>();
    let mirrored = Image8::new(7, 10, 3, mirrored).unwrap();
    let (plain, grayscale) = (config(Some(ALWAYS), [7, 10], &[0.1, 0.5, 0.9]), Photometric { grayscale: 1.0, ..Photometric::default() });
    let (flipped, grey) = (AugmentConfig { flip: 1.0, ..plain.clone() }, AugmentConfig { photometric: grayscale, ..plain.clone() });
    for index in 0..100 {
        assert_eq!(apply(&flipped, &image, key(index)), apply(&plain, &mirrored, key(index)));
        let view = apply(&grey, &image, key(index));
        assert!(view[..70] == view[70..140] && view[..70] == view[140..]);
    }
}

/// Of a black image a rotation, shear or translation, a third of the operations, shows the mean: 255 times 0.5, 0.2, 0.8.
#[test]
fn what_is_uncovered_gets_the_mean() {
    let one = RandAugment { layers: 1, magnitude: 10.0, magnitude_std: 0.0, ..ALWAYS };
    let (config, black) = (config(Some(one), [8, 8], &[0.5, 0.2, 0.8]), Image8::new(8, 8, 3, vec![0; 192]).unwrap());
    let uncovered = |index: &u64| {
        let view = apply(&config, &black, key(*index));
        (0..64).any(|i| [view[i], view[64 + i], view[128 + i]] == [128, 51, 204])
    };
    let count = (0..3_000).filter(uncovered).count();
    assert!((900..1_100).contains(&count), "{count} of 3000");
}

/// A grey image draws what a coloured one draws: it equals each channel of itself in RGB.
#[test]
fn grey_images_draw_the_same_numbers() {
    let grey = Image8::new(17, 18, 1, values(306)).unwrap();
    let rgb = Image8::new(17, 18, 3, values(306).into_iter().flat_map(|v| [v; 3]).collect::<Vec<u8>>()).unwrap();
    for index in 0..100 {
        let out = apply(&config(Some(ALWAYS), [17, 18], &[0.3]), &grey, key(index));
        assert_eq!(apply(&config(Some(ALWAYS), [17, 18], &[0.3; 3]), &rgb, key(index)), out.repeat(3));
    }
}

/// One pixel or one line: every operation is defined.
#[test]
fn the_smallest_images_are_changed_too() {
    for size in [[1, 1], [1, 5], [5, 1], [2, 2]] {
        let image = colourful(size[0], size[1]);
        (0..300).for_each(|index| drop(apply(&config(Some(ALWAYS), size, &[0.5; 3]), &image, key(index))));
    }
}

#[test]
fn settings_are_read_strictly() {
    let plain = "flip = 0.5\nerase = 0.25\ngeometry = { kind = \"resize\", size = [4, 4], interpolation = \"bilinear\" }\n\
                 normalise = { mean = [0.5], std = [0.5] }\n";
    let read = |text: &str| toml::from_str::<AugmentConfig>(text);
    let config = read(plain).unwrap();
    assert!(config.rand_augment.is_none() && !toml::to_string(&config).unwrap().contains("rand_augment"));
    let text = format!("{plain}rand_augment = {{ layers = 2, magnitude = 9.0, magnitude_std = 0.5, prob = 0.5 }}\n");
    let config = read(&text).unwrap();
    assert_eq!(config.rand_augment, Some(PAPER));
    assert!(!toml::to_string(&config.rand_augment).unwrap().contains("interpolation"));
    let bicubic = read(&text.replace("prob = 0.5", "prob = 0.5, interpolation = \"bicubic\"")).unwrap();
    assert_eq!(bicubic.rand_augment, Some(RandAugment { interpolation: Some(Interpolation::Bicubic), ..PAPER }));
    for config in [config, bicubic] {
        assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
    for (from, to) in [("layers = 2, ", ""), (", prob = 0.5", ""), ("layers = 2", "layers = 2.5"), ("prob = 0.5", "prob = 0.5, prop = 1.0")]
    {
        assert!(read(&text.replace(from, to)).is_err(), "{from} -> {to}");
    }
}

#[test]
fn impossible_settings_are_refused() {
    let refused = |channels: usize, change: &dyn Fn(&mut RandAugment)| {
        let mut rand_augment = PAPER;
        change(&mut rand_augment);
        message(Augment::new(config(Some(rand_augment), [4, 4], &vec![0.5; channels])))
    };
    assert_eq!(refused(1, &|r| r.layers = 0), "rand_augment.layers: expected 1 to 100, found 0");
    assert_eq!(refused(1, &|r| r.layers = 101), "rand_augment.layers: expected 1 to 100, found 101");
    assert_eq!(refused(1, &|r| r.magnitude = 10.5), "rand_augment.magnitude: expected 0 to 10, found 10.5");
    assert_eq!(refused(1, &|r| r.magnitude = f64::NAN), "rand_augment.magnitude: expected 0 to 10, found NaN");
    assert_eq!(refused(1, &|r| r.magnitude_std = -1.0), "rand_augment.magnitude_std: expected 0 or more, found -1.0");
    assert_eq!(refused(1, &|r| r.magnitude_std = f64::INFINITY), "rand_augment.magnitude_std: expected 0 or more, found inf");
    assert_eq!(refused(3, &|r| r.prob = 1.1), "rand_augment.prob: expected a probability, found 1.1");
    assert_eq!(refused(4, &|_| {}), "rand_augment: expected images of 1 or 3 channels, found 4");
}
