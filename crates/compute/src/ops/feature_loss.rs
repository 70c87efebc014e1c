//! Distance between predicted and target features: a mean over all elements (cosine: over rows). pred, target [.., C]; loss [1].
//!
//! With `whiten`, the target's rows are normalised first (LayerNorm without affine part, the paper's section 3.1); they are
//! normalised again in the backward pass rather than kept. d = pred - target':
//! - smooth L1: d² / (2 beta) where |d| <= beta, else |d| - beta / 2
//! - L1: |d|; MSE: d²
//! - cosine: 1 - p·t / (max(|p|, 1e-8) max(|t|, 1e-8))
//!
//! The target has no gradient.

mod cuda;

use rayon::prelude::*;

use super::rows::{self, dot, moments};
use super::{Input, Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::simd::Simd;
use crate::{Error, Real, simd_fn};

/// A distance between features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// d² / (2 beta) for |d| <= beta, |d| - beta / 2 beyond: the paper's, with beta = 2.
    SmoothL1 {
        /// Where it turns linear.
        beta: f64,
    },
    /// |d|.
    L1,
    /// d².
    Mse,
    /// 1 - cosine similarity, by row.
    Cosine,
}

#[derive(Clone, Debug)]
pub(crate) struct FeatureLoss {
    pub pred: Act,
    pub target: Act,
    pub distance: Distance,
    /// Epsilon of the whitening LayerNorm.
    pub whiten: Option<f64>,
    pub loss: Act,
    pub rows: usize,
    pub cols: usize,
}

/// |x| of cosine similarity is at least this.
const COSINE_FLOOR: f64 = 1e-8;

/// 1, 0 or -1.
#[inline(always)]
fn sign<T: Real>(d: T) -> T {
    if d > T::ZERO {
        T::ONE
    } else if d < T::ZERO {
        -T::ONE
    } else {
        T::ZERO
    }
}

/// The slope of smooth L1.
#[inline(always)]
fn smooth_slope<T: Real>(beta: T, d: T) -> T {
    if d.abs() <= beta { d / beta } else { sign(d) }
}

/// (value, slope) of one element's distance.
#[inline(always)]
fn element<T: Real>(distance: Distance, d: T) -> (T, T) {
    match distance {
        Distance::SmoothL1 { beta } => {
            let (beta, a) = (T::of(beta), d.abs());
            (if a <= beta { T::of(0.5) * d * d / beta } else { a - T::of(0.5) * beta }, smooth_slope(beta, d))
        }
        Distance::L1 => (d.abs(), sign(d)),
        Distance::Mse => (d * d, d + d),
        Distance::Cosine => unreachable!("by row"),
    }
}

/// Mean and factor that turn a target row t into (t - mean) · factor.
#[inline(always)]
fn whitening<S: Simd, T: Real>(t: &[T], eps: Option<T>) -> (T, T) {
    // Not a closure, which would not be compiled for the level.
    match eps {
        Some(eps) => moments::<S, T>(t, eps),
        None => (T::ZERO, T::ONE),
    }
}

simd_fn! {
    /// Sum of the distances of a chunk of rows.
    fn total<T: Real>(distance: Distance, eps: Option<T>, pred: &[T], target: &[T], cols: usize) -> T {
        let mut all = T::ZERO;
        for (p, t) in pred.chunks_exact(cols).zip(target.chunks_exact(cols)) {
            let (m, r) = whitening::<S, T>(t, eps);
            if distance == Distance::Cosine {
                all += T::ONE - cosine::<S, T>(p, t, m, r).0;
                continue;
            }
            let mut lanes = [T::ZERO; crate::simd::LANES];
            let ((ps, p_rest), (ts, t_rest)) = (p.as_chunks::<{ crate::simd::LANES }>(), t.as_chunks::<{ crate::simd::LANES }>());
            for (p, t) in ps.iter().zip(ts) {
                for i in 0..crate::simd::LANES {
                    lanes[i] += element(distance, p[i] - (t[i] - m) * r).0;
                }
            }
            all += p_rest.iter().zip(t_rest).fold(rows::fold(lanes), |s, (&p, &t)| s + element(distance, p - (t - m) * r).0);
        }
        all
    }
}

simd_fn! {
    /// Gradient of a chunk of rows times `g`, set or added.
    fn gradients<T: Real>(distance: Distance, eps: Option<T>, pred: &[T], target: &[T], g: T, dpred: &mut [T], add: bool, cols: usize) {
        for ((p, t), d) in pred.chunks_exact(cols).zip(target.chunks_exact(cols)).zip(dpred.chunks_exact_mut(cols)) {
            let (m, r) = whitening::<S, T>(t, eps);
            if distance == Distance::Cosine {
                let (cos, p_norm, t_norm) = cosine::<S, T>(p, t, m, r);
                // Below the floor |p| is a constant.
                let radial = if p_norm > T::of(COSINE_FLOOR) { cos / (p_norm * p_norm) } else { T::ZERO };
                for i in 0..cols {
                    let slope = g * (p[i] * radial - (t[i] - m) * r / (p_norm * t_norm));
                    d[i] = if add { d[i] + slope } else { slope };
                }
                continue;
            }
            let of = |x: T, t: T| x - (t - m) * r;
            let each = d.iter_mut().zip(p.iter().zip(t));
            // One loop a distance, without a branch in it.
            match (distance, add) {
                (Distance::SmoothL1 { beta }, false) => each.for_each(|(d, (p, t))| *d = g * smooth_slope(T::of(beta), of(*p, *t))),
                (Distance::SmoothL1 { beta }, true) => each.for_each(|(d, (p, t))| *d += g * smooth_slope(T::of(beta), of(*p, *t))),
                (_, false) => each.for_each(|(d, (p, t))| *d = g * element(distance, of(*p, *t)).1),
                (_, true) => each.for_each(|(d, (p, t))| *d += g * element(distance, of(*p, *t)).1),
            }
        }
    }
}

/// Cosine similarity of p and (t - m) r, and the two norms, not below the floor.
#[inline(always)]
fn cosine<S: Simd, T: Real>(p: &[T], t: &[T], m: T, r: T) -> (T, T, T) {
    let floor = T::of(COSINE_FLOOR);
    let (mut pt, mut tt) = (T::ZERO, T::ZERO);
    for (p, t) in p.iter().zip(t) {
        let t = (*t - m) * r;
        pt = T::fma::<S>(*p, t, pt);
        tt = T::fma::<S>(t, t, tt);
    }
    let (p_norm, t_norm) = (dot::<S, T>(p, p).sqrt().maximum(floor), tt.sqrt().maximum(floor));
    (pt / (p_norm * t_norm), p_norm, t_norm)
}

impl FeatureLoss {
    /// The loss is the sum divided by this.
    fn count(&self) -> f64 {
        let elements = if self.distance == Distance::Cosine { self.rows } else { self.rows * self.cols };
        elements as f64
    }
}

impl Operation for FeatureLoss {
    const NAME: &'static str = "feature_loss";

    fn wiring(&self) -> Wiring {
        let flops = 12 * (self.rows * self.cols) as u64;
        Wiring {
            inputs: vec![Input { act: self.pred, differentiable: true }, Input { act: self.target, differentiable: false }],
            backward_reads: vec![self.pred, self.target],
            scratch: (rows::tasks(self.rows, self.cols), 0),
            device_scratch: self.device_scratch(),
            exact: vec![self.loss],
            flops: (flops, flops),
            ..Wiring::new(&[], self.loss)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let step = rows::per_task(self.cols) * self.cols;
        let eps = self.whiten.map(T::of);
        let [p, t, loss, partial] = env.acts.split([At::Value(self.pred), At::Value(self.target), At::Value(self.loss), At::Scratch]);
        (p.par_chunks(step), t.par_chunks(step), partial.par_chunks_mut(1))
            .into_par_iter()
            .for_each(|(p, t, sum)| sum[0] = total(self.distance, eps, p, t, self.cols));
        loss[0] = T::of(partial.iter().map(|s| s.f64()).sum::<f64>() / self.count());
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.pred);
        if how == Deliver::Skip {
            return;
        }
        let step = rows::per_task(self.cols) * self.cols;
        let eps = self.whiten.map(T::of);
        let [p, t, seed, d] = env.acts.split([At::Value(self.pred), At::Value(self.target), At::Grad(self.loss), At::Grad(self.pred)]);
        let g = T::of(seed[0].f64() / self.count());
        (p.par_chunks(step), t.par_chunks(step), d.par_chunks_mut(step))
            .into_par_iter()
            .for_each(|(p, t, d)| gradients(self.distance, eps, p, t, g, d, how == Deliver::Add, self.cols));
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
