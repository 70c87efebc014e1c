//! Activations of the MLP: y = x Φ(x) with the exact (erf) Φ, or CLIP's y = x · sigmoid(1.702 x). x, y [.., C].
//!
//! dx = dy · (Φ(x) + x φ(x)); dx may take dy's memory. y is computed again in the backward pass rather than kept.

use rayon::prelude::*;

use super::{Operation, Wiring};
use crate::Real;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::simd_fn;

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// x Φ(x).
    Erf,
    /// x · sigmoid(1.702 x).
    Quick,
}

#[derive(Clone, Debug)]
pub(crate) struct Gelu {
    pub x: Act,
    pub kind: GeluKind,
    pub y: Act,
    pub len: usize,
}

const CHUNK: usize = 8192;

simd_fn! {
    fn values<T: Real>(quick: bool, x: &[T], y: &mut [T]) {
        if quick {
            for (y, x) in y.iter_mut().zip(x) {
                *y = crate::simd::math::quick_gelu::<S, T>(*x).0;
            }
        } else {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x.gelu::<S>().0;
            }
        }
    }
}

simd_fn! {
    /// d = slope(x) · dy, in the place of dy, in dx, or added to dx.
    fn slopes<T: Real>(quick: bool, x: &[T], d: &mut [T]) {
        if quick {
            for (d, x) in d.iter_mut().zip(x) {
                *d *= crate::simd::math::quick_gelu::<S, T>(*x).1;
            }
        } else {
            for (d, x) in d.iter_mut().zip(x) {
                *d *= x.gelu::<S>().1;
            }
        }
    }
}

impl Operation for Gelu {
    const NAME: &'static str = "gelu";

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
        let quick = self.kind == GeluKind::Quick;
        x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK)).for_each(|(x, y)| values(quick, x, y));
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let quick = self.kind == GeluKind::Quick;
        match env.deliver(self.x) {
            Deliver::Skip => {}
            Deliver::InPlace => {
                let [x, d] = env.acts.split([At::Value(self.x), At::Grad(self.x)]);
                x.par_chunks(CHUNK).zip(d.par_chunks_mut(CHUNK)).for_each(|(x, d)| slopes(quick, x, d));
            }
            how @ (Deliver::Set | Deliver::Add) => {
                // The output's gradient ends here, so it may be changed.
                let [x, dy, dx] = env.acts.split([At::Value(self.x), At::Grad(self.y), At::Grad(self.x)]);
                x.par_chunks(CHUNK).zip(dy.par_chunks_mut(CHUNK)).for_each(|(x, d)| slopes(quick, x, d));
                super::rows::copy_or_add(how, dx, dy);
            }
        }
    }
}
