//! The colour map: from a dark violet blue through green to a pale yellow, even steps of perceived difference, lightness always rising.
//!
//! Made here, in Björn Ottosson's Oklab (2020): lightness rises linearly while the hue turns from 285° to 105°, with a chroma that sRGB has all
//! the way (least in the middle, where it has least); the curve is then walked at constant speed. Blue to yellow is the axis that the red-green-blind see,
//! and in grey lightness alone tells the order.

use std::sync::OnceLock;

use plotters::prelude::RGBColor;

/// Colours of the table.
const STEPS: usize = 256;
/// Points that the curve is measured at.
const FINE: usize = 4096;
/// Lightness at the ends.
const LIGHTNESS: (f64, f64) = (0.22, 0.93);
/// Hue at the ends, in degrees.
const HUE: (f64, f64) = (285.0, 105.0);
/// Chroma in the middle, and what the ends have more.
const CHROMA: (f64, f64) = (0.082, 0.045);

/// The colour of a share from 0 to 1; what lies outside has the colour of the end.
pub fn colour(share: f64) -> RGBColor {
    static TABLE: OnceLock<Vec<RGBColor>> = OnceLock::new();
    let table = TABLE.get_or_init(table);
    table[((share.clamp(0.0, 1.0) * (STEPS - 1) as f64).round() as usize).min(STEPS - 1)]
}

/// Relative luminance (0 to 1) of a colour: linear light, as a grey print shows it.
pub fn luminance(RGBColor(r, g, b): RGBColor) -> f64 {
    let [r, g, b] = [r, g, b].map(|c| linear(f64::from(c) / 255.0));
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// From sRGB's curve to linear light.
pub(super) fn linear(c: f64) -> f64 {
    if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
}

/// And back.
pub(super) fn encoded(c: f64) -> f64 {
    if c <= 0.003_130_8 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 }
}

/// Lightness and the two colour axes of Oklab at a place of the curve.
fn curve(t: f64) -> [f64; 3] {
    let lightness = LIGHTNESS.0 + t * (LIGHTNESS.1 - LIGHTNESS.0);
    let hue = (HUE.0 + t * (HUE.1 - HUE.0)).to_radians();
    let chroma = CHROMA.0 + CHROMA.1 * (2.0 * t - 1.0).powi(4);
    [lightness, chroma * hue.cos(), chroma * hue.sin()]
}

/// Linear sRGB of Oklab.
fn srgb([lightness, a, b]: [f64; 3]) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
}

fn table() -> Vec<RGBColor> {
    let points: Vec<[f64; 3]> = (0..=FINE).map(|i| curve(i as f64 / FINE as f64)).collect();
    let step = |p: &[[f64; 3]]| (0..3).map(|i| (p[1][i] - p[0][i]).powi(2)).sum::<f64>().sqrt();
    let mut walked = vec![0.0];
    for pair in points.windows(2) {
        walked.push(walked[walked.len() - 1] + step(pair));
    }
    let byte = |c: f64| (encoded(c.clamp(0.0, 1.0)) * 255.0).round() as u8;
    let mut table: Vec<RGBColor> = vec![];
    for i in 0..STEPS {
        let wanted = walked[FINE] * i as f64 / (STEPS - 1) as f64;
        let [r, mut g, b] = srgb(points[walked.partition_point(|w| *w < wanted).min(FINE)]).map(byte);
        // Where rounding to bytes would let two neighbours change places, green makes up for it.
        while g < 255 && table.last().is_some_and(|last| luminance(RGBColor(r, g, b)) <= luminance(*last)) {
            g += 1;
        }
        table.push(RGBColor(r, g, b));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_distill::figure::strokes::{COLOURS, DASHES};

    /// CIE 1976 L*a*b* under D65.
    fn lab(rgb: [f64; 3]) -> [f64; 3] {
        let rows = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]];
        let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let dot = |row: [f64; 3]| row.iter().zip(rgb).map(|(m, c)| m * c).sum::<f64>();
        let [x, y, z] = [f(dot(rows[0]) / 0.95047), f(dot(rows[1])), f(dot(rows[2]) / 1.08883)];
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    fn light(RGBColor(r, g, b): RGBColor) -> [f64; 3] {
        [r, g, b].map(|c| linear(f64::from(c) / 255.0))
    }

    fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
        lab(a).iter().zip(lab(b)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    }

    /// What dichromats see, in linear light (Machado, Oliveira and Fernandes 2009, severity 1): protan, deutan, tritan.
    const BLIND: [[[f64; 3]; 3]; 3] = [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ];

    fn seen(by: &[[f64; 3]; 3], light: [f64; 3]) -> [f64; 3] {
        by.map(|row| row.iter().zip(light).map(|(m, c)| m * c).sum::<f64>().clamp(0.0, 1.0))
    }

    #[test]
    fn luminance_rises_strictly_for_everybody() {
        let table: Vec<RGBColor> = (0..STEPS).map(|i| colour(i as f64 / (STEPS - 1) as f64)).collect();
        assert!(table.windows(2).all(|p| luminance(p[0]) < luminance(p[1])));
        // Every eighth step, where rounding to bytes no longer matters.
        for by in &BLIND {
            let lightness = |c: &RGBColor| lab(seen(by, light(*c)))[0];
            assert!(table.iter().step_by(8).collect::<Vec<_>>().windows(2).all(|p| lightness(p[0]) < lightness(p[1])));
        }
        assert!(luminance(table[0]) < 0.02 && luminance(table[STEPS - 1]) > 0.75);
        assert_eq!((colour(-1.0), colour(9.0), colour(f64::NAN)), (table[0], table[STEPS - 1], table[0]));
    }

    #[test]
    fn srgb_has_all_of_the_curve() {
        assert!((0..=1000).all(|i| srgb(curve(f64::from(i) / 1000.0)).iter().all(|c| (0.0..=1.0).contains(c))));
    }

    #[test]
    fn steps_are_even() {
        // In Oklab by construction; CIELAB, another model of the eye, agrees within a factor.
        let steps: Vec<f64> =
            (0..16).map(|i| distance(light(colour(f64::from(i) / 16.0)), light(colour(f64::from(i + 1) / 16.0)))).collect();
        let (least, most) = steps.iter().fold((f64::INFINITY, 0.0), |(l, m): (f64, f64), s| (l.min(*s), m.max(*s)));
        assert!(most / least < 2.0, "{steps:?}");
    }

    #[test]
    fn the_palette_is_told_apart_by_the_colour_blind() {
        for (i, a) in COLOURS.iter().enumerate() {
            for (j, b) in COLOURS.iter().enumerate().skip(i + 1) {
                for (name, by) in ["protan", "deutan", "tritan"].iter().zip(&BLIND) {
                    let d = distance(seen(by, light(*a)), seen(by, light(*b)));
                    // A difference of 2.3 is just noticed. The first four, which most figures need, are six times that apart; the others three
                    // times (and have other dashes and markers).
                    let least = if j < 4 { 14.0 } else { 7.0 };
                    assert!(d > least, "{name}: {i} {j}: {d:.1}");
                }
                // In grey, lines of equal dashes differ in lightness.
                let lightness = (lab(light(*a))[0] - lab(light(*b))[0]).abs();
                assert!(i % DASHES.len() != j % DASHES.len() || lightness > 10.0, "grey: {i} {j}: {lightness:.1}");
            }
        }
    }
}
