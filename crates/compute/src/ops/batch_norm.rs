//! BatchNorm without affine part, in training mode: y = (x - mean) / sqrt(var + eps) over the batch. x, y [B, C]; mean, var [C], var
//! without Bessel's correction.
//!
//! With x̂ = y: dx = (dy - mean(dy) - x̂ mean(dy x̂)) / sqrt(var + eps), means over the batch.

mod cuda;

use super::rows::scale_to;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct BatchNorm {
    pub x: Act,
    pub eps: f64,
    pub y: Act,
    pub mean: Act,
    pub var: Act,
    pub rows: usize,
    pub cols: usize,
}

impl Operation for BatchNorm {
    const NAME: &'static str = "batch_norm";

    fn wiring(&self) -> Wiring {
        let flops = (self.rows * self.cols) as u64;
        Wiring {
            outputs: vec![self.y, self.mean, self.var],
            backward_reads: vec![self.y, self.var],
            scratch: (0, 2 * self.cols),
            flops: (6 * flops, 8 * flops),
            ..Wiring::new(&[self.x], self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, y, mean, var] = env.acts.split([self.x, self.y, self.mean, self.var].map(At::Value));
        let (c, one_over_n, eps) = (self.cols, T::of(1.0 / self.rows as f64), T::of(self.eps));
        mean.fill(T::ZERO);
        x.chunks_exact(c).for_each(|row| scale_to(mean, row, one_over_n, true));
        var.fill(T::ZERO);
        for row in x.chunks_exact(c) {
            for i in 0..c {
                let d = row[i] - mean[i];
                var[i] += d * d * one_over_n;
            }
        }
        for (row, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for i in 0..c {
                y[i] = (row[i] - mean[i]) / (var[i] + eps).sqrt();
            }
        }
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let (c, one_over_n, eps) = (self.cols, T::of(1.0 / self.rows as f64), T::of(self.eps));
        let [y, var, dy, dx, sums] =
            env.acts.split([At::Value(self.y), At::Value(self.var), At::Grad(self.y), At::Grad(self.x), At::Scratch]);
        sums.fill(T::ZERO);
        let (mean_d, mean_dy) = sums.split_at_mut(c);
        for (y, d) in y.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                mean_d[i] += d[i] * one_over_n;
                mean_dy[i] += d[i] * y[i] * one_over_n;
            }
        }
        for ((y, d), dx) in y.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            for i in 0..c {
                let g = (d[i] - mean_d[i] - y[i] * mean_dy[i]) / (var[i] + eps).sqrt();
                dx[i] = if how == Deliver::Add { dx[i] + g } else { g };
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
