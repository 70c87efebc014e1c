//! Attention whose operands are first copied side by side: windows, whose tokens lie apart in the map, cosine scores, whose queries and
//! keys are normalised on the way, and causal attention. One (image, window, head) at a time.
//!
//! With q̂ = q / max(|q|, 1e-12) and s = exp(min(t, ln 100)): S = s q̂ k̂ᵀ + bias; dq̂ = s dS k̂, dq = (dq̂ - q̂ (q̂ · dq̂)) / |q|, and
//! dt = Σ q̂ · dq̂ where t is not above the clamp, else 0.

use rayon::prelude::*;

use super::tile::{Left, WIDTH, product};
use super::window_rows::{
    add_exactly, deliver, gather, mask_later, mask_regions, probabilities, score_gradient, softmax, transpose, unit_both, unit_gradient,
};
use super::{Attention, Scores, Shared, Span, Views, rows};
use crate::Real;
use crate::exec::{At, Env};

/// Largest scale of cosine attention: its logarithm is where the trained value stops to count.
const LARGEST_SCALE: f64 = 100.0;

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
