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

    /// One step with gradients multiplied by `clip` (see [`clip_factor`](super::clip_factor)).
    pub fn step(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate], clip: f64) {
        match params.dtype() {
            DType::F64 => self.step_in::<f64>(params, grads, rates, clip),
            _ => self.step_in::<f32>(params, grads, rates, clip),
        }
    }

    fn step_in<T: Real>(&mut self, params: &mut Params, grads: &Grads, rates: &[Rate], clip: f64) {
        let (layout, velocity) = (&self.layout, &mut self.velocity);
        let (momentum, trust) = (self.momentum, self.trust);
        params.write::<T, _>(|values| {
            for rate in rates {
                let (w, g) = (&mut values[layout.range(rate.param)], grads.get::<T>(rate.param));
                let matrix = layout.shape(rate.param).len() > 1;
                let decay = if matrix { rate.weight_decay } else { 0.0 };
                let slope = |w: &T, g: &T| clip * g.f64() + decay * w.f64();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: a matrix of norm 5, a gradient of norm 10 after clipping by a half, a bias.
    #[test]
    fn two_steps_by_hand() {
        let mut layout = Layout::builder();
        let (w, b) = (layout.add("w", &[1, 2]), layout.add("b", &[1]));
        let layout = layout.finish();
        let (mut params, mut grads) = (Params::new(&layout, DType::F64), Grads::new(&layout, DType::F64));
        params.set(w, &[3.0, 4.0]);
        params.set(b, &[1.0]);
        grads.set(w, &[12.0, -16.0]);
        grads.set(b, &[2.0]);
        let mut lars = Lars::new(&layout, 0.9, 0.1);
        let rates = [w, b].map(|param| Rate { param, lr: 0.5, weight_decay: 0.0 });
        lars.step(&mut params, &grads, &rates, 0.5);
        // trust · |w| / |g| = 0.1 · 5 / 10; the bias moves by its plain gradient.
        let (first, bias) = ([3.0 - 0.5 * 0.05 * 6.0, 4.0 + 0.5 * 0.05 * 8.0], 1.0 - 0.5);
        assert!(params.to_f64(w).iter().zip(first).all(|(a, e)| (a - e).abs() < 1e-12));
        assert!((params.to_f64(b)[0] - bias).abs() < 1e-12);
        lars.step(&mut params, &grads, &rates, 0.5);
        let adapt = 0.1 * (first[0] * first[0] + first[1] * first[1]).sqrt() / 10.0;
        let second = [first[0] - 0.5 * (0.9 * 0.05 + adapt) * 6.0, first[1] + 0.5 * (0.9 * 0.05 + adapt) * 8.0];
        assert!(params.to_f64(w).iter().zip(second).all(|(a, e)| (a - e).abs() < 1e-12));
        assert!((params.to_f64(b)[0] - (bias - 0.5 * 1.9)).abs() < 1e-12);
    }

    #[test]
    fn weight_decay_is_part_of_a_matrix_gradient_only() {
        let mut layout = Layout::builder();
        let (w, b) = (layout.add("w", &[1, 1]), layout.add("b", &[1]));
        let layout = layout.finish();
        let (mut params, grads) = (Params::new(&layout, DType::F32), Grads::new(&layout, DType::F32));
        params.set(w, &[2.0]);
        params.set(b, &[2.0]);
        let rates = [w, b].map(|param| Rate { param, lr: 1.0, weight_decay: 0.5 });
        Lars::new(&layout, 0.0, 0.1).step(&mut params, &grads, &rates, 1.0);
        // g = 0 + 0.5 · 2, adapted by 0.1 · 2 / 1.
        assert!((params.to_f64(w)[0] - 1.8).abs() < 1e-6 && params.to_f64(b)[0] == 2.0);
    }
}
