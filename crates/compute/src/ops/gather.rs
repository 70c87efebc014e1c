//! Rows by index: y[b, i] = x[b, index[b, i]]. x [B, N, C], or [1, N, C] for all of the batch; index [B, K], a value of the plan whose
//! numbers are whole; y [B, K, C]. Masked encoders see some of their tokens by it, text encoders look their words up.
//!
//! dx[b, r] = Σ dy[b, i] over index[b, i] = r, in the order of i (and of b, where the rows are shared). The index has no gradient.
//! An index outside 0..N is a mistake of the caller's: the rows it would name are read as NaN and get no gradient.

mod cuda;

use rayon::prelude::*;

use super::rows::add_to;
use super::{Input, Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct Gather {
    pub x: Act,
    pub index: Act,
    pub y: Act,
    /// Are x's rows the same for every sample?
    pub shared: bool,
    pub rows: usize,
    pub picked: usize,
    pub cols: usize,
}

impl Gather {
    fn row<T: Real>(&self, index: T) -> Option<usize> {
        let i = index.f64();
        (i >= 0.0 && i < self.rows as f64).then_some(i as usize)
    }

    /// dx of some samples (or shared rows) from their share of dy.
    fn add<T: Real>(&self, index: &[T], dy: &[T], dx: &mut [T]) {
        for (i, dy) in index.iter().zip(dy.chunks_exact(self.cols)) {
            if let Some(r) = self.row(*i) {
                add_to(&mut dx[r * self.cols..(r + 1) * self.cols], dy);
            }
        }
    }
}

impl Operation for Gather {
    const NAME: &'static str = "gather";

    fn wiring(&self) -> Wiring {
        Wiring {
            inputs: vec![Input { act: self.x, differentiable: true }, Input { act: self.index, differentiable: false }],
            backward_reads: vec![self.index],
            exact: vec![self.index],
            ..Wiring::new(&[], self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, index, y] = env.acts.split([self.x, self.index, self.y].map(At::Value));
        let (x, index, c) = (&*x, &*index, self.cols);
        y.par_chunks_mut(self.picked * c).enumerate().for_each(|(b, y)| {
            let x = if self.shared { x } else { &x[b * self.rows * c..(b + 1) * self.rows * c] };
            for (i, y) in index[b * self.picked..].iter().zip(y.chunks_exact_mut(c)) {
                match self.row(*i) {
                    Some(r) => y.copy_from_slice(&x[r * c..(r + 1) * c]),
                    None => y.fill(T::of(f64::NAN)),
                }
            }
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let [index, dy, dx] = env.acts.split([At::Value(self.index), At::Grad(self.y), At::Grad(self.x)]);
        let (index, dy) = (&*index, &*dy);
        if how == Deliver::Set {
            dx.fill(T::ZERO);
        }
        if self.shared {
            self.add(index, dy, dx);
            return;
        }
        let (k, c) = (self.picked, self.cols);
        dx.par_chunks_mut(self.rows * c)
            .enumerate()
            .for_each(|(b, dx)| self.add(&index[b * k..(b + 1) * k], &dy[b * k * c..(b + 1) * k * c], dx));
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
