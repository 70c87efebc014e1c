//! Rows of unit length: y = x / max(|x|, 1e-12). x, y [.., C].
//!
//! dx = (dy - y (y · dy)) / |x|.

mod cuda;

use rayon::prelude::*;

use super::rows::{self, dot};
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real, simd_fn};

const FLOOR: f64 = 1e-12;

#[derive(Clone, Debug)]
pub(crate) struct L2Normalise {
    pub x: Act,
    pub y: Act,
    pub rows: usize,
    pub cols: usize,
}

simd_fn! {
    fn unit_rows<T: Real>(x: &[T], y: &mut [T], cols: usize) {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let inverse = T::ONE / dot::<S, T>(x, x).sqrt().maximum(T::of(FLOOR));
            for (y, x) in y.iter_mut().zip(x) {
                *y = *x * inverse;
            }
        }
    }
}

simd_fn! {
    fn gradients<T: Real>(x: &[T], dy: &[T], dx: &mut [T], cols: usize, add: bool) {
        for ((x, dy), dx) in x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
            let inverse = T::ONE / dot::<S, T>(x, x).sqrt().maximum(T::of(FLOOR));
            let along = dot::<S, T>(x, dy) * inverse * inverse;
            for i in 0..cols {
                let d = (dy[i] - x[i] * along) * inverse;
                dx[i] = if add { dx[i] + d } else { d };
            }
        }
    }
}

impl Operation for L2Normalise {
    const NAME: &'static str = "l2_normalise";

    fn wiring(&self) -> Wiring {
        let flops = 3 * (self.rows * self.cols) as u64;
        Wiring { backward_reads: vec![self.x], flops: (flops, 2 * flops), ..Wiring::new(&[self.x], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let step = rows::per_task(self.cols) * self.cols;
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(step).zip(y.par_chunks_mut(step)).for_each(|(x, y)| unit_rows(x, y, self.cols));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let step = rows::per_task(self.cols) * self.cols;
        let [x, dy, dx] = env.acts.split([At::Value(self.x), At::Grad(self.y), At::Grad(self.x)]);
        (x.par_chunks(step), dy.par_chunks(step), dx.par_chunks_mut(step))
            .into_par_iter()
            .for_each(|(x, dy, dx)| gradients(x, dy, dx, self.cols, how == Deliver::Add));
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
