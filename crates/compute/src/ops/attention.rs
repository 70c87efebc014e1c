//! Multi-head attention with an optional additive bias. qkv [B, N, 3C] holds queries, keys and values side by side, each as H heads
//! of D = C / H; bias [H, n, n]; y [B, N, C]; lse [B W, H, n], where the N tokens are W windows of n (one of N, mostly).
//!
//! S = s · q kᵀ + bias (or s · cos(q, k), see [`Scores`]), lse = log Σ exp S, P = exp(S - lse), y = P v. One (image, window, head) at
//! a time: nothing of size B·H·N·N exists. The backward pass computes P again from q, k and lse:
//! dP = dy vᵀ, dS = P ∘ (dP - rowsum(P ∘ dP)), dv = Pᵀ dy, dq = s · dS k, dk = s · dSᵀ q, dbias = Σ over images and windows of dS,
//! summed in groups that depend on their number only.
//!
//! Here: the plain case, whose heads are read and written where they are. `gathered` has windows, causal and cosine attention.

mod cuda;
mod gathered;
mod span;
mod tile;
mod window_rows;

use std::sync::Arc;

use rayon::prelude::*;

use super::rows::{self, dot};
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::gemm::{Mat, MatMut, Operands, Product, Threads};
use crate::plan::{Act, Deliver};
use crate::{Error, Param, Real, simd_fn};

pub use span::{Scores, Span, Windows};

#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub qkv: Act,
    pub bias: Option<Act>,
    pub y: Act,
    pub lse: Act,
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub scores: Scores,
    pub span: Span,
    /// The tokens of the first window, then of the next; empty in the plain case.
    pub order: Arc<[u32]>,
}

/// Groups of (image, window) whose gradients of bias and scales are summed apart and then added up; at least, for windows.
const GROUPS: usize = 16;

simd_fn! {
    /// Rows of scores, `width` apart, to rows of probabilities, in place; writes each row's lse. The places beyond n are there so that
    /// vectors have no rest; nothing reads what becomes of them.
    fn softmax<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &mut [T]) {
        for (i, (row, lse)) in s.chunks_exact_mut(width).zip(lse).enumerate() {
            if !bias.is_empty() {
                rows::add_row(&mut row[..n], &bias[i * n..(i + 1) * n]);
            }
            row[n..].fill(T::LOWEST);
            let top = rows::max(row);
            for s in row.iter_mut() {
                *s = (*s - top).exp::<S>();
            }
            let total = rows::sum(&row[..n]);
            let inverse = T::ONE / total;
            for s in row.iter_mut() {
                *s *= inverse;
            }
            *lse = top + total.ln();
        }
    }
}

simd_fn! {
    /// Scores to probabilities with a known lse, in place.
    fn probabilities<T: Real>(s: &mut [T], bias: &[T], n: usize, width: usize, lse: &[T]) {
        for (i, (row, lse)) in s.chunks_exact_mut(width).zip(lse).enumerate() {
            if !bias.is_empty() {
                rows::add_row(&mut row[..n], &bias[i * n..(i + 1) * n]);
            }
            for s in row.iter_mut() {
                *s = (*s - *lse).exp::<S>();
            }
        }
    }
}

simd_fn! {
    /// dP to dS in place; adds dS to dbias unless that is empty.
    fn score_gradient<T: Real>(p: &[T], dp: &mut [T], n: usize, width: usize, dbias: &mut [T]) {
        for (i, (p, dp)) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)).enumerate() {
            let mean = dot::<S, T>(&p[..n], &dp[..n]);
            for (d, p) in dp.iter_mut().zip(p) {
                *d = *p * (*d - mean);
            }
            if !dbias.is_empty() {
                rows::add_row(&mut dbias[i * n..(i + 1) * n], &dp[..n]);
            }
        }
    }
}

/// A pointer that tasks share; each writes columns of its own.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: the tasks of one parallel region write disjoint columns through it (see `stripe`).
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Columns `at..at + cols` of image `b` in a matrix [B, rows, stride].
    ///
    /// # Safety
    /// The range must lie inside the buffer, and no other task may touch these columns of this image.
    unsafe fn stripe<'a>(self, b: usize, at: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'a, T> {
        // SAFETY: the caller's promise.
        unsafe { MatMut::stripe(self.0.add(b * rows * stride + at), rows, cols, stride) }
    }
}

impl Attention {
    /// Queries, keys and values of one image and head: [N, D] each.
    fn heads_of<'a, T>(&self, qkv: &'a [T], b: usize, h: usize) -> [Mat<'a, T>; 3] {
        let (n, d, c) = (self.tokens, self.head_dim, self.heads * self.head_dim);
        let image = &qkv[b * n * 3 * c..(b + 1) * n * 3 * c];
        [0, 1, 2].map(|part| Mat::strided(&image[part * c + h * d..], n, d, 3 * c))
    }

    fn bias_of<'a, T>(&self, bias: &'a [T], h: usize) -> &'a [T] {
        let n = self.span.extents(self.tokens).1;
        if bias.is_empty() { bias } else { &bias[h * n * n..(h + 1) * n * n] }
    }

    /// The factor of the plain case.
    fn plain(&self) -> Option<f64> {
        match (self.scores, &self.span) {
            (Scores::Scaled(scale), Span::Whole) => Some(scale),
            _ => None,
        }
    }

    /// The trained scales of the heads.
    fn logit_scale(&self) -> Option<Param> {
        if let Scores::Cosine(p) = self.scores { Some(p) } else { None }
    }

    /// (image, window) pairs.
    fn units(&self) -> usize {
        self.batch * self.span.extents(self.tokens).0
    }

    /// Groups of units whose sums are kept apart: more where they are small, so that there are tasks enough.
    fn groups(&self) -> usize {
        let (nn, one) = self.slot();
        let most = if self.plain().is_some() { GROUPS } else { ((1 << 21) / (self.heads * (nn + one)).max(1)).clamp(GROUPS, 4 * GROUPS) };
        most.min(self.units())
    }

    /// What a task of the backward pass adds up for its head: elements of dbias; the scale's gradient, as a sum and what its rounding
    /// loses.
    fn slot(&self) -> (usize, usize) {
        let n = self.span.extents(self.tokens).1;
        (if self.bias.is_some() { n * n } else { 0 }, 2 * usize::from(self.logit_scale().is_some()))
    }

    /// Places of a row of scores.
    fn row(&self) -> usize {
        self.tokens.next_multiple_of(rows::WHOLE)
    }

    /// The probabilities of one (image, head), rows [`row`](Attention::row) apart, and their lse.
    fn forward_head<T: Real>(&self, v: &Views<T>, scale: T, (b, h): (usize, usize), p: &mut [T], lse: &mut [T]) {
        let (n, width) = (self.tokens, self.row());
        let [q, k, _] = self.heads_of(v.qkv, b, h);
        v.product(scale, false).run(q, k.t(), MatMut::loose(p, n, n, width));
        softmax(p, self.bias_of(v.bias, h), n, width, lse);
    }

    /// One (image, head) of the backward pass; adds its dS to dbias unless that is empty.
    #[allow(clippy::too_many_arguments)]
    fn backward_head<T: Real>(
        &self,
        v: &Views<T>,
        scale: T,
        dqkv: Shared<T>,
        add: bool,
        (b, h): (usize, usize),
        dbias: &mut [T],
        scratch: &mut [T],
    ) {
        let (n, d, c, width) = (self.tokens, self.head_dim, self.heads * self.head_dim, self.row());
        let (p, ds) = scratch.split_at_mut(n * width);
        let [q, k, value] = self.heads_of(v.qkv, b, h);
        let dy = Mat::strided(&v.dy[b * n * c + h * d..(b + 1) * n * c], n, d, c);
        v.product(scale, false).run(q, k.t(), MatMut::loose(p, n, n, width));
        probabilities(p, self.bias_of(v.bias, h), n, width, &v.lse[(b * self.heads + h) * n..][..n]);
        v.product(T::ONE, false).run(dy, value.t(), MatMut::loose(ds, n, n, width));
        score_gradient(p, ds, n, width, dbias);
        let (p, ds) = (Mat::strided(p, n, n, width), Mat::strided(ds, n, n, width));
        // SAFETY: every (image, head) belongs to one task, and writes its own 3 x D columns of dqkv.
        let [dq, dk, dv] = unsafe { [0, 1, 2].map(|part| dqkv.stripe(b, part * c + h * d, n, d, 3 * c)) };
        v.product(scale, add).run(ds, k, dq);
        v.product(scale, add).run(ds.t(), q, dk);
        v.product(T::ONE, add).run(p.t(), dy, dv);
    }
}

/// What a pass reads (lse and dy: the backward pass), and what its products round operands to.
struct Views<'a, T> {
    qkv: &'a [T],
    bias: &'a [T],
    lse: &'a [T],
    dy: &'a [T],
    operands: Operands,
}

impl<T: Real> Views<'_, T> {
    /// A product of one (image, head), within a task.
    fn product(&self, alpha: T, add: bool) -> Product<'static, T> {
        Product { alpha, threads: Threads::One, ..Product::all(self.operands, add) }
    }
}

impl Operation for Attention {
    const NAME: &'static str = "attention";

    fn wiring(&self) -> Wiring {
        let (windows, n) = self.span.extents(self.tokens);
        let pairs = (self.batch * windows * self.heads * n * n) as u64;
        let (nn, one) = self.slot();
        let inputs: Vec<Act> = std::iter::once(self.qkv).chain(self.bias).collect();
        Wiring {
            outputs: vec![self.y, self.lse],
            // y is for devices; the layer behind it mostly keeps it anyway.
            backward_reads: [self.qkv, self.lse, self.y].into_iter().chain(self.bias).collect(),
            params: self.logit_scale().into_iter().collect(),
            exact: self.bias.into_iter().collect(),
            scratch: (0, self.groups() * self.heads * (nn + one)),
            device_scratch: self.device_scratch(),
            flops: (pairs * (4 * self.head_dim as u64 + 5), pairs * (10 * self.head_dim as u64 + 8)),
            ..Wiring::new(&inputs, self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let Some(scale) = self.plain() else { return self.forward_gathered(env) };
        let (n, d, c) = (self.tokens, self.head_dim, self.heads * self.head_dim);
        let bias = self.bias.map_or(At::Nothing, At::Value);
        let [qkv, bias, y, lse] = env.acts.split([At::Value(self.qkv), bias, At::Value(self.y), At::Value(self.lse)]);
        let (views, y) = (Views { qkv, bias, lse: &[], dy: &[], operands: env.operands }, Shared(y.as_mut_ptr()));
        let (scale, width) = (T::of(scale), self.row());
        lse.par_chunks_mut(n).enumerate().for_each(|(task, lse)| {
            let (b, h) = (task / self.heads, task % self.heads);
            rows::with_scratch(n * width, |p: &mut [T]| {
                self.forward_head(&views, scale, (b, h), p, lse);
                let [_, _, v] = self.heads_of(views.qkv, b, h);
                // SAFETY: task (b, h) writes the D columns of head h in image b, nobody else does.
                let y = unsafe { y.stripe(b, h * d, n, d, c) };
                views.product(T::ONE, false).run(Mat::strided(p, n, n, width), v, y);
            });
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let (how, how_bias) = (env.deliver(self.qkv), self.bias.map_or(Deliver::Skip, |b| env.deliver(b)));
        assert!(how != Deliver::Skip, "attention weights without trained projections are not differentiated");
        let wants_scale = self.logit_scale().is_some_and(|p| env.grads.wants(p));
        let scales = self.scales(env);
        let bias = self.bias.map_or(At::Nothing, At::Value);
        let [qkv, bias, lse, dy, dqkv, partial] =
            env.acts.split([At::Value(self.qkv), bias, At::Value(self.lse), At::Grad(self.y), At::Grad(self.qkv), At::Scratch]);
        let views = Views { qkv, bias, lse, dy, operands: env.operands };
        let (dqkv, add) = (Shared(dqkv.as_mut_ptr()), how == Deliver::Add);
        let n = self.span.extents(self.tokens).1;
        let one = |unit: usize, h: usize, sums: &mut [T], s: &mut [T]| match self.plain() {
            Some(scale) => self.backward_head(&views, T::of(scale), dqkv, add, (unit, h), sums, s),
            None => self.backward_gathered(&views, scales, dqkv, add, (unit, h), sums, s),
        };
        let scratch = if self.plain().is_some() { 2 * n * self.row() } else { self.gathered_scratch() };
        let units = self.units();
        if how_bias == Deliver::Skip && !wants_scale {
            (0..units * self.heads).into_par_iter().for_each(|task| {
                rows::with_scratch(scratch, |s: &mut [T]| one(task / self.heads, task % self.heads, &mut [], s));
            });
            return;
        }
        let (groups, (nn, extra)) = (self.groups(), self.slot());
        // The heads of a window lie side by side in memory: a task of windows does them all. An image's heads are tasks of their own.
        let heads = if self.plain().is_some() { 1 } else { self.heads };
        partial.par_chunks_mut(heads * (nn + extra)).enumerate().for_each(|(task, sums)| {
            let (group, first) = (task * heads / self.heads, task * heads % self.heads);
            sums.fill(T::ZERO);
            rows::with_scratch(scratch, |s: &mut [T]| {
                for unit in group * units / groups..(group + 1) * units / groups {
                    for (h, sums) in (first..).zip(sums.chunks_exact_mut(nn + extra)) {
                        one(unit, h, sums, s);
                    }
                }
            });
        });
        self.reduce(env, how_bias);
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}

impl Attention {
    /// Adds the groups' sums up, in their order.
    fn reduce<T: Real>(&self, env: &mut Env<T>, how_bias: Deliver) {
        let (nn, extra) = self.slot();
        let head = nn + extra;
        if let Some(bias) = self.bias.filter(|_| how_bias != Deliver::Skip) {
            let [partial, dbias] = env.acts.split([At::Scratch, At::Grad(bias)]);
            let partial = &*partial;
            dbias.par_chunks_mut(nn).enumerate().for_each(|(h, d)| {
                if how_bias == Deliver::Set {
                    d.fill(T::ZERO);
                }
                partial.chunks_exact(head).skip(h).step_by(self.heads).for_each(|p| rows::add_to(d, &p[..nn]));
            });
        }
        let Some(logit_scale) = self.logit_scale() else { return };
        let [partial] = env.acts.split([At::Scratch]);
        let parts = |h: usize| partial.chunks_exact(head).skip(h).step_by(self.heads);
        let total = |h: usize| T::of(parts(h).map(|p| p[nn].f64() + p[nn + 1].f64()).sum());
        if let [Some((d, add))] = env.grads.split([logit_scale]) {
            d.iter_mut().enumerate().for_each(|(h, d)| *d = if add { *d + total(h) } else { total(h) });
        }
    }
}

/// The probabilities themselves, for analyses: P [B W, H, n, n] from qkv and bias as in [`Attention`]. It has no gradient.
#[derive(Clone, Debug)]
pub(crate) struct AttentionMap {
    pub of: Attention,
}

impl Operation for AttentionMap {
    const NAME: &'static str = "attention_map";

    fn wiring(&self) -> Wiring {
        let w = self.of.wiring();
        let inputs = w.inputs.iter().map(|i| super::Input { differentiable: false, ..*i }).collect();
        Wiring { inputs, outputs: w.outputs, exact: w.exact, flops: (w.flops.0 / 2, 0), ..Wiring::default() }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let a = &self.of;
        let scales = a.scales(env);
        let bias = a.bias.map_or(At::Nothing, At::Value);
        let [qkv, bias, maps, lse] = env.acts.split([At::Value(a.qkv), bias, At::Value(a.y), At::Value(a.lse)]);
        let n = a.span.extents(a.tokens).1;
        let views = Views { qkv, bias, lse: &[], dy: &[], operands: env.operands };
        maps.par_chunks_mut(n * n).zip(lse.par_chunks_mut(n)).enumerate().for_each(|(task, (p, lse))| {
            let (unit, h) = (task / a.heads, task % a.heads);
            if let Some(scale) = a.plain() {
                let width = a.row();
                rows::with_scratch(n * width, |s: &mut [T]| {
                    a.forward_head(&views, T::of(scale), (unit, h), s, lse);
                    p.chunks_exact_mut(n).zip(s.chunks_exact(width)).for_each(|(p, s)| p.copy_from_slice(&s[..n]));
                });
            } else {
                rows::with_scratch(a.gathered_scratch(), |s: &mut [T]| a.map_gathered(views.qkv, views.bias, scales, (unit, h), p, lse, s));
            }
        });
    }

    fn backward<T: Real>(&self, _: &mut Env<T>) {}

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, _: &mut Run) -> Result<(), Error> {
        Ok(())
    }
}
