//! Affine maps of 8-bit images, equal to Pillow's `Image.transform` and `Image.rotate` bit for bit.
//!
//! An output pixel's centre is mapped into the source. Inside of it (to the outer edge of its border pixels) the value is interpolated
//! from 2 x 2 or 4 x 4 pixels, first along the rows, then along the columns, in f64, and cut off; beyond the edge the edge's pixel goes
//! on. Outside of it the pixel is the fill. Unlike the resizing filter, the cubic here is the one with a = -1.

use crate::resize::Interpolation;

/// A map (x, y) -> (a x + b y + c, d x + e y + f) from output to source, in pixels from the upper left corner: `[a, b, c, d, e, f]`.
pub(crate) type Matrix = [f64; 6];

/// Turns an image of `[height, width]` about its middle, counter-clockwise by `degrees`.
pub(crate) fn rotation(degrees: f64, [height, width]: [usize; 2]) -> Matrix {
    // Pillow reduces the angle to 0..360 and rounds sine and cosine to 15 decimals.
    let (sin, cos) = libm::sincos(-degrees.rem_euclid(360.0).to_radians());
    let [sin, cos] = [sin, cos].map(|x| format!("{x:.15}").parse().unwrap_or(x));
    let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
    [cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y]
}

/// Maps the interleaved (HWC) pixels of an image of `[channels, height, width]`, 1 or 3 channels, in place; `fill` has a value a channel.
pub(crate) fn transform(
    pixels: &mut [u8],
    [channels, height, width]: [usize; 3],
    matrix: Matrix,
    fill: &[u8],
    interpolation: Interpolation,
    before: &mut Vec<u8>,
) {
    before.clear();
    before.extend_from_slice(pixels);
    match channels {
        1 => map::<1>(before, pixels, [height, width], matrix, fill, interpolation),
        _ => map::<3>(before, pixels, [height, width], matrix, fill, interpolation),
    }
}

fn map<const C: usize>(source: &[u8], out: &mut [u8], size: [usize; 2], matrix: Matrix, fill: &[u8], interpolation: Interpolation) {
    let (source, [height, width]) = (source.as_chunks::<C>().0, size);
    let ([a, b, c, d, e, f], fill) = (matrix, std::array::from_fn(|channel| fill[channel]));
    for (row, out) in out.as_chunks_mut::<C>().0.chunks_exact_mut(width).enumerate() {
        for (column, out) in out.iter_mut().enumerate() {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            *out = if !((0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y)) {
                fill
            } else if interpolation == Interpolation::Bilinear {
                sample(source, size, [x, y], linear)
            } else {
                sample(source, size, [x, y], cubic)
            };
        }
    }
}

/// The value at (x, y) from the N x N pixels around it, `between` interpolating those of a line.
fn sample<const C: usize, const N: usize>(
    pixels: &[[u8; C]],
    [height, width]: [usize; 2],
    [x, y]: [f64; 2],
    between: impl Fn([f64; N], f64) -> f64,
) -> [u8; C] {
    let [(left, across), (top, down)] = [x - 0.5, y - 0.5].map(|at| (at.floor(), at - at.floor()));
    let around = |first: f64, side: usize| {
        let first = first as isize - (N as isize / 2 - 1);
        std::array::from_fn::<usize, N, _>(|i| (first + i as isize).clamp(0, side as isize - 1) as usize)
    };
    let (columns, rows) = (around(left, width), around(top, height));
    std::array::from_fn(|channel| {
        let line = |row: usize| between(columns.map(|column| f64::from(pixels[row * width + column][channel])), across);
        between(rows.map(line), down) as u8
    })
}

fn linear([a, b]: [f64; 2], t: f64) -> f64 {
    a + (b - a) * t
}

fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let (first, second, third) = (-a + c, 2.0 * (a - b) + c - d, -a + b - c + d);
    b + t * (first + t * (second + t * third))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(pixels: &[u8], shape: [usize; 3], matrix: Matrix, interpolation: Interpolation) -> Vec<u8> {
        let mut pixels = pixels.to_vec();
        transform(&mut pixels, shape, matrix, &[9, 8, 7], interpolation, &mut Vec::new());
        pixels
    }

    #[test]
    fn whole_pixels_move_exactly_and_uncover_the_fill() {
        let pixels: Vec<u8> = (10..46).collect();
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            assert_eq!(moved(&pixels, [3, 3, 4], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], interpolation), pixels);
            // Output (x, y) is source (x + 1, y - 2).
            let out = moved(&pixels, [3, 3, 4], [1.0, 0.0, 1.0, 0.0, 1.0, -2.0], interpolation);
            let expected = [&[9, 8, 7].repeat(8)[..], &pixels[3..12], &[9, 8, 7]].concat();
            assert_eq!(out, expected);
            // Far outside nothing is read.
            assert_eq!(moved(&pixels, [3, 3, 4], [1.0, 0.0, 1e300, 0.0, 1.0, f64::NAN], interpolation), [9, 8, 7].repeat(12));
        }
    }

    #[test]
    fn hand_computed_values_between_pixels() {
        let half = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0];
        // Means of neighbours, cut off; beyond the middle of the last pixel its own value.
        assert_eq!(moved(&[0, 5, 20, 30], [1, 1, 4], half, Interpolation::Bilinear), [2, 12, 25, 9]);
        // With a = -1 the weights half-way are -1/8, 5/8, 5/8, -1/8: of 0 0 5 20, of 0 5 20 30, of 5 20 30 30.
        assert_eq!(moved(&[0, 5, 20, 30], [1, 1, 4], half, Interpolation::Bicubic), [0, 11, 26, 9]);
        // Overshoot is clipped.
        assert_eq!(moved(&[255, 255, 0, 0], [1, 1, 4], [1.0, 0.0, -0.5, 0.0, 1.0, 0.0], Interpolation::Bicubic)[1], 255);
    }

    #[test]
    fn a_quarter_turn_is_counter_clockwise() {
        let matrix = rotation(90.0, [2, 2]);
        assert_eq!(moved(&[1, 2, 3, 4], [1, 2, 2], matrix, Interpolation::Bilinear), [2, 4, 1, 3]);
        assert_eq!(rotation(-270.0, [2, 2]), matrix);
        assert_eq!(rotation(0.0, [3, 5]), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
