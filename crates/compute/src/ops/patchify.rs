//! Cuts images into patches: x [B, C, H, W] to y [B, n, C·P·P], patches row by row, elements in the order of a convolution's weight
//! (channel, row, column). A patch embedding is this and a linear layer.
//!
//! dx: every pixel's gradient is its element's. y is computed again in the backward pass rather than kept.

mod cuda;

use rayon::prelude::*;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct Patchify {
    pub x: Act,
    pub y: Act,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub patch: usize,
}

impl Patchify {
    /// Calls `f(element of y, pixel of x, run length)` for one image, in the order of y.
    fn runs(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (p, mut at) = (self.patch, 0);
        for top in (0..self.height).step_by(p) {
            for left in (0..self.width).step_by(p) {
                for c in 0..self.channels {
                    for row in 0..p {
                        f(at, (c * self.height + top + row) * self.width + left, p);
                        at += p;
                    }
                }
            }
        }
    }
}

impl Operation for Patchify {
    const NAME: &'static str = "patchify";

    fn wiring(&self) -> Wiring {
        Wiring { cheap: true, ..Wiring::new(&[self.x], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let image = self.channels * self.height * self.width;
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(image)
            .zip(y.par_chunks_mut(image))
            .for_each(|(x, y)| self.runs(|to, from, n| y[to..to + n].copy_from_slice(&x[from..from + n])));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let image = self.channels * self.height * self.width;
        let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
        dy.par_chunks(image).zip(dx.par_chunks_mut(image)).for_each(|(dy, dx)| {
            if how == Deliver::Set {
                self.runs(|from, to, n| dx[to..to + n].copy_from_slice(&dy[from..from + n]));
            } else {
                self.runs(|from, to, n| super::rows::add_to(&mut dx[to..to + n], &dy[from..from + n]));
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
