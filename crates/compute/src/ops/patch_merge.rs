//! Patch merging: every 2 x 2 tokens of a map become one of four times the width. x [B, H·W, C], y [B, H/2·W/2, 4C]; the parts are, in
//! (row, column), (0, 0), (1, 0), (0, 1), (1, 1), as in Swin's official code.
//!
//! dx: every element's gradient is its copy's. y is computed again in the backward pass rather than kept.

mod cuda;

use rayon::prelude::*;

use super::rows::add_to;
use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct PatchMerge {
    pub x: Act,
    pub y: Act,
    pub height: usize,
    pub width: usize,
    pub cols: usize,
}

impl PatchMerge {
    /// Calls `f(place in y, place in x)`, in rows of C, for one image.
    fn pairs(&self, mut f: impl FnMut(usize, usize)) {
        let mut to = 0;
        for top in (0..self.height).step_by(2) {
            for left in (0..self.width).step_by(2) {
                for (row, column) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    f(to * self.cols, ((top + row) * self.width + left + column) * self.cols);
                    to += 1;
                }
            }
        }
    }
}

impl Operation for PatchMerge {
    const NAME: &'static str = "patch_merge";

    fn wiring(&self) -> Wiring {
        Wiring { cheap: true, ..Wiring::new(&[self.x], self.y) }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let (image, c) = (self.height * self.width * self.cols, self.cols);
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(image)
            .zip(y.par_chunks_mut(image))
            .for_each(|(x, y)| self.pairs(|to, from| y[to..to + c].copy_from_slice(&x[from..from + c])));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let (image, c) = (self.height * self.width * self.cols, self.cols);
        let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
        dy.par_chunks(image).zip(dx.par_chunks_mut(image)).for_each(|(dy, dx)| {
            self.pairs(|from, to| match how {
                Deliver::Set => dx[to..to + c].copy_from_slice(&dy[from..from + c]),
                _ => add_to(&mut dx[to..to + c], &dy[from..from + c]),
            });
        });
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
