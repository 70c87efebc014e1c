//! The training loop that every stage shares: batches in, a learner's gradients, clipping, AdamW; checkpoints, and no step on numbers
//! that are not finite.
//!
//! All random numbers are functions of their place (seed, epoch, step, sample), so a run's state is its parameters, the optimiser's
//! moments, the learner's own tensors and the number of steps taken: a stage continued from a checkpoint gives the same bits.

mod plan_learner;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fd_compute::optim::{AdamW, grad_norm};
use fd_compute::{DType, Grads, Layout, Params};
use fd_data::{Batch, Loader};

pub use plan_learner::{InDfdx, Loss, PlanLearner, Task};

use crate::groups::Rates;
use crate::interrupt::Signal;
use crate::recipe::Recipe;
use crate::schedule::Cosine;
use crate::{Error, snapshot};
use state::Progress;

/// How a batch becomes gradients: what differs between supervised training, feature distillation and self-distillation.
pub trait Learner {
    /// Gradients of the whole batch into `grads`, and its mean loss.
    fn gradients(&mut self, batch: &mut Batch, at: At, params: &Params, grads: &mut Grads) -> Result<Measured, Error>;

    /// Hears that the optimiser has stepped; not called for a step that was skipped.
    fn stepped(&mut self, _params: &Params, _at: At) {}

    /// Parameter sets beside the trained one that a checkpoint has to hold, by name.
    fn sets(&mut self) -> Vec<(&'static str, &mut Params)> {
        vec![]
    }

    /// What training is for: the trained parameters, or what the learner made of them.
    fn result<'a>(&'a self, params: &'a Params) -> &'a Params {
        params
    }
}

/// Where training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Optimiser steps before this one.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
}

impl At {
    /// Half a cosine from `start` at step 0 to `end` at the last.
    pub fn cosine(self, start: f64, end: f64) -> f64 {
        end + (start - end) * 0.5 * (1.0 + (std::f64::consts::PI * self.step as f64 / self.steps.max(1) as f64).cos())
    }
}

/// What one batch showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Loss, mean over the batch.
    pub loss: f64,
    /// What it is the weighted sum of, where it is one.
    pub parts: Parts,
    /// Signs of collapse, from learners that can.
    pub signs: Option<Signs>,
}

/// Most teachers of one student.
pub const MOST_PARTS: usize = 4;

/// The losses of several teachers, before their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    values: [f64; MOST_PARTS],
    len: usize,
}

impl Parts {
    /// One more; at most [`MOST_PARTS`].
    pub fn push(&mut self, value: f64) {
        self.values[self.len] = value;
        self.len += 1;
    }

    /// Adds a share of others, one by one.
    pub fn add(&mut self, other: &Parts, share: f64) {
        self.len = self.len.max(other.len);
        self.values.iter_mut().zip(other.values).for_each(|(a, b)| *a += share * b);
    }

    /// The values.
    pub fn get(&self) -> &[f64] {
        &self.values[..self.len]
    }

    /// Part `i` of a loss that has several.
    pub fn apart(&self, i: usize) -> Option<f64> {
        self.get().get(i).copied().filter(|_| self.len > 1)
    }
}

/// Where self-distillation collapses, these show it first (all in nats but the last).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signs {
    /// Entropy of the mean target: near 0 when all images get one prototype.
    pub entropy: f64,
    /// Mean entropy of the single targets: near ln K when no image gets any.
    pub target_entropy: f64,
    /// Kullback-Leibler divergence of the student from its target.
    pub kl: f64,
    /// Variance of the teacher's unit-length outputs over the batch, 0..1: near 0 when all images look alike.
    pub spread: f64,
}

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
    /// Epochs done, with their fraction.
    pub epoch: f64,
    /// What the batch showed.
    pub measured: Measured,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate at scale 1.
    pub lr: f64,
    /// Images a second since this process took the stage up.
    pub images_per_second: f64,
    /// Steps skipped so far because loss or gradient was not finite.
    pub skipped: usize,
}

/// Where checkpoints go.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// The stage's directory.
    pub dir: &'a Path,
    /// Time between two of them.
    pub every: Duration,
}

/// Who follows a stage.
pub struct Watch<'a> {
    /// Hears of every step.
    pub report: &'a mut dyn FnMut(&StepReport) -> Result<(), Error>,
    /// Is asked after every step whether to stop there.
    pub stop: &'a dyn Fn() -> Option<Signal>,
    /// Checkpoints, if wanted: the stage then continues from the newest one there.
    pub keep: Option<Keep<'a>>,
}

/// One stage of training.
pub struct Stage<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// The optimiser's numbers.
    pub recipe: &'a Recipe,
    /// The images.
    pub loader: Loader,
}

impl Stage<'_> {
    /// Trains `params` in place. The same seed gives the same bits, on any number of threads and over interruptions.
    ///
    /// # Errors
    /// [`Error::Diverged`] when more steps than the recipe allows had no finite loss or gradient; [`Error::Interrupted`] after a
    /// checkpoint was written, when `watch.stop` says so; whatever reading images or writing checkpoints gives.
    pub fn run(self, learner: &mut dyn Learner, params: &mut Params, watch: &mut Watch) -> Result<StepReport, Error> {
        let (recipe, per_epoch) = (self.recipe, self.loader.batches());
        let steps = recipe.epochs * per_epoch;
        let mut optimiser = Optimiser::new(recipe, params.layout(), per_epoch);
        let mut progress = Progress::default();
        if let Some(keep) = watch.keep
            && let Some((_, saved)) = snapshot::newest(keep.dir)?
        {
            progress = state::restore(&saved, params, &mut optimiser.adam, learner)?;
        }
        let (start, first, mut saved) = (Instant::now(), progress.step, Instant::now());
        let mut last = StepReport { step: progress.step, steps, ..StepReport::default() };
        for epoch in progress.step / per_epoch..recipe.epochs {
            for batch in self.loader.epoch(epoch as u64, progress.step % per_epoch) {
                let (mut batch, at) = (batch?, At { step: progress.step, steps });
                let measured = learner.gradients(&mut batch, at, params, &mut optimiser.grads)?;
                let grad_norm = optimiser.step(params, at, measured.loss)?;
                if measured.loss.is_finite() && grad_norm.is_finite() {
                    learner.stepped(params, at);
                } else {
                    progress.skipped += 1;
                    self.refuse_divergence(&batch, at, measured.loss, grad_norm, progress.skipped)?;
                }
                progress.step += 1;
                last = StepReport {
                    step: progress.step,
                    steps,
                    epoch: progress.step as f64 / per_epoch as f64,
                    measured,
                    grad_norm,
                    lr: optimiser.schedule.at(at.step, 1.0),
                    images_per_second: ((progress.step - first) * recipe.batch) as f64 / start.elapsed().as_secs_f64(),
                    skipped: progress.skipped,
                };
                (watch.report)(&last)?;
                if progress.step == steps {
                    break; // what is done needs no checkpoint, and no signal stops it
                }
                let signal = (watch.stop)();
                if let Some(keep) = watch.keep.filter(|keep| signal.is_some() || saved.elapsed() >= keep.every) {
                    let state = state::capture(progress, params, &optimiser.adam, learner);
                    snapshot::save(keep.dir, progress.step as u64, &state)?;
                    saved = Instant::now();
                }
                if let Some(signal) = signal {
                    return Err(Error::Interrupted { signal, checkpoints: None });
                }
            }
        }
        Ok(last)
    }

    fn refuse_divergence(&self, batch: &Batch, at: At, loss: f64, grad_norm: f64, skipped: usize) -> Result<(), Error> {
        tracing::warn!("{}: step {} skipped: loss {loss}, gradient norm {grad_norm}", self.name, at.step + 1);
        if skipped <= self.recipe.skip_nonfinite {
            return Ok(());
        }
        let images: Vec<String> = batch.indices.iter().take(8).map(usize::to_string).collect();
        let more = if batch.indices.len() > images.len() { ", …" } else { "" };
        let images = format!("{}{more}", images.join(", "));
        Err(Error::Diverged { stage: self.name.to_string(), step: at.step + 1, skipped, loss, grad_norm, images })
    }
}

/// AdamW as a recipe says.
struct Optimiser {
    schedule: Cosine,
    rates: Rates,
    adam: AdamW,
    grads: Grads,
    clip: Option<f64>,
}

impl Optimiser {
    fn new(recipe: &Recipe, layout: &Arc<Layout>, per_epoch: usize) -> Self {
        let warmup_steps = (recipe.warmup_epochs * per_epoch as f64).round() as usize;
        let steps = recipe.epochs * per_epoch;
        let schedule = Cosine { base_lr: recipe.lr, warmup_lr: recipe.warmup_lr, min_lr: recipe.min_lr, steps, warmup_steps };
        Optimiser {
            schedule,
            rates: Rates::new(layout, recipe.weight_decay, recipe.layer_decay, schedule),
            adam: AdamW::new(layout, DType::F32, (recipe.betas[0], recipe.betas[1]), 1e-8),
            grads: Grads::new(layout, DType::F32),
            clip: Some(recipe.clip_grad).filter(|c| *c > 0.0),
        }
    }

    /// A step, unless loss or gradient are not finite; returns the gradient's norm.
    fn step(&mut self, params: &mut Params, at: At, loss: f64) -> Result<f64, Error> {
        if !loss.is_finite() {
            return Ok(grad_norm(&self.grads));
        }
        Ok(self.adam.step_clipped(params, &self.grads, self.rates.update(at.step), self.clip)?)
    }
}
