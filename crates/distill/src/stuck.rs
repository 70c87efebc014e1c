//! Pretraining that learns nothing, seen while it runs.

use crate::train::At;

/// Shares of the run from which steps count, and from which they are judged: the first ones look like nothing learnt.
const COUNTED: f64 = 0.3;
const JUDGED: f64 = 0.5;
/// A loss above this share of the ignorant answer's has learnt nothing.
const NOTHING: f64 = 0.98;

/// Watches whether a loss is below that of an answer that knows nothing, and warns once where it is not.
#[derive(Clone, Debug)]
pub struct Stuck {
    method: &'static str,
    ignorant: &'static str,
    loss: f64,
    bound: f64,
    warned: bool,
}

impl Stuck {
    /// For a method of pretraining; `ignorant` says what the answer is that knows nothing.
    pub fn new(method: &'static str, ignorant: &'static str) -> Stuck {
        Stuck { method, ignorant, loss: 0.0, bound: 0.0, warned: false }
    }

    /// Has it warned?
    pub fn warned(&self) -> bool {
        self.warned
    }

    /// Follows a step's loss and the loss of the answer that knows nothing; true where it has warned now.
    pub fn warn(&mut self, at: At, loss: f64, ignorant: f64) -> bool {
        let done = at.step as f64 / at.steps.max(1) as f64;
        if done < COUNTED || !(loss.is_finite() && ignorant.is_finite()) {
            return false;
        }
        self.loss += loss;
        self.bound += ignorant;
        if self.warned || done < JUDGED || self.loss <= NOTHING * self.bound {
            return false;
        }
        self.warned = true;
        tracing::warn!(
            "{} at step {} of {}: its loss is {:.2} of that of {}: raise recipe.lr, or train longer",
            self.method,
            at.step + 1,
            at.steps,
            self.loss / self.bound,
            self.ignorant
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_learning_is_silent() {
        let run = |loss: f64| {
            let mut stuck = Stuck::new("MAE", "one number for all pixels");
            (0..100).filter(|&step| stuck.warn(At { step, steps: 100 }, loss, 1.0)).collect::<Vec<_>>()
        };
        assert_eq!(run(0.999), [50]);
        assert!(run(0.7).is_empty() && run(f64::NAN).is_empty());
    }
}
