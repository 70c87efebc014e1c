//! Rows of one attention window: softmax and its way back, unit lengths, gathering and transposing. Rows are padded to whole tiles, so
//! that no loop has a remainder; places beyond the window's n are zero where it matters.

use super::span::MASKED;
use super::tile::WIDTH;
use crate::simd::Simd;
use crate::{Real, simd_fn};

/// A vector shorter than this has no direction (PyTorch's `F.normalize`).
const SHORTEST: f64 = 1e-12;

simd_fn! {
    /// Rows of scores (n of `width` places each) to rows of probabilities, in place, 0 in the places beyond n; writes each row's lse.
    pub(super) fn softmax<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &mut [T]) {
        for (i, (row, lse)) in s.chunks_exact_mut(width).zip(lse).enumerate() {
            if !bias.is_empty() {
                add_row(row, &bias[i * n..(i + 1) * n]);
            }
            row[n..].fill(T::LOWEST);
            let top = max(row);
            for s in row.iter_mut() {
                *s = (*s - top).exp::<S>();
            }
            let total = sum(row);
            let inverse = T::ONE / total;
            for s in row.iter_mut() {
                *s *= inverse;
            }
            *lse = top + total.ln();
        }
    }
}

simd_fn! {
    /// Scores to probabilities with a known lse, in place, 0 in the places beyond n. Scores of cosine attention are large, and so is what
    /// rounding the lse does to a whole row: rows are made to sum to one again, or the gradients of scores would not sum to zero.
    pub(super) fn probabilities<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &[T]) {
        for (i, (row, lse)) in s.chunks_exact_mut(width).zip(lse).enumerate() {
            if !bias.is_empty() {
                add_row(row, &bias[i * n..(i + 1) * n]);
            }
            row[n..].fill(T::LOWEST);
            for s in row.iter_mut() {
                *s = (*s - *lse).exp::<S>();
            }
            let inverse = T::ONE / sum(row);
            for s in row.iter_mut() {
                *s *= inverse;
            }
        }
    }
}

simd_fn! {
    /// dP to dS in place; adds dS to dbias unless that is empty. `balance` takes off what rounding leaves of a row's sum, which is zero
    /// in truth: the gradient of a trained scale is a sum of dS over everything, most of which cancels.
    pub(super) fn score_gradient<T: Real>(p: &[T], dp: &mut [T], n: usize, width: usize, balance: bool, dbias: &mut [T]) {
        for (i, (p, dp)) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)).enumerate() {
            let mean = dot::<S, T>(p, dp);
            for (d, p) in dp.iter_mut().zip(p) {
                *d = *p * (*d - mean);
            }
            if balance {
                let rest = sum(dp);
                for (d, p) in dp.iter_mut().zip(p) {
                    *d -= *p * rest;
                }
            }
            if !dbias.is_empty() {
                add_row(&mut dbias[i * n..(i + 1) * n], &dp[..n]);
            }
        }
    }
}

simd_fn! {
    /// Rows of `width` places, whole tiles, to unit length; writes what they were multiplied by (divided, in truth: that is exact to the
    /// last bit, which a large scale of the scores would magnify).
    fn unit<T: Real>(x: &mut [T], width: usize, inverse: &mut [T]) {
        for (row, inverse) in x.chunks_exact_mut(width).zip(inverse) {
            let length = dot::<S, T>(row, row).sqrt().maximum(T::of(SHORTEST));
            *inverse = T::ONE / length;
            for x in row.iter_mut() {
                *x = *x / length;
            }
        }
    }
}

simd_fn! {
    /// dx of rows that [`unit`] normalised, from their gradients in place; returns Σ x̂ · dx̂, whose terms cancel.
    pub(super) fn unit_gradient<T: Real>(unit: &[T], dx: &mut [T], width: usize, inverse: &[T]) -> f64 {
        let mut all = 0.0;
        for ((x, dx), inverse) in unit.chunks_exact(width).zip(dx.chunks_exact_mut(width)).zip(inverse) {
            let along = dot::<S, T>(x, dx);
            all += along.f64();
            // A vector without direction was divided by a constant.
            let radial = if *inverse < T::of(1.0 / SHORTEST) { along } else { T::ZERO };
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - *x * radial) * *inverse;
            }
        }
        all
    }
}

simd_fn! {
    /// x [n, width] to its transpose [d, n padded], zeros in the padding.
    pub(super) fn transpose<T: Real>(x: &[T], d: usize, width: usize, out: &mut [T]) {
        let padded = out.len() / d;
        let n = x.len() / width;
        for (i, out) in out.chunks_exact_mut(padded).enumerate() {
            for (o, row) in out.iter_mut().zip(x.chunks_exact(width)) {
                *o = row[i];
            }
            out[n..].fill(T::ZERO);
        }
    }
}

simd_fn! {
    /// Rows of d elements from `from`, at row · stride + at for every row of `rows`, side by side in rows of `width`, zeros behind.
    pub(super) fn gather<T: Real>(from: &[T], rows: &[u32], stride: usize, at: usize, d: usize, width: usize, to: &mut [T]) {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(width)) {
            let from = &from[*row as usize * stride + at..][..d];
            let (blocks, rest) = from.as_chunks::<WIDTH>();
            let (to_blocks, to_rest) = to.as_chunks_mut::<WIDTH>();
            for (to, from) in to_blocks.iter_mut().zip(blocks) {
                *to = *from;
            }
            if !rest.is_empty() {
                let last = &mut to_blocks[blocks.len()];
                last.fill(T::ZERO);
                last[..rest.len()].copy_from_slice(rest);
            }
            to_rest.fill(T::ZERO);
        }
    }
}

/// to = from, or to += from, of equal length.
#[inline(always)]
pub(super) fn deliver<T: Real>(from: &[T], to: &mut [T], add: bool) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<WIDTH>(), to.as_chunks_mut::<WIDTH>());
    for (from, to) in from.iter().zip(to) {
        if add {
            add_row(to, from);
        } else {
            *to = *from;
        }
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        *to = if add { *to + *from } else { *from };
    }
}

/// y += x, of equal length.
#[inline(always)]
fn add_row<T: Real>(y: &mut [T], x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += *x;
    }
}

/// Sum of a row of whole tiles, in fixed lanes.
#[inline(always)]
fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; WIDTH];
    for x in x.as_chunks::<WIDTH>().0 {
        for i in 0..WIDTH {
            lanes[i] += x[i];
        }
    }
    fold(lanes, |a, b| a + b)
}

/// Scalar product of rows of whole tiles, in fixed lanes.
#[inline(always)]
fn dot<S: Simd, T: Real>(x: &[T], y: &[T]) -> T {
    let mut lanes = [T::ZERO; WIDTH];
    for (x, y) in x.as_chunks::<WIDTH>().0.iter().zip(y.as_chunks::<WIDTH>().0) {
        for i in 0..WIDTH {
            lanes[i] = T::fma::<S>(x[i], y[i], lanes[i]);
        }
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element of a row of whole tiles.
#[inline(always)]
fn max<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::LOWEST; WIDTH];
    for x in x.as_chunks::<WIDTH>().0 {
        for i in 0..WIDTH {
            lanes[i] = x[i].maximum(lanes[i]);
        }
    }
    fold(lanes, |a, b| a.maximum(b))
}

/// Lanes pairwise to one.
#[inline(always)]
fn fold<T: Real>(mut lanes: [T; WIDTH], f: impl Fn(T, T) -> T) -> T {
    let mut half = WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Scores of tokens that must not see each other.
pub(super) fn mask_regions<T: Real>(s: &mut [T], width: usize, regions: &[u8]) {
    if regions.is_empty() {
        return;
    }
    for (row, own) in s.chunks_exact_mut(width).zip(regions) {
        for (s, other) in row.iter_mut().zip(regions) {
            *s += if own == other { T::ZERO } else { T::of(MASKED) };
        }
    }
}

pub(super) fn mask_later<T: Real>(s: &mut [T], width: usize) {
    for (i, row) in s.chunks_exact_mut(width).enumerate() {
        row[i + 1..].fill(T::LOWEST);
    }
}

/// sum += x; what rounding loses is added up apart (Neumaier).
pub(super) fn add_exactly<T: Real>(sum: &mut T, lost: &mut T, x: T) {
    let total = *sum + x;
    *lost += if sum.abs() >= x.abs() { (*sum - total) + x } else { (x - total) + *sum };
    *sum = total;
}

/// Queries and keys to unit length; what they were multiplied by, one after the other.
pub(super) fn unit_both<T: Real>(q: &mut [T], k: &mut [T], width: usize, inverse: &mut [T]) {
    let (of_q, of_k) = inverse.split_at_mut(inverse.len() / 2);
    unit(q, width, of_q);
    unit(k, width, of_k);
}
