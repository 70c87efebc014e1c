//! LayerNorm over the last extent: y = (x - mean) · rstd · w + b with rstd = 1 / sqrt(var + eps), or without w and b (the paper's
//! whitening, section 3.1). x, y [.., C]; mean, rstd [rows].
//!
//! With x̂ = (x - mean) rstd and g = dy · w: dx = rstd (g - mean(g) - x̂ mean(g x̂)), dw = Σ dy x̂, db = Σ dy.

mod cuda;

use rayon::prelude::*;

use super::rows::{self, dot, fold, moments};
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::simd::LANES;
use crate::{Error, Param, Real, simd_fn};

#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    pub x: Act,
    pub affine: Option<(Param, Param)>,
    pub eps: f64,
    pub y: Act,
    pub mean: Act,
    pub rstd: Act,
    pub rows: usize,
    pub cols: usize,
}

simd_fn! {
    /// A chunk of rows; empty w and b: no affine part.
    pub(crate) fn normalise<T: Real>(x: &[T], w: &[T], b: &[T], eps: T, y: &mut [T], mean: &mut [T], rstd: &mut [T]) {
        let cols = x.len() / mean.len();
        for (((x, y), m), r) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(mean).zip(rstd) {
            (*m, *r) = moments::<S, T>(x, eps);
            let (m, r) = (*m, *r);
            if w.is_empty() {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (*x - m) * r;
                }
            } else {
                let (w, b) = (&w[..cols], &b[..cols]);
                for i in 0..cols {
                    y[i] = T::fma::<S>((x[i] - m) * r, w[i], b[i]);
                }
            }
        }
    }
}

simd_fn! {
    /// Gradients of a chunk of rows; `dwb` gets this chunk's [dw; db] (empty: not wanted), `how` is 0: no dx, 1: set, 2: add.
    fn gradients<T: Real>(x: &[T], dy: &[T], w: &[T], mean: &[T], rstd: &[T], dx: &mut [T], how: u8, dwb: &mut [T]) {
        let cols = x.len() / mean.len();
        dwb.fill(T::ZERO);
        let n = T::of(cols as f64);
        let (dw, db) = dwb.split_at_mut(dwb.len() / 2);
        for (i, (&m, &r)) in mean.iter().zip(rstd).enumerate() {
            let row = i * cols..(i + 1) * cols;
            let (x, dy) = (&x[row.clone()], &dy[row.clone()]);
            if !dw.is_empty() {
                let (dw, db) = (&mut dw[..cols], &mut db[..cols]);
                for i in 0..cols {
                    dw[i] = T::fma::<S>(dy[i], (x[i] - m) * r, dw[i]);
                    db[i] += dy[i];
                }
            }
            if how == 0 {
                continue;
            }
            let (mean_g, mean_gx) = if w.is_empty() {
                (rows::sum(dy) / n, (dot::<S, T>(dy, x) - m * rows::sum(dy)) * r / n)
            } else {
                let (mut sg, mut sgx) = ([T::ZERO; LANES], [T::ZERO; LANES]);
                let (xs, x_rest) = x.as_chunks::<LANES>();
                let (ds, d_rest) = dy.as_chunks::<LANES>();
                let (ws, w_rest) = w.as_chunks::<LANES>();
                for ((x, d), w) in xs.iter().zip(ds).zip(ws) {
                    for i in 0..LANES {
                        let g = d[i] * w[i];
                        sg[i] += g;
                        sgx[i] = T::fma::<S>(g, x[i] - m, sgx[i]);
                    }
                }
                let (mut g_sum, mut gx_sum) = (fold(sg), fold(sgx));
                for ((x, d), w) in x_rest.iter().zip(d_rest).zip(w_rest) {
                    g_sum += *d * *w;
                    gx_sum = T::fma::<S>(*d * *w, *x - m, gx_sum);
                }
                (g_sum / n, gx_sum * r / n)
            };
            let dx = &mut dx[row];
            let slope = |x: T, g: T| r * (g - mean_g - (x - m) * r * mean_gx);
            let each = dx.iter_mut().zip(x.iter().zip(dy));
            match (how == 2, w.is_empty()) {
                (false, false) => each.zip(w).for_each(|((d, (x, dy)), w)| *d = slope(*x, *dy * *w)),
                (true, false) => each.zip(w).for_each(|((d, (x, dy)), w)| *d += slope(*x, *dy * *w)),
                (false, true) => each.for_each(|(d, (x, dy))| *d = slope(*x, *dy)),
                (true, true) => each.for_each(|(d, (x, dy))| *d += slope(*x, *dy)),
            }
        }
    }
}

impl Operation for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn wiring(&self) -> Wiring {
        let partial = if self.affine.is_some() { rows::tasks(self.rows, self.cols) * 2 * self.cols } else { 0 };
        let flops = (self.rows * self.cols) as u64;
        Wiring {
            outputs: vec![self.y, self.mean, self.rstd],
            backward_reads: vec![self.x, self.mean, self.rstd],
            params: self.affine.into_iter().flat_map(|(w, b)| [w, b]).collect(),
            cheap: true,
            scratch: (0, partial),
            device_scratch: self.device_scratch(),
            flops: (8 * flops, 14 * flops),
            ..Wiring::new(&[self.x], self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, y, mean, rstd] = env.acts.split([self.x, self.y, self.mean, self.rstd].map(At::Value));
        let (w, b): (&[T], &[T]) = self.affine.map_or((&[], &[]), |(w, b)| (env.params.get(w), env.params.get(b)));
        let (per, eps) = (rows::per_task(self.cols), T::of(self.eps));
        let step = per * self.cols;
        (x.par_chunks(step), y.par_chunks_mut(step), mean.par_chunks_mut(per), rstd.par_chunks_mut(per))
            .into_par_iter()
            .for_each(|(x, y, mean, rstd)| normalise(x, w, b, eps, y, mean, rstd));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = match env.deliver(self.x) {
            Deliver::Skip => 0,
            Deliver::Set => 1,
            Deliver::Add => 2,
            Deliver::InPlace => unreachable!("never offered"),
        };
        let w: &[T] = self.affine.map_or(&[], |(w, _)| env.params.get(w));
        let wants = self.affine.is_some_and(|(w, _)| env.grads.wants(w));
        let (per, step) = (rows::per_task(self.cols), rows::per_task(self.cols) * self.cols);
        let dx = if how == 0 { At::Nothing } else { At::Grad(self.x) };
        let [x, mean, rstd, dy, dx, partial] =
            env.acts.split([At::Value(self.x), At::Value(self.mean), At::Value(self.rstd), At::Grad(self.y), dx, At::Scratch]);
        let (x, mean, rstd, dy) = (&*x, &*mean, &*rstd, &*dy);
        let run = |task: usize, dx: &mut [T], dwb: &mut [T]| {
            let (at, len) = (task * per, per.min(self.rows - task * per));
            let r = at * self.cols..(at + len) * self.cols;
            gradients(&x[r.clone()], &dy[r], w, &mean[at..at + len], &rstd[at..at + len], dx, how, dwb);
        };
        let parts = partial.par_chunks_mut(2 * self.cols);
        match (how, wants) {
            (0, false) => {}
            (0, true) => parts.enumerate().for_each(|(task, part)| run(task, &mut [], part)),
            (_, false) => dx.par_chunks_mut(step).enumerate().for_each(|(task, dx)| run(task, dx, &mut [])),
            (_, true) => dx.par_chunks_mut(step).zip(parts).enumerate().for_each(|(task, (dx, part))| run(task, dx, part)),
        }
        if let (true, Some((w, b))) = (wants, self.affine) {
            let [dw, db] = env.grads.split([w, b]);
            for (half, grad) in [dw, db].into_iter().enumerate() {
                let Some((grad, add)) = grad else { continue };
                if !add {
                    grad.fill(T::ZERO);
                }
                let column = half * self.cols..(half + 1) * self.cols;
                partial.chunks_exact(2 * self.cols).for_each(|p| rows::add_to(grad, &p[column.clone()]));
            }
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
