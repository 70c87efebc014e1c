//! The training loop that every stage shares: batches in, a plan's forward and backward, clipping, AdamW.

use std::time::Instant;

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{Act, Arena, Cx, DType, Device, Grads, Params, Plan, StepKey};
use fd_data::{Batch, Loader, Mix, MixKey};

use crate::groups::Rates;
use crate::in_dfdx::value_and_gradient;
use crate::recipe::Recipe;
use crate::schedule::Cosine;
use crate::{Error, Objective};

/// A plan for one micro-batch and its ends.
#[derive(Debug)]
pub struct Task {
    /// Trains its first parameter set.
    pub plan: Plan,
    /// Input: images [b, C, H, W].
    pub images: Act,
    /// Input: target probabilities [b, K], for stages with labels.
    pub targets: Option<Act>,
    /// Its loss.
    pub loss: Loss,
}

/// Where a task's loss is.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// A scalar of the plan.
    InPlan(Act),
    /// An objective in dfdx between two values that leave the plan: the prediction (a leaf) and the teacher's output (kept).
    InDfdx {
        /// What is learnt.
        objective: Objective,
        /// The student's prediction, [B, N, C] or [B, K].
        prediction: Act,
        /// The teacher's output, of the same shape.
        teacher: Act,
        /// Is the first token a CLS token?
        cls: bool,
    },
}

impl Loss {
    /// The loss of the forward pass that has just run. In dfdx, also fills the prediction's gradient, times `seed_grad`.
    pub fn value(&self, plan: &Plan, cx: &mut Cx) -> Result<f64, Error> {
        match *self {
            Loss::InPlan(loss) => Ok(f64::from(cx.arena.value::<f32>(loss)[0])),
            Loss::InDfdx { objective, prediction, teacher, cls } => {
                let (student, target) = (cx.arena.value::<f32>(prediction), cx.arena.value::<f32>(teacher));
                let shape = plan.shape(prediction);
                let (loss, gradient) = value_and_gradient(&objective, shape.dims(), student, target, cls)?;
                let seed = cx.seed_grad as f32;
                cx.arena.grad_mut::<f32>(prediction).iter_mut().zip(gradient).for_each(|(to, g)| *to = seed * g);
                Ok(f64::from(loss))
            }
        }
    }
}

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
    /// The epoch it belongs to.
    pub epoch: usize,
    /// Loss, mean over the batch.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate at scale 1.
    pub lr: f64,
    /// Images a second since the stage began.
    pub images_per_second: f64,
}

/// One stage of training.
pub struct Stage<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Where it runs.
    pub device: Device,
    /// Seed of its random numbers.
    pub seed: u64,
    /// The optimiser's numbers.
    pub recipe: &'a Recipe,
    /// The plan, for batch / accumulate images.
    pub task: Task,
    /// Parameter sets that stay as they are.
    pub frozen: Vec<&'a Params>,
    /// The images.
    pub loader: Loader,
    /// Mixup, CutMix, label smoothing, for stages with labels.
    pub mix: Option<Mix>,
}

impl Stage<'_> {
    /// Trains `params` in place; `report` hears of every step. The same seed gives the same bits, on any number of threads.
    pub fn run(mut self, params: &mut Params, report: &mut dyn FnMut(&StepReport)) -> Result<StepReport, Error> {
        let (recipe, per_epoch) = (self.recipe, self.loader.batches());
        let steps = recipe.epochs * per_epoch;
        let warmup = (recipe.warmup_epochs * per_epoch as f64).round() as usize;
        let schedule = Cosine { base_lr: recipe.lr, warmup_lr: recipe.warmup_lr, min_lr: recipe.min_lr, steps, warmup_steps: warmup };
        let layout = params.layout().clone();
        let mut rates = Rates::new(&layout, recipe.weight_decay, recipe.layer_decay, schedule);
        let mut adam = AdamW::new(&layout, DType::F32, (recipe.betas[0], recipe.betas[1]), 1e-8);
        let mut grads = Grads::new(&layout, DType::F32);
        let mut arena = Arena::new(&self.task.plan, DType::F32);
        let mut targets = vec![];
        let (start, mut last) = (Instant::now(), StepReport::default());
        for epoch in 0..recipe.epochs {
            for batch in self.loader.epoch(epoch as u64, 0) {
                let (mut batch, step) = (batch?, last.step);
                self.mix_batch(&mut batch, &mut targets)?;
                let loss = self.gradients(&batch, &targets, step, params, &mut arena, &mut grads)?;
                if !loss.is_finite() {
                    return Err(Error::Diverged { stage: self.name.to_string(), step, loss });
                }
                let norm = grad_norm(&grads);
                let clip = clip_factor(norm, Some(recipe.clip_grad).filter(|c| *c > 0.0));
                adam.step(params, &grads, rates.update(step), clip)?;
                let images_per_second = ((step + 1) * recipe.batch) as f64 / start.elapsed().as_secs_f64();
                let lr = schedule.at(step, 1.0);
                last = StepReport { step: step + 1, steps, epoch, loss, grad_norm: norm, lr, images_per_second };
                report(&last);
            }
        }
        Ok(last)
    }

    fn mix_batch(&self, batch: &mut Batch, targets: &mut Vec<f32>) -> Result<(), Error> {
        let (Some(mix), Some(act)) = (&self.mix, self.task.targets) else { return Ok(()) };
        let classes = self.task.plan.shape(act).cols();
        let [_, b, c, h, w] = batch.shape;
        targets.resize(b * classes, 0.0);
        let key = MixKey { seed: self.seed, epoch: batch.epoch, first: batch.first as u64 };
        let labels = std::mem::take(&mut batch.labels);
        let mixed = mix.mix(batch.view_mut(0), [b, c, h, w], &labels, classes, key, targets);
        batch.labels = labels;
        mixed?;
        Ok(())
    }

    /// Gradients of the whole batch, micro-batch by micro-batch, and its mean loss.
    fn gradients(
        &mut self,
        batch: &Batch,
        targets: &[f32],
        step: usize,
        params: &Params,
        arena: &mut Arena,
        grads: &mut Grads,
    ) -> Result<f64, Error> {
        let (accumulate, task) = (self.recipe.accumulate, &self.task);
        let micro = self.recipe.batch / accumulate;
        let images = batch.view(0).chunks_exact(task.plan.shape(task.images).len());
        // Parameter sets in the plan's order, without allocating.
        let mut sets = [params; 8];
        sets[1..].iter_mut().zip(&self.frozen).for_each(|(s, f)| *s = f);
        let sets = &sets[..1 + self.frozen.len()];
        grads.reset();
        let mut loss = 0.0;
        for (i, images) in images.enumerate() {
            arena.write::<f32>(task.images, images);
            if let Some(act) = task.targets {
                let len = task.plan.shape(act).len();
                arena.write::<f32>(act, &targets[i * len..(i + 1) * len]);
            }
            let key = StepKey { seed: self.seed, step: step as u64, first_sample: (i * micro) as u64, view: 0 };
            let mut cx = Cx { seed_grad: 1.0 / accumulate as f64, ..Cx::new(&self.device, sets, arena, key) };
            task.plan.forward(&mut cx)?;
            loss += task.loss.value(&task.plan, &mut cx)? / accumulate as f64;
            task.plan.backward(&mut cx, grads)?;
        }
        Ok(loss)
    }
}
