//! Losses on logits, mean over the batch. logits, target [B, K]; loss [1].
//!
//! With q = softmax(z / T) and p the target's probabilities (given, or softmax(t / T)):
//! cross-entropy = -Σ p log q, Kullback-Leibler = Σ p (log p - log q), times T². dz = T (q Σp - p). The target has no gradient.
//! Label smoothing, mixup and cutmix are probabilities that are given.

mod cuda;

use super::{Input, Operation, Wiring};
use crate::cuda::Run;
use crate::exec::{At, Env};
use crate::plan::{Act, Deliver};
use crate::{Error, Real};

/// What the target of a loss on logits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetForm {
    /// Probabilities.
    Probabilities,
    /// Logits; cross-entropy with their softmax.
    Logits,
    /// Logits; Kullback-Leibler divergence from their softmax.
    LogitsKl,
}

#[derive(Clone, Debug)]
pub(crate) struct LogitLoss {
    pub logits: Act,
    pub target: Act,
    pub form: TargetForm,
    pub temperature: f64,
    pub loss: Act,
    pub rows: usize,
    pub cols: usize,
}

/// max and log Σ exp((x - max) / T) of a row, in double precision: K is small and this is done once a step.
fn log_normaliser<T: Real>(x: &[T], temperature: f64) -> (f64, f64) {
    let top = x.iter().map(|x| x.f64()).fold(f64::NEG_INFINITY, f64::max);
    (top, x.iter().map(|x| ((x.f64() - top) / temperature).exp()).sum::<f64>().ln())
}

impl LogitLoss {
    /// Calls `f(k, p, log p, log q)` for every class of a row.
    fn classes<T: Real>(&self, z: &[T], t: &[T], mut f: impl FnMut(usize, f64, f64, f64)) {
        let temperature = self.temperature;
        let (z_top, z_norm) = log_normaliser(z, temperature);
        let target = (self.form != TargetForm::Probabilities).then(|| log_normaliser(t, temperature));
        for (k, (z, t)) in z.iter().zip(t).enumerate() {
            let log_q = (z.f64() - z_top) / temperature - z_norm;
            let (p, log_p) = match target {
                None => (t.f64(), t.f64().ln()),
                Some((top, norm)) => {
                    let log_p = (t.f64() - top) / temperature - norm;
                    (log_p.exp(), log_p)
                }
            };
            f(k, p, log_p, log_q);
        }
    }
}

impl Operation for LogitLoss {
    const NAME: &'static str = "logit_loss";

    fn wiring(&self) -> Wiring {
        let flops = 20 * (self.rows * self.cols) as u64;
        Wiring {
            inputs: vec![Input { act: self.logits, differentiable: true }, Input { act: self.target, differentiable: false }],
            backward_reads: vec![self.logits, self.target],
            device_scratch: self.device_scratch(),
            exact: vec![self.target, self.loss],
            flops: (flops, flops),
            ..Wiring::new(&[], self.loss)
        }
    }

    fn forward<T: Real>(&self, env: &mut Env<T>) {
        let [z, t, loss] = env.acts.split([self.logits, self.target, self.loss].map(At::Value));
        let mut total = 0.0;
        for (z, t) in z.chunks_exact(self.cols).zip(t.chunks_exact(self.cols)) {
            self.classes(z, t, |_, p, log_p, log_q| {
                if p != 0.0 {
                    total += p * if self.form == TargetForm::LogitsKl { log_p - log_q } else { -log_q };
                }
            });
        }
        loss[0] = T::of(total * self.temperature * self.temperature / self.rows as f64);
    }

    fn backward<T: Real>(&self, env: &mut Env<T>) {
        let how = env.deliver(self.logits);
        if how == Deliver::Skip {
            return;
        }
        let [z, t, seed, d] = env.acts.split([At::Value(self.logits), At::Value(self.target), At::Grad(self.loss), At::Grad(self.logits)]);
        let g = seed[0].f64() * self.temperature / self.rows as f64;
        for ((z, t), d) in z.chunks_exact(self.cols).zip(t.chunks_exact(self.cols)).zip(d.chunks_exact_mut(self.cols)) {
            let mut mass = 0.0;
            self.classes(z, t, |_, p, _, _| mass += p);
            self.classes(z, t, |k, p, _, log_q| {
                let slope = T::of(g * (log_q.exp() * mass - p));
                d[k] = if how == Deliver::Add { d[k] + slope } else { slope };
            });
        }
    }

    fn forward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_forward(run)
    }

    fn backward_cuda(&self, run: &mut Run) -> Result<(), Error> {
        self.start_backward(run)
    }
}
