//! Collapse of self-distillation, seen while it happens: one prototype for all, all prototypes for each, or one vector for all.

use crate::train::{At, Signs};

/// Share of a new batch in the running means.
const RATE: f64 = 0.02;
/// Share of the run before which nothing is said: untrained networks look collapsed.
const EARLY: f64 = 0.1;

/// Watches the signs and warns once of each kind of collapse.
#[derive(Clone, Debug)]
pub struct Guard {
    prototypes: usize,
    spread: f64,
    mean: Option<Signs>,
    warned: Vec<Collapse>,
}

impl Guard {
    /// For so many prototypes K.
    pub fn new(prototypes: usize) -> Self {
        Guard { prototypes, spread: 0.0, mean: None, warned: vec![] }
    }

    /// The teacher's unit-length vectors of a batch: their variance is 1 - |mean|².
    pub(super) fn looked_at(&mut self, vectors: &[f32], width: usize) {
        let rows = (vectors.len() / width) as f64;
        let mut mean = vec![0.0; width];
        vectors.chunks_exact(width).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / rows));
        self.spread = 1.0 - mean.iter().map(|m| m * m).sum::<f64>();
    }

    /// The signs of a batch from the teacher's probabilities [R, K] and the loss.
    pub(super) fn signs(&self, probabilities: &[f32], loss: f64) -> Signs {
        let k = self.prototypes;
        let rows = (probabilities.len() / k) as f64;
        let (mut mean, mut target_entropy) = (vec![0.0; k], 0.0);
        for row in probabilities.chunks_exact(k) {
            target_entropy += entropy(row.iter().map(|&p| f64::from(p))) / rows;
            mean.iter_mut().zip(row).for_each(|(m, &p)| *m += f64::from(p) / rows);
        }
        Signs { entropy: entropy(mean.into_iter()), target_entropy, kl: loss - target_entropy, spread: self.spread }
    }

    /// Follows the signs over the run; says on standard error, once each, what has collapsed and what to change.
    pub fn warn(&mut self, at: At, now: &Signs) -> Vec<Collapse> {
        if ![now.entropy, now.target_entropy, now.kl, now.spread].iter().all(|s| s.is_finite()) {
            return vec![];
        }
        let mix = |mean: f64, now: f64| mean + RATE * (now - mean);
        let mean = self.mean.map_or(*now, |m| Signs {
            entropy: mix(m.entropy, now.entropy),
            target_entropy: mix(m.target_entropy, now.target_entropy),
            kl: mix(m.kl, now.kl),
            spread: mix(m.spread, now.spread),
        });
        self.mean = Some(mean);
        if (at.step as f64) < EARLY * at.steps as f64 {
            return vec![];
        }
        let most = (self.prototypes as f64).ln();
        let one_vector = mean.spread < 0.01;
        // Of equal vectors the targets are even, too: that is no news.
        let found = [
            (Collapse::OneVector, one_vector),
            (Collapse::OnePrototype, mean.entropy < 0.2 * most),
            (Collapse::Uniform, mean.target_entropy > 0.98 * most && !one_vector),
        ];
        let new: Vec<Collapse> = found.into_iter().filter(|(c, seen)| *seen && !self.warned.contains(c)).map(|(c, _)| c).collect();
        self.warned.extend(&new);
        new.iter().for_each(|c| tracing::warn!("DINO at step {} of {}: {}", at.step + 1, at.steps, c.advice()));
        new
    }
}

/// What self-distillation can collapse to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// All images get the same few prototypes.
    OnePrototype,
    /// Every image gets all prototypes alike.
    Uniform,
    /// All images have the same vector.
    OneVector,
}

impl Collapse {
    /// What to change.
    pub fn advice(self) -> &'static str {
        match self {
            Collapse::OnePrototype => {
                "all images are given the same few prototypes: raise teacher_temperature, lower targets.momentum, or use targets = sinkhorn"
            }
            Collapse::Uniform => "every image is given all prototypes alike: lower teacher_temperature",
            Collapse::OneVector => "all images have nearly one vector: lower recipe.lr, raise momentum, or make the local crops larger",
        }
    }
}

fn entropy(p: impl Iterator<Item = f64>) -> f64 {
    -p.filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(signs: Signs) -> Vec<Collapse> {
        let mut guard = Guard::new(8);
        (0..100).flat_map(|step| guard.warn(At { step, steps: 100 }, &signs)).collect()
    }

    #[test]
    fn each_kind_is_told_once_and_health_is_silent() {
        let healthy = Signs { entropy: 2.0, target_entropy: 0.8, kl: 0.5, spread: 0.6 };
        assert_eq!(watch(healthy), []);
        assert_eq!(watch(Signs { entropy: 0.1, ..healthy }), [Collapse::OnePrototype]);
        assert_eq!(watch(Signs { target_entropy: 8f64.ln(), ..healthy }), [Collapse::Uniform]);
        assert_eq!(watch(Signs { spread: 0.001, ..healthy }), [Collapse::OneVector]);
    }

    #[test]
    fn untrained_networks_are_not_judged() {
        let mut guard = Guard::new(8);
        let flat = Signs { entropy: 0.0, target_entropy: 3.0, kl: 0.0, spread: 0.0 };
        assert_eq!(guard.warn(At { step: 9, steps: 100 }, &flat), []);
        let found = guard.warn(At { step: 10, steps: 100 }, &flat);
        assert_eq!(found, [Collapse::OneVector, Collapse::OnePrototype]);
        assert_eq!(guard.warn(At { step: 11, steps: 100 }, &Signs { kl: f64::NAN, ..flat }), []);
    }

    #[test]
    fn signs_by_hand() {
        let mut guard = Guard::new(2);
        guard.looked_at(&[1.0, 0.0, 0.0, 1.0], 2);
        let signs = guard.signs(&[1.0, 0.0, 0.5, 0.5], 1.0);
        let (mean, single) = (-(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln()), 0.5 * 2f64.ln());
        assert!((signs.entropy - mean).abs() < 1e-12 && (signs.target_entropy - single).abs() < 1e-12);
        assert!((signs.kl - (1.0 - single)).abs() < 1e-12 && (signs.spread - 0.5).abs() < 1e-12);
    }
}
