//! From tokens to fewer: the mean of all but the first `skip`, one of them, or all but the first `skip`. x [B, N, C].

mod cuda;

use rayon::prelude::*;

use super::rows::{add_to, scale_to};
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

/// Which tokens to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of the tokens after the first `skip`: [B, C]. With skip = 1: global average pooling without the CLS token.
    Mean {
        /// Tokens left out.
        skip: usize,
    },
    /// One token: [B, C].
    Token(usize),
    /// The tokens after the first `skip`: [B, N - skip, C].
    After {
        /// Tokens left out.
        skip: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub x: Act,
    pub how: Pooling,
    pub y: Act,
    pub tokens: usize,
    pub cols: usize,
}

impl Pool {
    /// Elements of one image in x and in y, and where the pooled tokens lie in x.
    fn extents(&self) -> (usize, usize, std::ops::Range<usize>) {
        let (n, c) = (self.tokens * self.cols, self.cols);
        match self.how {
            Pooling::Mean { skip } => (n, c, skip * c..n),
            Pooling::Token(t) => (n, c, t * c..(t + 1) * c),
            Pooling::After { skip } => (n, n - skip * c, skip * c..n),
        }
    }

    fn weight<T: Real>(&self, from: &std::ops::Range<usize>) -> T {
        T::of(self.cols as f64 / from.len() as f64)
    }
}

impl Operation for Pool {
    const NAME: &'static str = "pool";

    fn wiring(&self) -> Wiring {
        Wiring::new(&[self.x], self.y)
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let (nx, ny, from) = self.extents();
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(nx).zip(y.par_chunks_mut(ny)).for_each(|(x, y)| {
            let x = &x[from.clone()];
            if let Pooling::Mean { .. } = self.how {
                y.fill(T::ZERO);
                x.chunks_exact(self.cols).for_each(|row| add_to(y, row));
                let w = self.weight::<T>(&from);
                y.iter_mut().for_each(|y| *y *= w);
            } else {
                y.copy_from_slice(x);
            }
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let (nx, ny, from) = self.extents();
        let mean = matches!(self.how, Pooling::Mean { .. });
        let w = if mean { self.weight::<T>(&from) } else { T::ONE };
        let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
        dy.par_chunks(ny).zip(dx.par_chunks_mut(nx)).for_each(|(dy, dx)| {
            if how == Deliver::Set {
                dx.fill(T::ZERO);
            }
            dx[from.clone()].chunks_exact_mut(dy.len()).for_each(|row| scale_to(row, dy, w, true));
        });
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
