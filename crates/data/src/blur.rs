//! A Gaussian blur of 8-bit images.
//!
//! The Gaussian itself, cut off at three standard deviations and normalised, in f32, first along the rows, then along the columns,
//! rounded once at the end; beyond an edge the edge's pixel goes on. Pillow's blur of the same radius is not equal to it: it
//! approximates the Gaussian by boxes.

/// Blurs images; keeps its buffers from one to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct GaussianBlur {
    /// The weight of the pixels at each distance; half of it at distance 0, where both directions meet.
    weights: Vec<f32>,
    line: Vec<f32>,
    blurred_rows: Vec<f32>,
}

impl GaussianBlur {
    /// Blurs interleaved (HWC) pixels of an image of `[channels, height, width]` in place; `sigma` is the standard deviation in pixels.
    pub(crate) fn apply(&mut self, pixels: &mut [u8], [channels, height, width]: [usize; 3], sigma: f64) {
        self.weigh(sigma);
        let Self { weights, line, blurred_rows } = self;
        let (row, radius) = (width * channels, weights.len() - 1);
        blurred_rows.resize(pixels.len(), 0.0);
        for (pixels, out) in pixels.chunks_exact(row).zip(blurred_rows.chunks_exact_mut(row)) {
            let (first, last) = (&pixels[..channels], &pixels[row - channels..]);
            let beyond = |edge| std::iter::repeat_n(edge, radius).flatten();
            line.clear();
            line.extend(beyond(first).chain(pixels).chain(beyond(last)).map(|&v| f32::from(v)));
            weighted_sum(weights, out, |k| [radius - k, radius + k].map(|x| &line[x * channels..][..row]));
        }
        line.resize(row, 0.0);
        for (y, pixels) in pixels.chunks_exact_mut(row).enumerate() {
            weighted_sum(weights, line, |k| [y.saturating_sub(k), (y + k).min(height - 1)].map(|y| &blurred_rows[y * row..][..row]));
            pixels.iter_mut().zip(line.iter()).for_each(|(v, &sum)| *v = (sum + 0.5) as u8);
        }
    }

    fn weigh(&mut self, sigma: f64) {
        let weight = |k: usize| libm::exp(-0.5 * (k as f64 / sigma).powi(2)) / if k == 0 { 2.0 } else { 1.0 };
        let radius = (3.0 * sigma).ceil() as usize;
        let total = 2.0 * (0..=radius).map(weight).sum::<f64>();
        self.weights.clear();
        self.weights.extend((0..=radius).map(|k| (weight(k) / total) as f32));
    }
}

/// The sum over distances k of `weights[k]` times the two slices that `pair` gives. Adding pairs first makes it the same in both
/// directions: mirroring and blurring commute bit for bit.
fn weighted_sum<'a>(weights: &[f32], out: &mut [f32], pair: impl Fn(usize) -> [&'a [f32]; 2]) {
    out.fill(0.0);
    for (k, &weight) in weights.iter().enumerate() {
        let [before, after] = pair(k);
        for ((sum, a), b) in out.iter_mut().zip(before).zip(after) {
            *sum += weight * (a + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blur(pixels: &[u8], shape: [usize; 3], sigma: f64) -> Vec<u8> {
        let mut pixels = pixels.to_vec();
        GaussianBlur::default().apply(&mut pixels, shape, sigma);
        pixels
    }

    /// The definition, term by term in f64 over the square of side 2 radius + 1.
    fn direct(pixels: &[u8], [channels, height, width]: [usize; 3], sigma: f64) -> Vec<f64> {
        let radius = (3.0 * sigma).ceil() as isize;
        let inside = |x: usize, d: isize, len: usize| (x as isize + d).clamp(0, len as isize - 1) as usize;
        let value = |i: usize| {
            let (y, x, c) = (i / channels / width, i / channels % width, i % channels);
            let (mut sum, mut total) = (0.0, 0.0);
            for (dy, dx) in (-radius..=radius).flat_map(|dy| (-radius..=radius).map(move |dx| (dy, dx))) {
                let weight = (-((dy * dy + dx * dx) as f64) / (2.0 * sigma * sigma)).exp();
                sum += weight * f64::from(pixels[(inside(y, dy, height) * width + inside(x, dx, width)) * channels + c]);
                total += weight;
            }
            sum / total
        };
        (0..pixels.len()).map(value).collect()
    }

    /// With sigma 1/2 the weights at 0, 1, 2 are 1, e^-2, e^-8 over 1.271341: 0.786571, 0.106451, 0.000264.
    #[test]
    fn a_dot_spreads_by_hand_computed_weights() {
        let mut dot = [0; 49];
        dot[24] = 255;
        let blurred = blur(&dot, [1, 7, 7], 0.5);
        // 255 times 0.618693 (centre), 0.083731 (beside it), 0.011332 (diagonal), 0.000208 (two beside), 0.000028.
        assert_eq!(blurred[24], 158);
        assert_eq!([17, 23, 25, 31].map(|i: usize| blurred[i]), [21; 4]);
        assert_eq!([16, 18, 30, 32].map(|i: usize| blurred[i]), [3; 4]);
        assert_eq!(blurred.iter().filter(|v| **v > 0).count(), 9);
        // In a corner the edge goes on: the dot counts for all that lies beyond, (0.786571 + 0.106451 + 0.000264)^2 = 0.797960.
        let mut corner = [0; 49];
        corner[0] = 255;
        assert_eq!(blur(&corner, [1, 7, 7], 0.5)[0], 203);
    }

    #[test]
    fn it_is_the_gaussian_it_says_at_every_size_and_edge() {
        for (shape, sigma) in [([1, 9, 12], 0.1), ([3, 8, 5], 0.7), ([3, 1, 6], 1.3), ([1, 7, 1], 2.0), ([3, 4, 3], 4.2), ([1, 1, 1], 2.0)]
        {
            let pixels: Vec<u8> = (0..shape.iter().product()).map(|i| (i * i * 37 % 251) as u8).collect();
            let exact = direct(&pixels, shape, sigma);
            for (ours, exact) in blur(&pixels, shape, sigma).into_iter().zip(exact) {
                assert!((f64::from(ours) - exact).abs() < 0.5001, "{ours} for {exact}, {shape:?}, sigma {sigma}");
            }
        }
    }

    #[test]
    fn flat_images_stay_and_mirrors_commute() {
        for value in [0, 1, 127, 255] {
            assert_eq!(blur(&[value; 60], [3, 4, 5], 1.7), [value; 60]);
        }
        let pixels: Vec<u8> = (0..63).map(|i| (i * i * 83 % 256) as u8).collect();
        let mirrored = |pixels: &[u8]| pixels.chunks_exact(9).flat_map(|row| row.iter().rev().copied()).collect::<Vec<u8>>();
        assert_eq!(blur(&mirrored(&pixels), [1, 7, 9], 0.9), mirrored(&blur(&pixels, [1, 7, 9], 0.9)));
    }
}
