//! Changes that map each 8-bit level to another, channel by channel, as Pillow's `ImageOps` compute their tables.

/// What a level becomes.
type Table = [u8; 256];

/// Stretches each channel so that its least value becomes 0 and its greatest 255 (or 254: f64 is cut off as it comes out); a channel of
/// one value stays.
pub(crate) fn auto_contrast(pixels: &mut [u8], channels: usize) {
    by_histogram(pixels, channels, |counts| {
        let low = counts.iter().position(|&n| n > 0)?;
        let high = counts.iter().rposition(|&n| n > 0).filter(|&high| high > low)?;
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        Some(std::array::from_fn(|level| (level as f64 * scale + offset) as u8))
    });
}

/// Spreads the values of each channel evenly; a channel of one value, or of too few pixels beyond its greatest value, stays.
pub(crate) fn equalise(pixels: &mut [u8], channels: usize) {
    by_histogram(pixels, channels, |counts| {
        let greatest = counts.iter().rposition(|&n| n > 0)?;
        // Of one value only, `step` is 0 as well.
        let step = counts[..greatest].iter().sum::<usize>() / 255;
        if step == 0 {
            return None;
        }
        let mut below = step / 2;
        Some(counts.map(|count| {
            let level = (below / step).min(255) as u8;
            below += count;
            level
        }))
    });
}

/// Inverts every value.
pub(crate) fn invert(pixels: &mut [u8]) {
    pixels.iter_mut().for_each(|v| *v = 255 - *v);
}

/// Keeps the highest `bits` of every value; 0 leaves black, as in Pillow until version 13, which refuses it.
pub(crate) fn posterise(pixels: &mut [u8], bits: u32) {
    let mask = u8::MAX.checked_shl(8 - bits.min(8)).unwrap_or(0);
    pixels.iter_mut().for_each(|v| *v &= mask);
}

/// Adds to the values below 128, up to 255.
pub(crate) fn solarise_add(pixels: &mut [u8], add: u8) {
    pixels.iter_mut().filter(|v| **v < 128).for_each(|v| *v = v.saturating_add(add));
}

/// Maps each channel by the table that its histogram gives, if it gives one.
fn by_histogram(pixels: &mut [u8], channels: usize, table: impl Fn([usize; 256]) -> Option<Table>) {
    for channel in 0..channels {
        let mut counts = [0; 256];
        pixels[channel..].iter().step_by(channels).for_each(|&v| counts[usize::from(v)] += 1);
        if let Some(table) = table(counts) {
            pixels[channel..].iter_mut().step_by(channels).for_each(|v| *v = table[usize::from(*v)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed_levels() {
        // 50..100 onto 0..255: 51 becomes 5.1, cut off; 100 becomes 255 less a rounding error. The second channel has one value only.
        let mut pixels = [50, 7, 51, 7, 100, 7, 75, 7];
        auto_contrast(&mut pixels, 2);
        assert_eq!(pixels, [0, 7, 5, 7, 254, 7, 127, 7]);
        // Pixels below the greatest value: 510, so a step of 2; (1 + those below) / 2.
        let mut pixels = [vec![3; 255], vec![9; 255], vec![200; 5]].concat();
        equalise(&mut pixels, 1);
        assert_eq!([pixels[0], pixels[255], pixels[510]], [0, 128, 255]);
        let mut few = [1, 2, 3];
        equalise(&mut few, 1);
        assert_eq!(few, [1, 2, 3]);
        let mut pixels = [0, 77, 255];
        invert(&mut pixels);
        assert_eq!(pixels, [255, 178, 0]);
        for (bits, expected) in [(8, 0b1011_0111), (3, 0b1010_0000), (1, 0b1000_0000), (0, 0)] {
            let mut pixels = [0b1011_0111];
            posterise(&mut pixels, bits);
            assert_eq!(pixels, [expected], "{bits} bits");
        }
        let mut pixels = [0, 127, 128, 255];
        solarise_add(&mut pixels, 110);
        assert_eq!(pixels, [110, 237, 128, 255]);
    }
}
