//! Optimisers: one pass over memory a step, gradient clipping included.

mod adamw;
pub(crate) mod cuda;
mod lars;

pub use adamw::AdamW;
pub use lars::Lars;

use rayon::prelude::*;

use crate::{DType, Grads, Param, Real};

/// Learning rate and weight decay of one parameter in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Which parameter.
    pub param: Param,
    /// Learning rate of this step.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Elements a task works on; sums over chunks run in chunk order.
pub(crate) const CHUNK: usize = 16384;

crate::simd_fn! {
    fn square_sum<T: Real>(x: &[T]) -> f64 {
        // Chunks are short enough for their sum; the sum over chunks is in double precision.
        let mut lanes = [0.0f64; 16];
        let (chunks, rest) = x.as_chunks::<16>();
        for c in chunks {
            for i in 0..16 {
                lanes[i] += c[i].f64() * c[i].f64();
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|x| x.f64() * x.f64()).sum::<f64>()
    }
}

/// Euclidean norm over all gradients, in double precision.
pub fn grad_norm(grads: &Grads) -> f64 {
    match (grads.dtype(), grads.on()) {
        (DType::F64, _) => norm_of::<f64>(grads),
        (_, None) => norm_of::<f32>(grads),
        (_, Some(gpu)) => cuda::grad_norm(gpu, grads).unwrap_or_else(|fault| {
            gpu.remember(fault);
            f64::NAN
        }),
    }
}

fn norm_of<T: Real>(grads: &Grads) -> f64 {
    // A fixed tree: 64 runs of chunks, each summed in order, then the runs in order.
    let all = grads.all::<T>();
    let run = all.len().div_ceil(64).next_multiple_of(CHUNK).max(CHUNK);
    let mut sums = [0.0; 64];
    sums.par_iter_mut().zip(all.par_chunks(run)).for_each(|(s, x)| *s = x.chunks(CHUNK).map(square_sum).sum());
    sums.iter().sum::<f64>().sqrt()
}

/// The factor that brings a gradient of this norm down to `max_norm`: min(1, max / (norm + 1e-6)).
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
}
