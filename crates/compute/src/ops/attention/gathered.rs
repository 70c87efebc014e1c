//! Attention whose operands are first copied side by side: windows, whose tokens lie apart in the map, cosine scores, whose queries and
//! keys are normalised on the way, and causal attention. One (image, window, head) at a time.
//!
//! With q̂ = q / max(|q|, 1e-12) and s = exp(min(t, ln 100)): S = s q̂ k̂ᵀ + bias; dq̂ = s dS k̂, dq = (dq̂ - q̂ (q̂ · dq̂)) / |q|, and
//! dt = Σ q̂ · dq̂ where t is not above the clamp, else 0.

use super::span::MASKED;
use super::tile::{Left, WIDTH, product};
use super::{Attention, Scores, Shared, Span, Views, rows};
use crate::exec::{At, Env};
use crate::simd::Simd;
use crate::{Real, simd_fn};

/// A vector shorter than this has no direction (PyTorch's `F.normalize`).
const SHORTEST: f64 = 1e-12;
/// Largest scale of cosine attention: its logarithm is where the trained value stops to count.
const LARGEST_SCALE: f64 = 100.0;

simd_fn! {
    /// Rows of scores (n of `width` places each) to rows of probabilities, in place, 0 in the places beyond n; writes each row's lse.
    fn softmax<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &mut [T]) {
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
    fn probabilities<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &[T]) {
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
    fn score_gradient<T: Real>(p: &[T], dp: &mut [T], n: usize, width: usize, balance: bool, dbias: &mut [T]) {
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
    fn unit_gradient<T: Real>(unit: &[T], dx: &mut [T], width: usize, inverse: &[T]) -> f64 {
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
    fn transpose<T: Real>(x: &[T], d: usize, width: usize, out: &mut [T]) {
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
    fn gather<T: Real>(from: &[T], rows: &[u32], stride: usize, at: usize, d: usize, width: usize, to: &mut [T]) {
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
fn deliver<T: Real>(from: &[T], to: &mut [T], add: bool) {
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
fn mask_regions<T: Real>(s: &mut [T], width: usize, regions: &[u8]) {
    if regions.is_empty() {
        return;
    }
    for (row, own) in s.chunks_exact_mut(width).zip(regions) {
        for (s, other) in row.iter_mut().zip(regions) {
            *s += if own == other { T::ZERO } else { T::of(MASKED) };
        }
    }
}

fn mask_later<T: Real>(s: &mut [T], width: usize) {
    for (i, row) in s.chunks_exact_mut(width).enumerate() {
        row[i + 1..].fill(T::LOWEST);
    }
}

/// Sizes of one window: tokens, head width, and both padded.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    d: usize,
    padded_n: usize,
    padded_d: usize,
}

impl Attention {
    fn sizes(&self) -> Sizes {
        let (n, d) = (self.span.extents(self.tokens).1, self.head_dim);
        Sizes { n, d, padded_n: n.next_multiple_of(WIDTH), padded_d: d.next_multiple_of(WIDTH) }
    }

    /// The trained scale of every head as the scores have it, and none of plain scores.
    pub(super) fn scales<'a, T: Real>(&self, env: &Env<'a, T>) -> &'a [T] {
        self.logit_scale().map_or(&[], |p| env.params.get(p))
    }

    /// The scores' factor, and whether a trained one has a gradient.
    fn scale<T: Real>(&self, scales: &[T], h: usize) -> (T, bool) {
        match self.scores {
            Scores::Scaled(scale) => (T::of(scale), false),
            Scores::Cosine(_) => {
                let t = scales[h].f64();
                (T::of(t.min(LARGEST_SCALE.ln()).exp()), t <= LARGEST_SCALE.ln())
            }
        }
    }

    /// Scratch elements of one (image, window, head), forward or backward.
    pub(super) fn gathered_scratch(&self) -> usize {
        let Sizes { n, d, padded_n, padded_d } = self.sizes();
        4 * n * padded_d + 2 * d * padded_n + 2 * n * padded_n + 2 * n
    }

    /// The tokens of a window, as rows of the image.
    fn members(&self, window: usize) -> &[u32] {
        let n = self.sizes().n;
        &self.order[window * n..(window + 1) * n]
    }

    /// (image, window) of a unit.
    fn image_and_window(&self, unit: usize) -> (usize, usize) {
        let windows = self.span.extents(self.tokens).0;
        (unit / windows, unit % windows)
    }

    /// Copies a head's part of a window's tokens: `from` [B, N, stride], part and head at column `at`, to [n, padded D].
    fn gather<T: Real>(&self, from: &[T], unit: usize, at: usize, stride: usize, to: &mut [T]) {
        let (image, window) = self.image_and_window(unit);
        let Sizes { d, padded_d, .. } = self.sizes();
        let from = &from[image * self.tokens * stride..(image + 1) * self.tokens * stride];
        gather(from, self.members(window), stride, at, d, padded_d, to);
    }

    /// The way back, overwriting or adding.
    ///
    /// # Safety
    /// No other task may touch these columns of this window's tokens.
    unsafe fn scatter<T: Real>(&self, from: &[T], unit: usize, at: usize, stride: usize, to: Shared<T>, add: bool) {
        let (image, window) = self.image_and_window(unit);
        let Sizes { d, padded_d, .. } = self.sizes();
        for (token, from) in self.members(window).iter().zip(from.chunks_exact(padded_d)) {
            let row = (image * self.tokens + *token as usize) * stride + at;
            // SAFETY: the row lies in the buffer, whose extents the planner checked; the caller vouches that it is this task's.
            let to = unsafe { std::slice::from_raw_parts_mut(to.0.add(row), d) };
            deliver(&from[..d], to, add);
        }
    }

    fn mask<T: Real>(&self, s: &mut [T], unit: usize) {
        let width = self.sizes().padded_n;
        match &self.span {
            Span::Whole => {}
            Span::Causal => mask_later(s, width),
            Span::Windows(w) => mask_regions(s, width, w.regions(unit % w.count())),
        }
    }

    /// S of queries [n, padded D] and transposed keys [D, padded n], masked, before the bias.
    fn scores_into<T: Real>(&self, scale: T, q: &[T], kt: &[T], unit: usize, s: &mut [T]) {
        let Sizes { n, d, padded_n, padded_d } = self.sizes();
        product(scale, Left { data: q, stride: padded_d, transposed: false }, kt, padded_n, (n, d), s);
        self.mask(s, unit);
    }

    pub(super) fn forward_gathered<T: Real>(&self, env: &mut Env<T>) {
        use rayon::prelude::*;
        let (c, d) = (self.heads * self.head_dim, self.head_dim);
        let scales = self.scales(env);
        let bias = self.bias.map_or(At::Nothing, At::Value);
        let [qkv, bias, y, lse] = env.acts.split([At::Value(self.qkv), bias, At::Value(self.y), At::Value(self.lse)]);
        let (qkv, bias, y) = (&*qkv, &*bias, Shared(y.as_mut_ptr()));
        let Sizes { n, padded_n, padded_d, .. } = self.sizes();
        lse.par_chunks_mut(n).enumerate().for_each(|(task, lse)| {
            let (unit, h) = (task / self.heads, task % self.heads);
            rows::with_scratch(self.gathered_scratch(), |scratch: &mut [T]| {
                let (p, scratch) = self.forward_scores(qkv, scales, (unit, h), scratch);
                softmax(p, self.bias_of(bias, h), n, padded_n, lse);
                let (v, out) = scratch[..2 * n * padded_d].split_at_mut(n * padded_d);
                self.gather(qkv, unit, 2 * c + h * d, 3 * c, v);
                product(T::ONE, Left { data: p, stride: padded_n, transposed: false }, v, padded_d, (n, n), out);
                // SAFETY: task (unit, h) writes head h of its own window's tokens, nobody else does.
                unsafe { self.scatter(out, unit, h * d, c, y, false) };
            });
        });
    }

    /// Gathers queries and keys and makes the masked scores; returns them and the scratch behind them.
    fn forward_scores<'s, T: Real>(
        &self,
        qkv: &[T],
        scales: &[T],
        (unit, h): (usize, usize),
        scratch: &'s mut [T],
    ) -> (&'s mut [T], &'s mut [T]) {
        let (c, d) = (self.heads * self.head_dim, self.head_dim);
        let Sizes { n, padded_n, padded_d, .. } = self.sizes();
        let (p, rest) = scratch.split_at_mut(n * padded_n);
        let (q, other) = rest.split_at_mut(n * padded_d);
        let (k, other) = other.split_at_mut(n * padded_d);
        let (kt, other) = other.split_at_mut(d * padded_n);
        self.gather(qkv, unit, h * d, 3 * c, q);
        self.gather(qkv, unit, c + h * d, 3 * c, k);
        if let Scores::Cosine(_) = self.scores {
            unit_both(q, k, padded_d, &mut other[..2 * n]);
        }
        transpose(k, d, padded_d, kt);
        self.scores_into(self.scale(scales, h).0, q, kt, unit, p);
        (p, rest)
    }

    /// The probabilities of one (image, window, head), [n, n].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn map_gathered<T: Real>(
        &self,
        qkv: &[T],
        bias: &[T],
        scales: &[T],
        (unit, h): (usize, usize),
        map: &mut [T],
        lse: &mut [T],
        scratch: &mut [T],
    ) {
        let Sizes { n, padded_n, .. } = self.sizes();
        let (p, _) = self.forward_scores(qkv, scales, (unit, h), scratch);
        softmax(p, self.bias_of(bias, h), n, padded_n, lse);
        map.chunks_exact_mut(n).zip(p.chunks_exact(padded_n)).for_each(|(to, from)| to.copy_from_slice(&from[..n]));
    }

    /// One (image, window, head) of the backward pass; adds its dS and the scale's gradient to `sums` unless that is empty.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward_gathered<T: Real>(
        &self,
        v: &Views<T>,
        scales: &[T],
        dqkv: Shared<T>,
        add: bool,
        (unit, h): (usize, usize),
        sums: &mut [T],
        scratch: &mut [T],
    ) {
        let (c, d) = (self.heads * self.head_dim, self.head_dim);
        let Sizes { n, padded_n, padded_d, .. } = self.sizes();
        let (scale, scale_trained) = self.scale(scales, h);
        let cosine = matches!(self.scores, Scores::Cosine(_));
        let mut rest = scratch;
        let mut take = |len: usize| rest.split_off_mut(..len).expect("`gathered_scratch` says how much");
        let (p, ds) = (take(n * padded_n), take(n * padded_n));
        let (q, k, dy, spare) = (take(n * padded_d), take(n * padded_d), take(n * padded_d), take(n * padded_d));
        let (kt, vt, inverse) = (take(d * padded_n), take(d * padded_n), take(2 * n));
        self.gather(v.qkv, unit, h * d, 3 * c, q);
        self.gather(v.qkv, unit, c + h * d, 3 * c, k);
        self.gather(v.qkv, unit, 2 * c + h * d, 3 * c, spare);
        self.gather(v.dy, unit, h * d, c, dy);
        if cosine {
            unit_both(q, k, padded_d, inverse);
        }
        transpose(k, d, padded_d, kt);
        transpose(spare, d, padded_d, vt);
        self.scores_into(scale, q, kt, unit, p);
        probabilities(p, self.bias_of(v.bias, h), n, padded_n, &v.lse[(unit * self.heads + h) * n..][..n]);
        product(T::ONE, Left { data: dy, stride: padded_d, transposed: false }, vt, padded_n, (n, d), ds);
        let (nn, _) = self.slot();
        let (dbias, dscale) = sums.split_at_mut(nn.min(sums.len()));
        score_gradient(p, ds, n, padded_n, cosine, dbias);
        let (out, by_row, by_column) =
            (spare, |data| Left { data, stride: padded_n, transposed: false }, |data| Left { data, stride: padded_n, transposed: true });
        // SAFETY: every (image, window, head) belongs to one task, which writes the 3 x D columns of that head in that window's tokens.
        let write = |part: usize, out: &[T]| unsafe { self.scatter(out, unit, part * c + h * d, 3 * c, dqkv, add) };
        product(scale, by_row(ds), k, padded_d, (n, n), out);
        if cosine {
            let dt = unit_gradient(q, out, padded_d, &inverse[..n]);
            if let ([sum, lost], true) = (dscale, scale_trained) {
                add_exactly(sum, lost, T::of(dt));
            }
        }
        write(0, out);
        product(scale, by_column(ds), q, padded_d, (n, n), out);
        if cosine {
            unit_gradient(k, out, padded_d, &inverse[n..]);
        }
        write(1, out);
        product(T::ONE, by_column(p), dy, padded_d, (n, n), out);
        write(2, out);
    }
}

/// sum += x; what rounding loses is added up apart (Neumaier).
fn add_exactly<T: Real>(sum: &mut T, lost: &mut T, x: T) {
    let total = *sum + x;
    *lost += if sum.abs() >= x.abs() { (*sum - total) + x } else { (x - total) + *sum };
    *sum = total;
}

/// Queries and keys to unit length; what they were multiplied by, one after the other.
fn unit_both<T: Real>(q: &mut [T], k: &mut [T], width: usize, inverse: &mut [T]) {
    let (of_q, of_k) = inverse.split_at_mut(inverse.len() / 2);
    unit(q, width, of_q);
    unit(k, width, of_k);
}
