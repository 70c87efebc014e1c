//! Small matrix products of one attention window, without packing and without a library call: c = alpha · a · b.
//!
//! b's and c's rows are padded to [`WIDTH`] columns; a is read where it lies, in either order. Every element of c is one sum over k in
//! ascending order, so it does not depend on how rows are grouped.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Real;
use crate::simd_fn;

/// Columns of a tile: b and c are padded to a multiple of it.
pub(super) const WIDTH: usize = 16;

/// The left operand: element (i, p) lies at i · stride + p, or transposed at p · stride + i.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, T> {
    pub data: &'a [T],
    pub stride: usize,
    pub transposed: bool,
}

/// c [m, padded n] = alpha · a [m, k] · b [k, padded n]; `width` is the padded n, which is b's and c's row stride.
pub(super) fn product<T: Real>(alpha: T, a: Left<T>, b: &[T], width: usize, (m, k): (usize, usize), c: &mut [T]) {
    let (rows, cols) = if a.transposed { (k, m) } else { (m, k) };
    assert!(m > 0 && k > 0 && (rows - 1) * a.stride + cols <= a.data.len(), "left operand within its memory");
    assert!(width.is_multiple_of(WIDTH) && b.len() >= k * width && c.len() >= m * width, "padded operands");
    #[cfg(target_arch = "x86_64")]
    if x86::product(alpha, a, b, width, (m, k), c) {
        return;
    }
    plain(alpha, a, b, width, m, k, c);
}

/// Rows of a tile in the portable form.
const ROWS: usize = 4;

simd_fn! {
    /// The portable form, which is also the definition that the others are tested by: bit for bit, at a level with fused operations.
    fn plain<T: Real>(alpha: T, a: Left<T>, b: &[T], width: usize, m: usize, k: usize, c: &mut [T]) {
        for (top, c) in (0..m).step_by(ROWS).zip(c.chunks_mut(ROWS * width)) {
            for left in (0..width).step_by(WIDTH) {
                let mut sums = [[T::ZERO; WIDTH]; ROWS];
                let rows = ROWS.min(m - top);
                for (p, b) in b.chunks_exact(width).take(k).enumerate() {
                    let b = &b[left..left + WIDTH];
                    for (r, sums) in sums.iter_mut().take(rows).enumerate() {
                        let x = a.data[if a.transposed { p * a.stride + top + r } else { (top + r) * a.stride + p }];
                        for j in 0..WIDTH {
                            sums[j] = T::fma::<S>(x, b[j], sums[j]);
                        }
                    }
                }
                for (sums, c) in sums.iter().take(rows).zip(c.chunks_mut(width)) {
                    for (c, sum) in c[left..left + WIDTH].iter_mut().zip(sums) {
                        *c = alpha * *sum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    #[test]
    fn agrees_with_the_definition() {
        let mut s = Stream::new(&[4]);
        for (m, k, n) in [(1, 1, 1), (7, 5, 16), (49, 32, 49), (49, 49, 32), (64, 3, 17), (9, 20, 40)] {
            let width = usize::next_multiple_of(n, WIDTH);
            let mut random = |len: usize| (0..len).map(|_| s.normal()).collect::<Vec<f64>>();
            let (a, b) = (random(m * (k + 3)), random(k * width));
            let at: Vec<f64> =
                (0..k * (m + 2)).map(|i| if i % (m + 2) < m { a[i % (m + 2) * (k + 3) + i / (m + 2)] } else { 9.0 }).collect();
            let expected = |i: usize, j: usize| 0.5 * (0..k).map(|p| a[i * (k + 3) + p] * b[p * width + j]).sum::<f64>();
            let plain = Left { data: &a, stride: k + 3, transposed: false };
            let transposed = Left { data: &at, stride: m + 2, transposed: true };
            for left in [plain, transposed] {
                let mut c = vec![f64::NAN; m * width];
                product(0.5, left, &b, width, (m, k), &mut c);
                for (i, c) in c.iter().enumerate() {
                    assert!((c - expected(i / width, i % width)).abs() < 1e-12, "{m} {k} {n} at {i}");
                }
                // In f32 whatever this level has, against the portable form: the same bits.
                let narrow = |x: &[f64]| x.iter().map(|v| *v as f32).collect::<Vec<f32>>();
                let (a, b) = (narrow(left.data), narrow(&b));
                let a = Left { data: &a[..], stride: left.stride, transposed: left.transposed };
                let (mut fast, mut slow) = (vec![f32::NAN; m * width], vec![f32::NAN; m * width]);
                product(0.5, a, &b, width, (m, k), &mut fast);
                super::plain(0.5, a, &b, width, m, k, &mut slow);
                assert!(fast.iter().zip(&slow).all(|(f, s)| f.to_bits() == s.to_bits()), "{m} {k} {n}: bits");
            }
        }
    }
}
