//! Colours and sharpness of 8-bit pixels, changed in place with the arithmetic of Pillow, which torchvision applies to PIL images.
//!
//! Blends and the conversion to HSV and back are computed in the floating-point types that Pillow computes them in, and cut off or
//! rounded where it does; `tools/photometric_fixture.py` wrote what the tests compare with.

/// Grey of an RGB pixel as Pillow's mode "L": ITU-R 601 weights in 16-bit fixed point, rounded.
pub(crate) fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16) as u8
}

/// The way from `from` (factor 0) to `to` (factor 1) and beyond, clipped and truncated.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    (from + factor * (to - from)) as u8
}

/// Blends with black: factor 0 is black, 1 changes nothing.
pub(crate) fn brightness(pixels: &mut [u8], factor: f32) {
    pixels.iter_mut().for_each(|v| *v = blend(0, *v, factor));
}

/// Blends grey (`channels` = 1) or RGB pixels with the mean of their grey, rounded: factor 0 leaves that mean everywhere.
pub(crate) fn contrast(pixels: &mut [u8], channels: usize, factor: f32) {
    let total: u64 = match channels {
        1 => pixels.iter().map(|&v| u64::from(v)).sum(),
        _ => pixels.chunks_exact(3).map(|pixel| u64::from(luma(pixel))).sum(),
    };
    let mean = (total as f64 / (pixels.len() / channels) as f64 + 0.5) as u8;
    pixels.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
}

/// Blends each RGB pixel with its own grey: factor 0 is a grey image.
pub(crate) fn saturation(pixels: &mut [u8], factor: f32) {
    for pixel in pixels.as_chunks_mut::<3>().0 {
        let grey = luma(pixel);
        *pixel = pixel.map(|v| blend(grey, v, factor));
    }
}

/// Blends an image of `[channels, height, width]` with a smoothed copy: factor 0 is smoothed, 2 sharpened. The copy's pixels are rounded means
/// of 3 x 3, the middle one counted five times; a border of one pixel stays as it is.
pub(crate) fn sharpness(pixels: &mut [u8], [channels, height, width]: [usize; 3], factor: f32, before: &mut Vec<u8>) {
    before.clear();
    before.extend_from_slice(pixels);
    let row = width * channels;
    for y in 1..height.saturating_sub(1) {
        for x in channels..row.saturating_sub(channels) {
            let (at, mut sum) = (y * row + x, 0);
            for line in [at - row, at, at + row] {
                sum += [line - channels, line, line + channels].map(|i| u32::from(before[i])).iter().sum::<u32>();
            }
            let smooth = (sum + 4 * u32::from(before[at]) + 6) / 13;
            pixels[at] = blend(smooth as u8, before[at], factor);
        }
    }
}

/// Replaces each RGB pixel by its grey, three times.
pub(crate) fn grayscale(pixels: &mut [u8]) {
    pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = [luma(pixel); 3]);
}

/// Inverts the values that reach `threshold`.
pub(crate) fn solarise(pixels: &mut [u8], threshold: u8) {
    pixels.iter_mut().filter(|v| **v >= threshold).for_each(|v| *v = 255 - *v);
}

/// Turns the hue of RGB pixels by `shift` 255ths of a turn, in 8-bit HSV: even a shift of 0 rounds.
pub(crate) fn hue(pixels: &mut [u8], shift: u8) {
    for pixel in pixels.as_chunks_mut::<3>().0 {
        let [h, s, v] = hsv(*pixel);
        *pixel = rgb([h.wrapping_add(shift), s, v]);
    }
}

/// Hue (a turn is 255), saturation and value, all truncated to 8 bits.
fn hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (value, least) = (r.max(g).max(b), r.min(g).min(b));
    if value == least {
        return [0, 0, value];
    }
    let range = f32::from(value - least);
    let [red, green, blue] = [r, g, b].map(|v| f32::from(value - v) / range);
    let sixths = if r == value {
        blue - green
    } else if g == value {
        (2.0 + f64::from(red) - f64::from(blue)) as f32
    } else {
        (4.0 + f64::from(green) - f64::from(red)) as f32
    };
    let turn = f64::from(sixths) / 6.0 + 1.0;
    let turn = if turn < 1.0 { turn } else { turn - 1.0 };
    let saturation = range / f32::from(value);
    [(f64::from(turn as f32) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, value]
}

/// The way back, rounded.
fn rgb([h, s, value]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [value; 3];
    }
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths as u8;
    let (within, saturation) = ((sixths - f64::from(sector)) as f32, f32::from(s) / 255.0);
    // For all values that can occur, adding a half and cutting off is the exact rounding, and faster.
    let darkened = |by: f64| (f64::from(value) * (1.0 - by) + 0.5) as u8;
    let low = darkened(saturation.into());
    let falling = darkened((saturation * within).into());
    let rising = darkened(f64::from(saturation) * (1.0 - f64::from(within)));
    match sector % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect()
    }

    #[test]
    fn every_change_equals_pillow_byte_for_byte() {
        let file: Value = serde_json::from_str(include_str!("../tests/fixtures/photometric/cases.json")).unwrap();
        let mut seen = std::collections::BTreeMap::new();
        for case in file["cases"].as_array().unwrap() {
            let (change, channels) = (case["change"].as_str().unwrap(), if case["mode"] == "L" { 1 } else { 3 });
            let mut pixels = bytes(&file[case["mode"].as_str().unwrap()]);
            let argument = case["argument"].as_f64().unwrap();
            match change {
                "brightness" => brightness(&mut pixels, argument as f32),
                "contrast" => contrast(&mut pixels, channels, argument as f32),
                "saturation" => saturation(&mut pixels, argument as f32),
                "hue" => hue(&mut pixels, argument as u8),
                "grayscale" => grayscale(&mut pixels),
                "solarise" => solarise(&mut pixels, argument as u8),
                _ => panic!("{change}"),
            }
            assert_eq!(pixels, bytes(&case["pixels"]), "{change} {argument}");
            *seen.entry(change).or_insert(0) += 1;
        }
        assert_eq!(
            Vec::from_iter(seen),
            [("brightness", 8), ("contrast", 8), ("grayscale", 1), ("hue", 6), ("saturation", 4), ("solarise", 6)]
        );
    }

    #[test]
    fn hand_computed_pixels() {
        let mut pixels = [10, 100, 250];
        brightness(&mut pixels, 1.25);
        assert_eq!(pixels, [12, 125, 255], "12.5 is cut off, 312.5 clipped");
        // The mean is (0 + 3 + 99) / 3 = 34; 34 + 1.5 * (v - 34) = -17, -12.5, 131.5.
        let mut pixels = [0, 3, 99];
        contrast(&mut pixels, 1, 1.5);
        assert_eq!(pixels, [0, 0, 131]);
        // Grey of (200, 100, 50) is 124: 124 + 0.5 * (76, -24, -74).
        let mut pixels = [200, 100, 50];
        saturation(&mut pixels, 0.5);
        assert_eq!(pixels, [162, 112, 87]);
        let mut pixels = [127, 128, 255];
        solarise(&mut pixels, 128);
        assert_eq!(pixels, [127, 127, 0]);
        // A third of a turn: red, green, blue become green, blue, red; greys have no hue.
        let mut pixels = [255, 0, 0, 0, 255, 0, 0, 0, 255, 77, 77, 77];
        hue(&mut pixels, 85);
        assert_eq!(pixels, [0, 255, 0, 0, 0, 255, 255, 0, 0, 77, 77, 77]);
    }
}
