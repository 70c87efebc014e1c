//! Residual branch: out = x + s · γ ∘ y with LayerScale γ [C] (or 1) and drop path s, a number a sample: 0 or 1 / (1 - rate).
//! x, y, out [B, .., C].
//!
//! dx = dout (in the same memory where possible), dy = s · γ ∘ dout, dγ = Σ s · dout ∘ y. Nothing of s is stored: it is a function of
//! (seed, step, site, sample, view).

mod cuda;

use rayon::prelude::*;

use super::rows;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env, StepKey};
use crate::plan::{Act, Deliver};
use crate::random::uniform;
use crate::{Error, Param, Real, simd_fn};

/// Stochastic depth of one residual branch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropPath {
    /// Probability that a sample's branch is dropped, in 0..1.
    pub rate: f64,
    /// Which branch of the model: masks of different sites are independent.
    pub site: u32,
}

impl DropPath {
    /// 0, or 1 / (1 - rate), for the sample at `index` of this run's batch.
    pub(crate) fn scale(self, key: StepKey, index: usize) -> f64 {
        let word = [key.seed, key.step, u64::from(self.site), key.first_sample + index as u64, key.view];
        if uniform(&word) < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Residual {
    pub x: Act,
    pub y: Act,
    pub gamma: Option<Param>,
    pub drop: Option<DropPath>,
    pub out: Act,
    pub batch: usize,
    pub rows: usize,
    pub cols: usize,
}

/// The factors of the rows from some row on: one a sample.
#[derive(Clone, Copy)]
struct Scales {
    drop: Option<DropPath>,
    key: StepKey,
    sample: usize,
    /// Rows of this sample that are still to come, and of a whole one.
    left: usize,
    rows: usize,
    scale: f64,
}

impl Scales {
    fn next_row<T: Real>(&mut self) -> T {
        if self.left == 0 {
            (self.sample, self.left) = (self.sample + 1, self.rows);
            self.scale = self.drop.map_or(1.0, |d| d.scale(self.key, self.sample));
        }
        self.left -= 1;
        T::of(self.scale)
    }
}

simd_fn! {
    fn add_branch<T: Real>(x: &[T], y: &[T], gamma: &[T], scales: Scales, out: &mut [T], cols: usize) {
        let mut scales = scales;
        for ((x, y), out) in x.chunks_exact(cols).zip(y.chunks_exact(cols)).zip(out.chunks_exact_mut(cols)) {
            let s: T = scales.next_row();
            if gamma.is_empty() {
                for i in 0..cols {
                    out[i] = T::fma::<S>(s, y[i], x[i]);
                }
            } else {
                let g = &gamma[..cols];
                for i in 0..cols {
                    out[i] = T::fma::<S>(s * g[i], y[i], x[i]);
                }
            }
        }
    }
}

simd_fn! {
    /// dy of a chunk of rows (`how` 0: none, 1: set, 2: add), and this chunk's dγ (empty: not wanted; then y may be empty too).
    fn branch_gradient<T: Real>(
        dout: &[T],
        y: &[T],
        gamma: &[T],
        scales: Scales,
        dy: &mut [T],
        how: u8,
        dgamma: &mut [T],
        cols: usize,
    ) {
        dgamma.fill(T::ZERO);
        let mut scales = scales;
        for (r, dout) in dout.chunks_exact(cols).enumerate() {
            let (s, row): (T, _) = (scales.next_row(), r * cols..(r + 1) * cols);
            if how > 0 {
                let dy = &mut dy[row.clone()];
                for i in 0..cols {
                    let d = if gamma.is_empty() { s * dout[i] } else { s * gamma[i] * dout[i] };
                    dy[i] = if how == 2 { dy[i] + d } else { d };
                }
            }
            if !dgamma.is_empty() {
                let (y, dg) = (&y[row], &mut dgamma[..cols]);
                for i in 0..cols {
                    dg[i] = T::fma::<S>(s * dout[i], y[i], dg[i]);
                }
            }
        }
    }
}

impl Residual {
    /// The factors of all rows from `first` on.
    fn scales<T>(&self, env: &Env<T>) -> impl Fn(usize) -> Scales + use<T> {
        let (drop, key, rows) = (self.drop.filter(|d| env.train && d.rate > 0.0), env.key, self.rows / self.batch);
        move |first| {
            let sample = first / rows;
            let scale = drop.map_or(1.0, |d| d.scale(key, sample));
            Scales { drop, key, sample, left: rows - first % rows, rows, scale }
        }
    }
}

impl Operation for Residual {
    const NAME: &'static str = "residual";

    fn wiring(&self) -> Wiring {
        let flops = (self.rows * self.cols) as u64;
        let partial = if self.gamma.is_some() { rows::tasks(self.rows, self.cols) * self.cols } else { 0 };
        Wiring {
            backward_reads: if self.gamma.is_some() { vec![self.y] } else { vec![] },
            params: self.gamma.into_iter().collect(),
            in_place: Some(self.x),
            scratch: (0, partial),
            device_scratch: self.device_scratch(),
            flops: (2 * flops, 4 * flops),
            ..Wiring::new(&[self.x, self.y], self.out)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let scales = self.scales(env);
        let [x, y, out] = env.acts.split([self.x, self.y, self.out].map(At::Value));
        let gamma: &[T] = self.gamma.map_or(&[], |g| env.params.get(g));
        let (per, cols) = (rows::per_task(self.cols), self.cols);
        let step = per * cols;
        (x.par_chunks(step), y.par_chunks(step), out.par_chunks_mut(step)).into_par_iter().enumerate().for_each(|(task, (x, y, out))| {
            add_branch(x, y, gamma, scales(task * per), out, cols);
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let scales = self.scales(env);
        let (how_x, how_y) = (env.deliver(self.x), env.deliver(self.y));
        let wants = self.gamma.is_some_and(|g| env.grads.wants(g));
        let gamma: &[T] = self.gamma.map_or(&[], |g| env.params.get(g));
        let (per, cols) = (rows::per_task(self.cols), self.cols);
        let step = per * cols;
        let how = match how_y {
            Deliver::Skip => 0,
            Deliver::Set => 1,
            Deliver::Add => 2,
            Deliver::InPlace => unreachable!("offered to x only"),
        };
        let (y, dy) = (if wants { At::Value(self.y) } else { At::Nothing }, if how > 0 { At::Grad(self.y) } else { At::Nothing });
        let [y, dout, dy, partial] = env.acts.split([y, At::Grad(self.out), dy, At::Scratch]);
        let (y, dout) = (&*y, &*dout);
        let run = |task: usize, dy: &mut [T], dgamma: &mut [T]| {
            let r = task * step..dout.len().min((task + 1) * step);
            branch_gradient(&dout[r.clone()], if wants { &y[r] } else { y }, gamma, scales(task * per), dy, how, dgamma, cols);
        };
        let parts = partial.par_chunks_mut(cols);
        match (how, wants) {
            (0, false) => {}
            (0, true) => parts.enumerate().for_each(|(task, part)| run(task, &mut [], part)),
            (_, false) => dy.par_chunks_mut(step).enumerate().for_each(|(task, dy)| run(task, dy, &mut [])),
            (_, true) => dy.par_chunks_mut(step).zip(parts).enumerate().for_each(|(task, (dy, part))| run(task, dy, part)),
        }
        if let Some([Some((dgamma, add))]) = self.gamma.filter(|_| wants).map(|g| env.grads.split([g])) {
            rows::reduce(partial, dgamma, add);
        }
        if matches!(how_x, Deliver::Set | Deliver::Add) {
            let [dout, dx] = env.acts.split([At::Grad(self.out), At::Grad(self.x)]);
            rows::copy_or_add(how_x, dx, dout);
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
