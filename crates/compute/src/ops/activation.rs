//! Activations, element by element: y = f(x). x, y [.., C].
//!
//! dx = dy · f'(x); dx may take dy's memory. y is computed again in the backward pass rather than kept.

mod cuda;

use rayon::prelude::*;

use super::{Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::simd_fn;
use crate::{Error, Real};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The exact GELU, x Φ(x).
    Gelu,
    /// CLIP's GELU, x · sigmoid(1.702 x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// height · sigmoid(x).
    Sigmoid {
        /// Its limit for large x: Swin v2's position bias has 16.
        height: f64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Activate {
    pub x: Act,
    pub kind: Activation,
    pub y: Act,
    pub len: usize,
}

const CHUNK: usize = 8192;

simd_fn! {
    fn values<T: Real>(kind: Activation, x: &[T], y: &mut [T]) {
        match kind {
            Activation::Gelu => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.gelu::<S>().0),
            Activation::QuickGelu => y.iter_mut().zip(x).for_each(|(y, x)| *y = crate::simd::math::quick_gelu::<S, T>(*x).0),
            Activation::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > T::ZERO { *x } else { T::ZERO }),
            Activation::Sigmoid { height } => {
                let height = T::of(height);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = height / (T::ONE + (-*x).exp::<S>()));
            }
        }
    }
}

simd_fn! {
    /// d = slope(x) · dy, in the place of dy, in dx, or added to dx.
    fn slopes<T: Real>(kind: Activation, x: &[T], d: &mut [T]) {
        match kind {
            Activation::Gelu => d.iter_mut().zip(x).for_each(|(d, x)| *d *= x.gelu::<S>().1),
            Activation::QuickGelu => d.iter_mut().zip(x).for_each(|(d, x)| *d *= crate::simd::math::quick_gelu::<S, T>(*x).1),
            Activation::Relu => d.iter_mut().zip(x).for_each(|(d, x)| *d = if *x > T::ZERO { *d } else { T::ZERO }),
            Activation::Sigmoid { height } => {
                let height = T::of(height);
                d.iter_mut().zip(x).for_each(|(d, x)| {
                    let s = T::ONE / (T::ONE + (-*x).exp::<S>());
                    *d *= height * s * (T::ONE - s);
                });
            }
        }
    }
}

impl Operation for Activate {
    const NAME: &'static str = "activation";

    fn wiring(&self) -> Wiring {
        let flops = 30 * self.len as u64;
        Wiring {
            backward_reads: vec![self.x],
            cheap: true,
            in_place: Some(self.x),
            flops: (flops, flops),
            ..Wiring::new(&[self.x], self.y)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [x, y] = env.acts.split([At::Value(self.x), At::Value(self.y)]);
        x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK)).for_each(|(x, y)| values(self.kind, x, y));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        match env.deliver(self.x) {
            Deliver::Skip => {}
            Deliver::InPlace => {
                let [x, d] = env.acts.split([At::Value(self.x), At::Grad(self.x)]);
                x.par_chunks(CHUNK).zip(d.par_chunks_mut(CHUNK)).for_each(|(x, d)| slopes(self.kind, x, d));
            }
            how @ (Deliver::Set | Deliver::Add) => {
                // The output's gradient ends here, so it may be changed.
                let [x, dy, dx] = env.acts.split([At::Value(self.x), At::Grad(self.y), At::Grad(self.x)]);
                x.par_chunks(CHUNK).zip(dy.par_chunks_mut(CHUNK)).for_each(|(x, d)| slopes(self.kind, x, d));
                super::rows::copy_or_add(how, dx, dy);
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
