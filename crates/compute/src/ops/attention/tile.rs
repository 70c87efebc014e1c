//! Small matrix products of one attention window, without packing and without a library call: c = alpha · a · b.
//!
//! b's and c's rows are padded to [`WIDTH`] columns; a is read where it lies, in either order. Every element of c is one sum over k in
//! ascending order, so it does not depend on how rows are grouped.

use crate::Real;
use crate::simd::{Level, Simd, level};
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

/// Most rows of a tile whose sums stay in registers.
fn most_rows() -> usize {
    match level() {
        Level::Avx512 => 8,
        Level::Avx2 => 6,
        Level::Scalar => 3,
    }
}

/// c [m, padded n] = alpha · a [m, k] · b [k, padded n]; `width` is the padded n, which is b's and c's row stride.
pub(super) fn product<T: Real>(alpha: T, a: Left<T>, b: &[T], width: usize, (m, k): (usize, usize), c: &mut [T]) {
    assert!(width.is_multiple_of(WIDTH) && b.len() >= k * width && c.len() >= m * width, "padded operands");
    let tiles = m.div_ceil(most_rows());
    rows(alpha, a, b, width, m, k, tiles, c);
}

simd_fn! {
    /// All tiles: columns outside, so that a column stripe of b stays in the first-level cache.
    fn rows<T: Real>(alpha: T, a: Left<T>, b: &[T], width: usize, m: usize, k: usize, tiles: usize, c: &mut [T]) {
        for left in (0..width).step_by(WIDTH) {
            let mut top = 0;
            for tile in 0..tiles {
                let n = m / tiles + usize::from(tile < m % tiles);
                macro_rules! sized {
                    ($($n:literal)*) => { match n { $($n => one::<S, T, $n>(alpha, a, top, b, left, width, k, c),)* _ => {} } };
                }
                sized!(1 2 3 4 5 6 7 8);
                top += n;
            }
        }
    }
}

/// One tile of R rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn one<S: Simd, T: Real, const R: usize>(alpha: T, a: Left<T>, top: usize, b: &[T], left: usize, width: usize, k: usize, c: &mut [T]) {
    let mut sums = [[T::ZERO; WIDTH]; R];
    let b = b.chunks_exact(width).take(k);
    if a.transposed {
        for (b, a) in b.zip(a.data.chunks(a.stride)) {
            let (b, a) = (&b[left..left + WIDTH], &a[top..top + R]);
            for r in 0..R {
                for j in 0..WIDTH {
                    sums[r][j] = T::fma::<S>(a[r], b[j], sums[r][j]);
                }
            }
        }
    } else {
        let a: [&[T]; R] = std::array::from_fn(|r| &a.data[(top + r) * a.stride..][..k]);
        for (p, b) in b.enumerate() {
            let b = &b[left..left + WIDTH];
            for r in 0..R {
                for j in 0..WIDTH {
                    sums[r][j] = T::fma::<S>(a[r][p], b[j], sums[r][j]);
                }
            }
        }
    }
    for (sums, c) in sums.iter().zip(c[top * width..].chunks_mut(width)) {
        for (c, sum) in c[left..left + WIDTH].iter_mut().zip(sums) {
            *c = alpha * *sum;
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
            }
        }
    }
}
