//! The learning rate of each step, the official code's: linear warm-up, then half a cosine down to the minimum.
//!
//! The official scheduler is stepped after the optimiser with the index of the step just taken, so that steps 0 and 1 both use the
//! first value. A parameter group's `lr_scale` (layer decay) scales the base rate, not the two ends: warm-up starts at `warmup_lr` and
//! the cosine ends at `min_lr` in every group.

use std::f64::consts::PI;

/// Warm-up and cosine, counted in optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosine {
    /// Learning rate at the end of the warm-up.
    pub base_lr: f64,
    /// Learning rate at its beginning.
    pub warmup_lr: f64,
    /// Learning rate at the end of the run.
    pub min_lr: f64,
    /// Steps of the run, T.
    pub steps: usize,
    /// Steps of the warm-up, W.
    pub warmup_steps: usize,
}

impl Cosine {
    /// All rates times a factor: the rule lr = base · batch / 512.
    pub fn scaled(self, factor: f64) -> Self {
        Cosine { base_lr: self.base_lr * factor, warmup_lr: self.warmup_lr * factor, min_lr: self.min_lr * factor, ..self }
    }

    /// The learning rate that step `step` (from 0) uses in a group of this scale. Beyond the run's end it stays at the minimum.
    pub fn at(&self, step: usize, lr_scale: f64) -> f64 {
        let t = step.saturating_sub(1);
        let base = self.base_lr * lr_scale;
        if t < self.warmup_steps {
            return self.warmup_lr + t as f64 * ((base - self.warmup_lr) / self.warmup_steps as f64);
        }
        if t >= self.steps {
            return self.min_lr;
        }
        let turn = PI * (t - self.warmup_steps) as f64 / (self.steps - self.warmup_steps) as f64;
        self.min_lr + 0.5 * (base - self.min_lr) * (1.0 + turn.cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_falls() {
        let s = Cosine { base_lr: 1.0, warmup_lr: 0.2, min_lr: 0.1, steps: 8, warmup_steps: 4 };
        assert_eq!((s.at(0, 1.0), s.at(1, 1.0)), (0.2, 0.2));
        assert!((s.at(3, 1.0) - 0.6).abs() < 1e-15);
        assert_eq!((s.at(5, 1.0), s.at(5, 0.5)), (1.0, 0.5));
        assert!((s.at(7, 1.0) - 0.55).abs() < 1e-15, "half way between 1.0 and 0.1");
        assert_eq!((s.at(9, 1.0), s.at(1000, 0.5)), (0.1, 0.1), "the minimum is not scaled");
        assert_eq!(s.scaled(2.0).at(5, 0.5), 1.0);
    }

    #[test]
    fn without_warm_up() {
        let s = Cosine { base_lr: 1.0, warmup_lr: 0.2, min_lr: 0.0, steps: 4, warmup_steps: 0 };
        assert_eq!((s.at(0, 1.0), s.at(1, 1.0)), (1.0, 1.0));
        // A run that is all warm-up.
        assert_eq!(Cosine { steps: 2, warmup_steps: 2, ..s }.at(3, 1.0), 0.0);
    }
}
