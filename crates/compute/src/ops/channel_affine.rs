//! A factor and a term for every channel: y[b, c] = scale[c] · x[b, c] + shift[c]. x, y [B, C, H, W]. A teacher that was trained on
//! images normalised in another way than the student's sees them through it.
//!
//! dx[b, c] = scale[c] · dy[b, c].

mod cuda;

use std::sync::Arc;

use rayon::prelude::*;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

#[derive(Clone, Debug)]
pub(crate) struct ChannelAffine {
    pub x: Act,
    pub y: Act,
    /// (scale, shift) of every channel.
    pub channels: Arc<[(f64, f64)]>,
    /// Pixels of a channel.
    pub pixels: usize,
}

impl Operation for ChannelAffine {
    const NAME: &'static str = "channel_affine";

    fn wiring(&self) -> Wiring {
        Wiring::new(&[self.x], self.y)
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, y] = env.acts.split([self.x, self.y].map(At::Value));
        x.par_chunks(self.pixels).zip(y.par_chunks_mut(self.pixels)).enumerate().for_each(|(i, (x, y))| {
            let (scale, shift) = self.channels[i % self.channels.len()];
            let (scale, shift) = (T::of(scale), T::of(shift));
            y.iter_mut().zip(x).for_each(|(y, x)| *y = *x * scale + shift);
        });
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.x);
        if how == Deliver::Skip {
            return;
        }
        let [dy, dx] = env.acts.split([At::Grad(self.y), At::Grad(self.x)]);
        dy.par_chunks(self.pixels).zip(dx.par_chunks_mut(self.pixels)).enumerate().for_each(|(i, (dy, dx))| {
            super::rows::scale_to(dx, dy, T::of(self.channels[i % self.channels.len()].0), how == Deliver::Add);
        });
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
