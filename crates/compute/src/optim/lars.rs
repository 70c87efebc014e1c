//! LARS (You et al. 2017) as linear probes use it: SGD with momentum whose matrices move in proportion to their norm.
//!
//! For tensors of two and more extents: g ← (g + wd · w) · trust · |w| / |g + wd · w| where both norms are positive; then
//! μ ← momentum · μ + g, w -= lr · μ. One-dimensional tensors skip decay and adaptation.

use std::sync::Arc;

use super::Rate;
use crate::{DType, Grads, Layout, Params, Real};

/// LARS and its momentum, in the layout of the trained parameters. Meant for heads: it works in double precision, tensor by tensor.
#[derive(Clone, Debug)]
pub struct Lars {
    layout: Arc<Layout>,
    momentum: f64,
    trust: f64,
    velocity: Vec<Vec<f64>>,
}

impl Lars {
    /// Momentum of zeros.
    pub fn new(layout: &Arc<Layout>, momentum: f64, trust: f64) -> Self {
        let velocity = layout.entries.iter().map(|e| vec![0.0; e.len]).collect();
        Lars { layout: layout.clone(), momentum, trust, velocity }
    }

    /// One step.
    pub fn step(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate]) {
        match params.dtype() {
            DType::F32 => self.step_in::<f32>(params, grads, rates),
            DType::F64 => self.step_in::<f64>(params, grads, rates),
        }
    }

    fn step_in<T: Real>(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate]) {
        let (layout, velocity) = (&self.layout, &mut self.velocity);
        let (momentum, trust) = (self.momentum, self.trust);
        params.write::<T, _>(|values| {
            for rate in rates {
                let (w, g) = (&mut values[layout.range(rate.param)], grads.get::<T>(rate.param));
                let matrix = layout.shape(rate.param).len() > 1;
                let decay = if matrix { rate.weight_decay } else { 0.0 };
                let slope = |w: &T, g: &T| g.f64() + decay * w.f64();
                let g_norm = w.iter().zip(g).map(|(w, g)| slope(w, g).powi(2)).sum::<f64>().sqrt();
                let w_norm = w.iter().map(|w| w.f64().powi(2)).sum::<f64>().sqrt();
                let adapt = if matrix && w_norm > 0.0 && g_norm > 0.0 { trust * w_norm / g_norm } else { 1.0 };
                for ((w, g), mu) in w.iter_mut().zip(g).zip(&mut velocity[rate.param.index as usize]) {
                    *mu = momentum * *mu + adapt * slope(w, g);
                    *w = T::of(w.f64() - rate.lr * *mu);
                }
            }
        });
    }
}
