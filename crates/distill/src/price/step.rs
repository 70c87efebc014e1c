//! One step of a pair of models.

use fd_compute::{Layout, Planner};
use fd_model::{Model, ModelConfig, Taps};
use serde::Serialize;

use crate::Error;
use crate::distillation::{Distillation, Engine};

/// Bytes of a number: the engine's f32.
const BYTES: u64 = 4;

/// How a step's images go through the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Split {
    /// Is of every student block only the input kept, and the rest computed again in the backward pass?
    pub recompute: bool,
    /// Micro-batches of the step, whose gradients are averaged.
    pub accumulate: usize,
    /// Images of each.
    pub micro_batch: usize,
}

/// Floating-point operations for an image; a multiply-add is two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Flops {
    /// The teacher's forward pass.
    pub teacher_forward: f64,
    /// The forward pass of student, projector and loss.
    pub student_forward: f64,
    /// Their backward pass, with what it computes again.
    pub student_backward: f64,
    /// All of that.
    pub total: f64,
}

/// Bytes of memory, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Parameters of student and projector.
    pub trained: u64,
    /// Parameters of the teacher.
    pub frozen: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// The arena: activations of a micro-batch, their gradients, scratch.
    pub activations: u64,
    /// All of that.
    pub total: u64,
}

/// What a step costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepPrice {
    /// Operations for an image.
    pub flops_per_image: Flops,
    /// Operations of the whole step, all its micro-batches.
    pub flops_per_step: f64,
    /// Memory.
    pub bytes: Memory,
}

impl StepPrice {
    /// Prices a step of a distillation from one teacher.
    ///
    /// # Errors
    /// Models that do not go together.
    pub fn of(fd: &Distillation, split: Split) -> Result<StepPrice, Error> {
        let micro = split.micro_batch;
        let plan = fd.clone().with_recompute(split.recompute).plan(micro, Engine::Fused)?.plan;
        let cost = plan.cost();
        let per_image = |flops: u64| flops as f64 / micro as f64;
        let teacher: u64 = fd.teachers().map(|t| forward_flops(&t.config(), micro)).sum::<Result<_, _>>()?;
        let flops_per_image = Flops {
            teacher_forward: per_image(teacher),
            student_forward: per_image(cost.forward_flops - teacher),
            student_backward: per_image(cost.backward_flops),
            total: per_image(cost.forward_flops + cost.backward_flops),
        };
        let trained = BYTES * fd.trained.count() as u64;
        let frozen = BYTES * fd.frozen.iter().map(|l| l.count() as u64).sum::<u64>();
        let activations = BYTES * cost.arena_elements as u64;
        let (gradients, moments) = (trained, 2 * trained);
        let total = trained + frozen + gradients + moments + activations;
        let bytes = Memory { trained, frozen, gradients, moments, activations, total };
        let flops_per_step = (cost.forward_flops + cost.backward_flops) as f64 * split.accumulate as f64;
        Ok(StepPrice { flops_per_image, flops_per_step, bytes })
    }
}

/// Floating-point operations of a model's forward pass over a batch.
///
/// # Errors
/// A model that cannot be built.
pub fn forward_flops(model: &ModelConfig, batch: usize) -> Result<u64, Error> {
    let mut layout = Layout::builder();
    let declared = Model::declare(model, &mut layout, "")?;
    let mut p = Planner::new();
    p.bind(&layout.finish());
    let (height, width) = model.img_size();
    let images = p.input([batch, model.in_chans(), height, width]);
    declared.plan(&mut p, images, Taps::default())?;
    Ok(p.finish()?.cost().forward_flops)
}

/// A model's parameters.
///
/// # Errors
/// A model that cannot be built.
pub fn parameters(model: &ModelConfig) -> Result<usize, Error> {
    let mut layout = Layout::builder();
    Model::declare(model, &mut layout, "")?;
    Ok(layout.finish().count())
}
