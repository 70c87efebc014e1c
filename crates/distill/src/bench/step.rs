//! A whole step of feature distillation, ready to be run again and again: what is timed, profiled and compared between devices.

use std::time::Instant;

use fd_compute::cuda::synchronise;
use fd_compute::optim::{AdamW, Rate};
use fd_compute::{Arena, Cx, DType, Device, Grads, Param, Params, Plan, StepKey, Stream};
use fd_model::{Init, ModelConfig, initialise};

use crate::distillation::{Distillation, DistillationPlan, Engine, Projector};
use crate::{Error, Objective};

/// Models, optimiser and memory of a step on a device.
#[derive(Debug)]
pub struct FdStep {
    step: DistillationPlan,
    trained: Params,
    frozen: Params,
    grads: Grads,
    arena: Arena,
    adam: AdamW,
    rates: Vec<Rate>,
    device: Device,
}

/// Seconds of a step's parts.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Of the plan's steps, in the order of [`Plan::step_costs`].
    pub steps: Vec<f64>,
    /// Of clipping and AdamW, by the host's clock.
    pub optimiser: f64,
    /// The loss.
    pub loss: f64,
}

impl FdStep {
    /// The paper's objective with a linear projector, initial values and random images: the same ones on every device.
    ///
    /// # Errors
    /// Models that do not go together; a device that fails or does not have the memory.
    pub fn new(student: &ModelConfig, teacher: &ModelConfig, batch: usize, recompute: bool, device: Device) -> Result<FdStep, Error> {
        let fd = Distillation::new(student, teacher, Projector::Linear {}, Objective::PAPER)?.with_recompute(recompute);
        let step = fd.plan(batch, Engine::Fused)?;
        let (mut trained, mut frozen) = (Params::new(&fd.trained, DType::F32), Params::new(&fd.frozen[0], DType::F32));
        initialise(&mut trained, "encoder.", student, Init::Official, 0);
        initialise(&mut trained, "decoder.", student, Init::Official, 1);
        initialise(&mut frozen, "", teacher, Init::Official, 2);
        let arena = Arena::on(&device, &step.plan)?;
        let adam = AdamW::new(&fd.trained, DType::F32, (0.9, 0.999), 1e-8);
        let rates = fd.trained.iter().map(|param| Rate { param, lr: 1e-4, weight_decay: 0.05 }).collect();
        let mut random = Stream::new(&[9]);
        let images: Vec<f32> = (0..step.plan.shape(step.images).len()).map(|_| random.normal() as f32).collect();
        let grads = Grads::new(&fd.trained, DType::F32);
        let mut step = FdStep { step, trained, frozen, grads, arena, adam, rates, device };
        step.show(&images);
        Ok(step)
    }

    /// Other images [B, C, H, W].
    pub fn show(&mut self, images: &[f32]) {
        self.arena.write(self.step.images, images);
    }

    /// Forwards, backwards, clipping, AdamW; the loss. `index` is the step's number, which drop paths depend on.
    ///
    /// # Errors
    /// A device that fails.
    pub fn run(&mut self, index: usize) -> Result<f64, Error> {
        let sets = [&self.trained, &self.frozen];
        let mut cx = Cx::new(&self.device, &sets, &mut self.arena, key(index));
        self.grads.reset();
        let (loss, _) = self.step.loss.value_and_gradients(&self.step.plan, &mut cx, &mut self.grads)?;
        self.optimise()?;
        Ok(loss)
    }

    /// The same, one operation after the other, with the seconds of each.
    ///
    /// # Errors
    /// A device that fails.
    pub fn profile(&mut self, index: usize) -> Result<Profile, Error> {
        let sets = [&self.trained, &self.frozen];
        let mut cx = Cx::new(&self.device, &sets, &mut self.arena, key(index));
        self.grads.reset();
        let steps = self.step.plan.profile(&mut cx, &mut self.grads)?;
        let (loss, _) = self.step.loss.value(&self.step.plan, &mut cx)?;
        synchronise(&self.device)?;
        let start = Instant::now();
        self.optimise()?;
        synchronise(&self.device)?;
        Ok(Profile { steps, optimiser: start.elapsed().as_secs_f64(), loss })
    }

    fn optimise(&mut self) -> Result<(), Error> {
        self.adam.step_clipped(&mut self.trained, &self.grads, &self.rates, Some(3.0))?;
        Ok(())
    }

    /// What runs.
    pub fn plan(&self) -> &Plan {
        &self.step.plan
    }

    /// How many numbers are trained.
    pub fn trained(&self) -> usize {
        let layout = self.trained.layout();
        layout.iter().map(|p| layout.shape(p).iter().product::<usize>()).sum()
    }

    /// Every trained parameter's name, values and moments, bit by bit.
    pub fn bits(&self) -> Vec<(String, Vec<u64>)> {
        let layout = self.trained.layout();
        let of = |p: Param| {
            let (m, v) = self.adam.state(p);
            [self.trained.to_f64(p), m, v].concat().into_iter().map(f64::to_bits).collect()
        };
        layout.iter().map(|p| (layout.name(p).to_string(), of(p))).collect()
    }
}

fn key(index: usize) -> StepKey {
    StepKey { step: index as u64, ..StepKey::default() }
}
