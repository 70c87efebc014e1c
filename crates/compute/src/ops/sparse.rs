//! A fixed sparse matrix over rows: y[b] = M x[b] with x [B, R, C] (or [R, C]), M [S, R], y [B, S, C]. Interpolation is one, of
//! position tables and of feature maps.
//!
//! dx = Mᵀ dy.

mod cuda;

use std::sync::Arc;

use rayon::prelude::*;

use super::rows::scale_to;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

/// A fixed sparse matrix: for each output row its (input row, weight) pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    inputs: usize,
    rows: Vec<Vec<(u32, f64)>>,
}

impl Sparse {
    /// A matrix with `inputs` columns; every pair's input row must be one of them.
    pub fn new(inputs: usize, rows: Vec<Vec<(u32, f64)>>) -> Self {
        assert!(rows.iter().flatten().all(|(i, _)| (*i as usize) < inputs), "input rows of a sparse matrix");
        Sparse { inputs, rows }
    }

    /// Input rows R.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output rows S.
    pub fn outputs(&self) -> usize {
        self.rows.len()
    }

    /// y = M x in double precision, for x [R, cols].
    pub fn apply(&self, x: &[f64], cols: usize) -> Vec<f64> {
        assert_eq!(x.len(), self.inputs * cols, "rows of a sparse product");
        let mut y = vec![0.0; self.rows.len() * cols];
        for (row, y) in self.rows.iter().zip(y.chunks_exact_mut(cols)) {
            for &(i, weight) in row {
                let x = &x[i as usize * cols..(i as usize + 1) * cols];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            }
        }
        y
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SparseMap {
    pub x: Act,
    pub matrix: Arc<Sparse>,
    pub y: Act,
    pub batch: usize,
    pub cols: usize,
}

impl Operation for SparseMap {
    const NAME: &'static str = "sparse";

    fn wiring(&self) -> Wiring {
        let pairs: usize = self.matrix.rows.iter().map(Vec::len).sum();
        let flops = 2 * (self.batch * pairs * self.cols) as u64;
        Wiring { flops: (flops, flops), ..Wiring::new(&[self.x], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let (nx, ny) = (self.matrix.inputs * self.cols, self.matrix.rows.len() * self.cols);
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(nx).zip(y.par_chunks_mut(ny)).for_each(|(x, y)| {
            y.fill(T::ZERO);
            for (row, y) in self.matrix.rows.iter().zip(y.chunks_exact_mut(self.cols)) {
                for &(i, weight) in row {
                    scale_to(y, &x[i as usize * self.cols..][..self.cols], T::of(weight), true);
                }
            }
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let (nx, ny) = (self.matrix.inputs * self.cols, self.matrix.rows.len() * self.cols);
        let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
        dy.par_chunks(ny).zip(dx.par_chunks_mut(nx)).for_each(|(dy, dx)| {
            if how == Deliver::Set {
                dx.fill(T::ZERO);
            }
            for (row, dy) in self.matrix.rows.iter().zip(dy.chunks_exact(self.cols)) {
                for &(i, weight) in row {
                    scale_to(&mut dx[i as usize * self.cols..][..self.cols], dy, T::of(weight), true);
                }
            }
        });
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
