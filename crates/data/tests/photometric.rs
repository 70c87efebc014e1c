//! Photometric changes as part of an augmentation. What they do to pixels is tested beside the code that does it.

mod support;

use fd_data::{
    Augment, AugmentConfig, Blur, Geometry, Image8, Interpolation, Jitter, Normalisation, Photometric, Region, SampleKey, Scratch,
    Solarise, resize,
};
use support::message;

fn key(index: u64) -> SampleKey {
    SampleKey { seed: 5, epoch: 0, index, view: 2 }
}

/// Pixel values come out as they are, divided by 255.
fn config(photometric: Photometric, size: [usize; 2], channels: usize) -> AugmentConfig {
    let geometry = Geometry::Resize { size, interpolation: Interpolation::Bilinear };
    let normalise = Normalisation { mean: vec![0.0; channels], std: vec![1.0; channels] };
    AugmentConfig { geometry, flip: 0.0, rand_augment: None, photometric, erase: 0.0, normalise }
}

/// The view's values as bytes, CHW.
fn apply(config: &AugmentConfig, image: &Image8<'_>, key: SampleKey) -> Vec<u8> {
    let augment = Augment::new(config.clone()).unwrap();
    let mut out = vec![f32::NAN; augment.shape().iter().product()];
    augment.apply(image, key, &mut Scratch::default(), &mut out).unwrap();
    out.iter().map(|v| (v * 255.0).round() as u8).collect()
}

/// All four changes, each half of the time.
fn everything() -> Photometric {
    Photometric {
        jitter: Some(Jitter { prob: 0.5, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2 }),
        grayscale: 0.5,
        blur: Some(Blur { prob: 0.5, sigma: [0.3, 1.5] }),
        solarise: Some(Solarise { prob: 0.5, threshold: 128 }),
    }
}

fn colourful(height: usize, width: usize) -> Image8<'static> {
    Image8::new(height, width, 3, (0..height * width * 3).map(|i| (i * i * 31 % 256) as u8).collect::<Vec<u8>>()).unwrap()
}

/// On one black pixel: brightness, contrast and blur leave it black; solarising makes it white. On pure red only grayscale shows.
#[test]
fn changes_happen_with_their_probabilities() {
    let pixel = |rgb: [u8; 3]| Image8::new(1, 1, 3, rgb.to_vec()).unwrap();
    let solarise = Photometric { solarise: Some(Solarise { prob: 0.2, threshold: 0 }), ..everything() };
    let grey = Photometric { grayscale: 0.3, ..Photometric::default() };
    let (mut white, mut greyed) = (0, 0);
    for index in 0..4_000 {
        let out = apply(&config(solarise.clone(), [1, 1], 3), &pixel([0; 3]), key(index));
        assert!(out == [0; 3] || out == [255; 3]);
        white += usize::from(out == [255; 3]);
        let out = apply(&config(grey.clone(), [1, 1], 3), &pixel([255, 0, 0]), key(index));
        // 0.299 * 255 = 76.2.
        assert!(out == [255, 0, 0] || out == [76; 3]);
        greyed += usize::from(out == [76; 3]);
    }
    assert!((720..880).contains(&white) && (1_110..1_290).contains(&greyed), "{white} and {greyed} of 4000");
}

/// Grayscale comes before solarisation, and both after the crop: luma of (200, 100, 50) is 124, inverted 131.
#[test]
fn the_order_is_the_documented_one() {
    let solarise = Some(Solarise { prob: 1.0, threshold: 124 });
    let both = Photometric { grayscale: 1.0, solarise, ..Photometric::default() };
    let image = Image8::new(1, 2, 3, vec![200, 100, 50, 0, 0, 0]).unwrap();
    assert_eq!(apply(&config(both, [1, 2], 3), &image, key(0)), [131, 0, 131, 0, 131, 0]);
    // Blurred before it is solarised: no value of the blurred edge reaches the threshold.
    let blur = Some(Blur { prob: 1.0, sigma: [50.0, 50.0] });
    let both = Photometric { blur, solarise: Some(Solarise { prob: 1.0, threshold: 200 }), ..Photometric::default() };
    let edge = Image8::new(1, 2, 1, vec![0, 255]).unwrap();
    let out = apply(&config(both, [1, 2], 1), &edge, key(0));
    assert!(out.iter().all(|v| (120..136).contains(v)), "{out:?}");
}

#[test]
fn a_flip_mirrors_every_change() {
    let image = colourful(5, 7);
    for index in 0..40 {
        let plain = config(everything(), [6, 9], 3);
        let flipped = AugmentConfig { flip: 1.0, ..plain.clone() };
        let mirrored: Vec<u8> = apply(&flipped, &image, key(index)).chunks_exact(9).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(apply(&plain, &image, key(index)), mirrored);
    }
}

/// All draws of a view are different numbers of one stream: flips and solarisation, half of the time each, meet in a quarter.
#[test]
fn changes_are_independent_of_the_flip() {
    let solarise = Some(Solarise { prob: 0.5, threshold: 128 });
    let config = AugmentConfig { flip: 0.5, ..config(Photometric { solarise, ..Photometric::default() }, [1, 2], 1) };
    let image = Image8::new(1, 2, 1, vec![10, 200]).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    (0..4_000).for_each(|index| *counts.entry(apply(&config, &image, key(index))).or_insert(0) += 1);
    assert!(counts.keys().eq([&[10, 55], &[10, 200], &[55, 10], &[200, 10]]), "{counts:?}");
    assert!(counts.values().all(|count| (900..1_100).contains(count)), "{counts:?}");
}

/// Where nothing is resized only the region that stays takes part: its mean, its edges.
#[test]
fn a_centre_crop_is_changed_on_its_own() {
    let image = colourful(9, 9);
    let cut = resize(&image, Region { top: 2, left: 2, height: 5, width: 5 }, [5, 5], Interpolation::Bilinear).unwrap();
    let geometry = Geometry::CentreCrop { resize: 9, size: [5, 5], interpolation: Interpolation::Bilinear };
    for index in 0..40 {
        let centre = AugmentConfig { geometry: geometry.clone(), ..config(everything(), [5, 5], 3) };
        assert_eq!(apply(&centre, &image, key(index)), apply(&config(everything(), [5, 5], 3), &cut, key(index)));
    }
}

/// A grey image draws what a coloured one draws: it equals each channel of itself in RGB.
#[test]
fn grey_images_draw_the_same_numbers() {
    let values: Vec<u8> = (0..48u32).map(|i| (i * i * 91 % 256) as u8).collect();
    let grey = Image8::new(6, 8, 1, values.clone()).unwrap();
    let rgb = Image8::new(6, 8, 3, values.iter().flat_map(|&v| [v; 3]).collect::<Vec<u8>>()).unwrap();
    let mut distinct = std::collections::HashSet::new();
    for index in 0..100 {
        let out = apply(&config(everything(), [6, 8], 1), &grey, key(index));
        assert_eq!(apply(&config(everything(), [6, 8], 3), &rgb, key(index)), out.repeat(3));
        distinct.insert(out);
    }
    assert!(distinct.len() > 80, "{} of 100 views differ", distinct.len());
}

#[test]
fn a_view_depends_on_its_key_and_not_on_what_came_before() {
    let (augment, image) = (Augment::new(config(everything(), [6, 8], 3)).unwrap(), colourful(4, 5));
    let mut used = Scratch::default();
    let run = |scratch: &mut Scratch, index| {
        let mut out = vec![0.0; 144];
        augment.apply(&image, key(index), scratch, &mut out).unwrap();
        out
    };
    for index in 0..50 {
        assert_eq!(run(&mut used, index), run(&mut Scratch::default(), index));
    }
}

#[test]
fn settings_are_read_strictly() {
    let plain = "flip = 0.5\nerase = 0.25\ngeometry = { kind = \"resize\", size = [4, 4], interpolation = \"bilinear\" }\n\
                 normalise = { mean = [0.5], std = [0.5] }\n";
    let config: AugmentConfig = toml::from_str(plain).unwrap();
    assert_eq!(config.photometric, Photometric::default());
    assert!(config.photometric.is_none() && !toml::to_string(&config).unwrap().contains("photometric"));
    let text = format!(
        "{plain}photometric.jitter = {{ prob = 0.5, brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.2 }}\n\
         photometric.grayscale = 0.5\nphotometric.blur = {{ prob = 0.5, sigma = [0.3, 1.5] }}\n\
         photometric.solarise = {{ prob = 0.5, threshold = 128 }}\n"
    );
    let config: AugmentConfig = toml::from_str(&text).unwrap();
    assert_eq!(config.photometric, everything());
    assert_eq!(toml::from_str::<AugmentConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    for line in text.lines().filter(|line| line.starts_with("photometric")) {
        let alone: AugmentConfig = toml::from_str(&format!("{plain}{line}")).unwrap();
        assert!(!alone.photometric.is_none(), "{line} stands alone");
    }
    for (from, to) in [
        ("hue = 0.2 ", ""),
        ("prob = 0.5, sigma", "sigma"),
        (", threshold = 128", ""),
        ("threshold = 128", "threshold = 256"),
        ("threshold = 128", "threshold = 128, treshold = 1"),
        ("hue = 0.2", "hue = 0.2, hew = 0.1"),
        ("sigma = [0.3, 1.5]", "sigma = [0.3, 1.5], radius = 3"),
        ("photometric.grayscale", "photometric.grayscales"),
    ] {
        assert!(toml::from_str::<AugmentConfig>(&text.replace(from, to)).is_err(), "{from} -> {to}");
    }
}

#[test]
fn impossible_settings_are_refused() {
    let refused = |channels, change: &dyn Fn(&mut Photometric)| {
        let mut photometric = everything();
        change(&mut photometric);
        message(Augment::new(config(photometric, [4, 4], channels)))
    };
    let jitter = |change: &dyn Fn(&mut Jitter)| refused(3, &|p| p.jitter.iter_mut().for_each(change));
    assert_eq!(jitter(&|j| j.prob = 1.1), "photometric.jitter.prob: expected a probability, found 1.1");
    assert_eq!(jitter(&|j| j.brightness = -0.1), "photometric.jitter.brightness: expected 0 or more, found -0.1");
    assert_eq!(jitter(&|j| j.contrast = f64::INFINITY), "photometric.jitter.contrast: expected 0 or more, found inf");
    assert_eq!(jitter(&|j| j.saturation = f64::NAN), "photometric.jitter.saturation: expected 0 or more, found NaN");
    assert_eq!(jitter(&|j| j.hue = 0.6), "photometric.jitter.hue: expected 0 to 0.5, found 0.6");
    assert_eq!(refused(3, &|p| p.grayscale = f64::NAN), "photometric.grayscale: expected a probability, found NaN");
    let blur = |change: &dyn Fn(&mut Blur)| refused(1, &|p| p.blur.iter_mut().for_each(change));
    assert_eq!(blur(&|b| b.prob = -1.0), "photometric.blur.prob: expected a probability, found -1.0");
    for sigma in [[0.0, 1.0], [2.0, 1.0], [1.0, f64::INFINITY], [f64::NAN, 1.0], [1.0, 1001.0]] {
        let expected = format!("photometric.blur.sigma: expected 0 < min <= max <= 1000, found {sigma:?}");
        assert_eq!(blur(&|b| b.sigma = sigma), expected);
    }
    let solarise = refused(3, &|p| p.solarise = Some(Solarise { prob: 2.0, threshold: 0 }));
    assert_eq!(solarise, "photometric.solarise.prob: expected a probability, found 2.0");
    assert_eq!(refused(4, &|_| {}), "photometric: expected images of 1 or 3 channels, found 4");
    assert!(Augment::new(config(Photometric::default(), [4, 4], 4)).is_ok());
}
