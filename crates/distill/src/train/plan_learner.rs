//! Learning with one plan: images in, a loss out, in micro-batches. Supervised training and feature distillation are this.

use fd_compute::{Act, Arena, Cx, DType, Device, Grads, Params, Plan, StepKey};
use fd_data::{Batch, Mix, MixKey};

use super::{At, Learner, Measured, Parts};
use crate::in_dfdx::value_and_gradient;
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
#[derive(Clone, Debug)]
pub enum Loss {
    /// A scalar of the plan, and the parts it is the sum of (itself, if it is not).
    InPlan {
        /// The loss.
        total: Act,
        /// Its parts, before their weights.
        parts: Vec<Act>,
    },
    /// Objectives in dfdx: the loss is their weighted sum.
    InDfdx(Vec<InDfdx>),
}

/// An objective in dfdx between two values that leave the plan: the prediction (a leaf) and the teacher's output (kept).
#[derive(Clone, Copy, Debug)]
pub struct InDfdx {
    /// What is learnt.
    pub objective: Objective,
    /// The student's prediction, [B, N, C] or [B, K].
    pub prediction: Act,
    /// The teacher's output, of the same shape.
    pub teacher: Act,
    /// Is the first token a CLS token?
    pub cls: bool,
    /// Its part in the loss.
    pub weight: f64,
}

impl Loss {
    /// A loss of one part.
    pub fn of(total: Act) -> Loss {
        Loss::InPlan { total, parts: vec![total] }
    }

    /// Runs the plan forwards and backwards; the loss and its parts. A loss of the plan is read when both have been started, so that a
    /// device does not wait for the host in between.
    pub fn value_and_gradients(&self, plan: &Plan, cx: &mut Cx, grads: &mut Grads) -> Result<(f64, Parts), Error> {
        plan.forward(cx)?;
        match self {
            Loss::InPlan { .. } => {
                plan.backward(cx, grads)?;
                self.value(plan, cx)
            }
            Loss::InDfdx(_) => {
                let value = self.value(plan, cx)?;
                plan.backward(cx, grads)?;
                Ok(value)
            }
        }
    }

    /// The loss of the forward pass that has just run, and its parts. In dfdx, also fills the predictions' gradients, times `seed_grad`.
    pub fn value(&self, plan: &Plan, cx: &mut Cx) -> Result<(f64, Parts), Error> {
        let mut values = Parts::default();
        match self {
            Loss::InPlan { total, parts } => {
                let scalar = |act: Act| f64::from(cx.arena.value::<f32>(act)[0]);
                parts.iter().for_each(|part| values.push(scalar(*part)));
                Ok((scalar(*total), values))
            }
            Loss::InDfdx(outside) => {
                let mut total = 0.0;
                for (i, &InDfdx { objective, prediction, teacher, cls, weight }) in outside.iter().enumerate() {
                    let (student, target) = (cx.arena.value::<f32>(prediction), cx.arena.value::<f32>(teacher));
                    let shape = plan.shape(prediction);
                    let (loss, gradient) = value_and_gradient(&objective, shape.dims(), student, target, cls)?;
                    let seed = (cx.seed_grad * weight) as f32;
                    // Without projectors several teachers are compared with one prediction: its gradient is their sum.
                    let add = outside[..i].iter().any(|before| before.prediction == prediction);
                    let gradients = cx.arena.grad_mut::<f32>(prediction).iter_mut().zip(gradient);
                    gradients.for_each(|(to, g)| *to = if add { *to + seed * g } else { seed * g });
                    values.push(f64::from(loss));
                    total += weight * f64::from(loss);
                }
                Ok((total, values))
            }
        }
    }
}

/// Learns a [`Task`]; micro-batches are what the task's plan takes.
pub struct PlanLearner {
    task: Task,
    arena: Arena,
    device: Device,
    seed: u64,
    frozen: Vec<Params>,
    mix: Option<Mix>,
    targets: Vec<f32>,
}

impl PlanLearner {
    /// `frozen`: parameter sets that stay as they are, in the plan's order; `mix`: for tasks with targets.
    pub fn new(task: Task, device: Device, seed: u64, frozen: Vec<Params>, mix: Option<Mix>) -> Self {
        let arena = Arena::new(&task.plan, DType::F32);
        PlanLearner { task, arena, device, seed, frozen, mix, targets: vec![] }
    }

    fn mix_batch(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let (Some(mix), Some(act)) = (&self.mix, self.task.targets) else { return Ok(()) };
        let classes = self.task.plan.shape(act).cols();
        let [_, b, c, h, w] = batch.shape;
        self.targets.resize(b * classes, 0.0);
        let key = MixKey { seed: self.seed, epoch: batch.epoch, first: batch.first as u64 };
        let labels = std::mem::take(&mut batch.labels);
        let mixed = mix.mix(batch.view_mut(0), [b, c, h, w], &labels, classes, key, &mut self.targets);
        batch.labels = labels;
        mixed?;
        Ok(())
    }
}

impl Learner for PlanLearner {
    fn gradients(&mut self, batch: &mut Batch, at: At, params: &Params, grads: &mut Grads) -> Result<Measured, Error> {
        self.mix_batch(batch)?;
        let task = &self.task;
        let shape = task.plan.shape(task.images);
        let images = batch.view(0).chunks_exact(shape.len());
        let (micro, accumulate) = (shape.dims()[0], images.len());
        // Parameter sets in the plan's order, without allocating.
        let mut sets = [params; 8];
        sets[1..].iter_mut().zip(&self.frozen).for_each(|(s, f)| *s = f);
        let sets = &sets[..1 + self.frozen.len()];
        grads.reset();
        let (mut loss, mut parts) = (0.0, Parts::default());
        for (i, images) in images.enumerate() {
            self.arena.write::<f32>(task.images, images);
            if let Some(act) = task.targets {
                let len = task.plan.shape(act).len();
                self.arena.write::<f32>(act, &self.targets[i * len..(i + 1) * len]);
            }
            let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: (i * micro) as u64, view: 0 };
            let mut cx = Cx { seed_grad: 1.0 / accumulate as f64, ..Cx::new(&self.device, sets, &mut self.arena, key) };
            let (value, of_parts) = task.loss.value_and_gradients(&task.plan, &mut cx, grads)?;
            loss += value / accumulate as f64;
            parts.add(&of_parts, 1.0 / accumulate as f64);
        }
        Ok(Measured { loss, parts, signs: None })
    }
}
