//! Decoding, cropping, resizing and normalising against what Pillow and torchvision make of the same files
//! (`fixtures/images/README.md`).

use std::fs;
use std::path::{Path, PathBuf};

use fd_data::{
    Augment, AugmentConfig, Geometry, Image8, Interpolation, Normalisation, Photometric, Region, Resample, SampleKey, Scratch, decode,
    resample, resize,
};
use safetensors::SafeTensors;
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

fn load(name: &str) -> Image8<'static> {
    decode(name, &fs::read(path(name)).unwrap(), 3).unwrap()
}

fn preprocess() -> Value {
    serde_json::from_slice(&fs::read(path("m_preprocess.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// `[top, left, height, width]`.
fn region(value: &Value) -> Region {
    Region { top: number(&value[0]), left: number(&value[1]), height: number(&value[2]), width: number(&value[3]) }
}

fn filter(tensor: &str) -> Interpolation {
    if tensor.contains("bicubic") { Interpolation::Bicubic } else { Interpolation::Bilinear }
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The share of equal values in percent and the greatest difference.
fn compare(ours: &[u8], golden: &[u8]) -> (f64, u8) {
    assert_eq!(ours.len(), golden.len());
    let equal = ours.iter().zip(golden).filter(|(a, b)| a == b).count();
    let most = ours.iter().zip(golden).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    (100.0 * equal as f64 / ours.len() as f64, most)
}

#[test]
fn crops_and_evaluation_equal_pillow_bit_for_bit() {
    let json = preprocess();
    let (mut compared, mut evaluated) = (0, 0);
    for photo in ["astronaut", "china", "flower"] {
        let image = load(&format!("{photo}.png"));
        let raw = fs::read(path(&format!("{photo}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&raw).unwrap();
        let item = &json["items"][photo];
        for crop in item["crops"].as_array().unwrap() {
            let (name, out) = (crop["tensor"].as_str().unwrap(), number(&crop["out"]));
            let ours = resize(&image, region(&crop["box_tlhw"]), [out, out], filter(name)).unwrap();
            assert_eq!(compare(&ours.data, tensors.tensor(name).unwrap().data()), (100.0, 0), "{photo} {name}");
            compared += 1;
        }
        if let Ok(golden) = tensors.tensor("eval.u8") {
            let (short, crop) = (number(&item["eval"]["resize"]), number(&item["eval"]["crop"]));
            let plan = Resample::short_side_centre_crop([300, 420], short, [crop, crop], Interpolation::Bicubic);
            assert_eq!(plan.size, [number(&item["eval"]["resized_wh"][1]), number(&item["eval"]["resized_wh"][0])]);
            let ours = resample(&image, &plan).unwrap();
            assert_eq!(compare(&ours.data, golden.data()), (100.0, 0), "{photo} eval");
            evaluated += 1;
        }
    }
    assert_eq!((compared, evaluated), (30, 2));
}

/// Geometries where photographs are scarce: enlarging, shrinking one side only, hardly any change, one pixel, and both orders of the
/// passes up to the point where Pillow 13 swaps them. `fixtures/resize/make.py` wrote the digests.
#[test]
fn random_geometries_equal_pillow_bit_for_bit() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/resize/cases.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(cases.len(), 400);
    for (seed, case) in (0u32..).zip(&cases) {
        let [height, width, channels] = [0, 1, 2].map(|axis| number(&case["shape"][axis]));
        let image = Image8::new(height, width, channels, noise(height * width * channels, seed)).unwrap();
        let size = [number(&case["size"][0]), number(&case["size"][1])];
        let ours = resize(&image, region(&case["box_tlhw"]), size, filter(case["filter"].as_str().unwrap())).unwrap();
        assert_eq!(format!("{:016x}", fnv(&ours.data)), case["fnv"].as_str().unwrap(), "{case}");
        windows_agree(&image, region(&case["box_tlhw"]), &ours, filter(case["filter"].as_str().unwrap()));
    }
}

/// Computing the middle of `whole` alone gives the same values.
fn windows_agree(image: &Image8<'_>, part: Region, whole: &Image8<'_>, interpolation: Interpolation) {
    let size = [whole.height, whole.width];
    let window = Region { top: size[0] / 3, left: size[1] / 4, height: size[0].div_ceil(2), width: size[1].div_ceil(3) };
    let expected = resize(whole, window, window.size(), interpolation).unwrap();
    let ours = resample(image, &Resample { window, ..Resample::new(part, size, interpolation) }).unwrap();
    assert_eq!(ours, expected, "{window:?} of {size:?}");
}

fn noise(count: usize, mut state: u32) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, &byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Floats too: the whole of [`Augment::apply`], bit for bit.
#[test]
fn normalised_evaluation_equals_torchvision() {
    let json = preprocess();
    for photo in ["astronaut", "china"] {
        let image = load(&format!("{photo}.png"));
        let raw = fs::read(path(&format!("{photo}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&raw).unwrap();
        let spec = &json["items"][photo]["eval64"];
        let (resize, size) = (number(&spec["resize"]), [number(&spec["crop"]); 2]);
        for (name, normalise) in [("eval64.imagenet_norm", Normalisation::imagenet()), ("eval64.clip_norm", Normalisation::clip())] {
            let geometry = Geometry::CentreCrop { resize, size, interpolation: Interpolation::Bicubic };
            let ours = applied(
                &image,
                AugmentConfig { geometry, flip: 0.0, rand_augment: None, photometric: Photometric::default(), erase: 0.0, normalise },
            );
            assert_eq!(ours, floats(&tensors, name), "{photo} {name}");
        }
    }
}

/// The crop of the golden, cut out beforehand, goes through a forced flip.
#[test]
fn flipped_and_normalised_crops_equal_torchvision() {
    let json = preprocess();
    let mut compared = 0;
    for photo in ["astronaut", "china"] {
        let image = load(&format!("{photo}.png"));
        let raw = fs::read(path(&format!("{photo}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&raw).unwrap();
        for crop in json["items"][photo]["crops"].as_array().unwrap() {
            let (name, out) = (crop["tensor"].as_str().unwrap(), number(&crop["out"]));
            let golden = format!("{name}.flip_norm");
            if tensors.tensor(&golden).is_ok() {
                let part = region(&crop["box_tlhw"]);
                let cut = resize(&image, part, part.size(), Interpolation::Bilinear).unwrap();
                let geometry = Geometry::Resize { size: [out, out], interpolation: filter(name) };
                let config = AugmentConfig {
                    geometry,
                    flip: 1.0,
                    rand_augment: None,
                    photometric: Photometric::default(),
                    erase: 0.0,
                    normalise: Normalisation::imagenet(),
                };
                assert_eq!(applied(&cut, config), floats(&tensors, &golden), "{photo} {golden}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 4);
}

fn applied(image: &Image8<'_>, config: AugmentConfig) -> Vec<f32> {
    let augment = Augment::new(config).unwrap();
    let mut out = vec![0.0; augment.shape().iter().product()];
    let key = SampleKey { seed: 0, epoch: 0, index: 0, view: 0 };
    augment.apply(image, key, &mut Scratch::default(), &mut out).unwrap();
    out
}

/// The `image` crate's decoder (zune-jpeg 0.5) is not libjpeg-turbo: its inverse DCT, chroma upsampling and colour conversion round
/// differently. Measured on these five files, share of equal values and greatest difference:
///
/// | 4:2:0 | 4:2:0 progressive | 4:2:2 | 4:4:4 | grey | 4:2:0, cropped and resized |
/// |---|---|---|---|---|---|
/// | 81.8 %, 3 | 80.8 %, 3 | 90.7 %, 3 | 98.8 %, 2 | 98.9 %, 1 | 70.2 %, 3 |
///
/// So the project's criterion (within 1, at least 99.5 % equal) does NOT hold for JPEG; it holds for PNG and for everything after the
/// decoder. The bounds below are what was measured, rounded down: they guard against getting worse.
#[test]
fn jpegs_stay_as_close_to_libjpeg_turbo_as_measured() {
    let raw = fs::read(path("jpeg_decode.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&raw).unwrap();
    let check = |name: &str, ours: &Image8<'_>, least: f64, most: u8| {
        let (equal, difference) = compare(&ours.data, tensors.tensor(name).unwrap().data());
        assert!(equal >= least && difference <= most, "{name}: {equal:.2} % equal, difference {difference}");
    };
    for (name, least, most) in
        [("jpeg420", 81.0, 3), ("jpeg420prog", 80.0, 3), ("jpeg422", 90.0, 3), ("jpeg444", 98.5, 2), ("jpeggray", 98.5, 1)]
    {
        let ours = load(&format!("{name}.jpg"));
        assert_eq!([ours.height, ours.width, 3], tensors.tensor(name).unwrap().shape());
        check(name, &ours, least, most);
    }
    let part = region(&preprocess()["jpeg"]["rrc_box_tlhw"]);
    let ours = resize(&load("jpeg420.jpg"), part, [64, 64], Interpolation::Bicubic).unwrap();
    check("jpeg420.rrc_bicubic64", &ours, 70.0, 3);
}
