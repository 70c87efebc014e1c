//! Numbers for how sharp a minimum is: the mean increase of the loss at a distance, and the curvature.

use fd_compute::Device;
use fd_distill::Error;

use super::direction::{Direction, Recipe};
use super::hessian::{Estimate, Hessian, hutchinson, lanczos};
use super::images::Images;
use super::objective::Classifier;
use super::report::Settings;
use super::subject::Subject;
use super::surface::{Measured, Surface};
use super::workers::in_order;

/// Value, uncertainty, samples: what `sharpness.csv` says of a quantity.
pub type Numbers = [f64; 3];

/// A quantity of a seed, at a radius where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// Its name.
    pub name: &'static str,
    /// Of the random numbers.
    pub seed: u64,
    /// Its radius.
    pub radius: Option<f64>,
}

/// Quantities that are found together.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Increases at all radii, with the directions of a seed.
    Increase(u64),
    /// The gradient's norm.
    Gradient(u64),
    /// Both ends of the Hessian's spectrum.
    Spectrum(u64),
    /// The Hessian's trace.
    Trace(u64),
}

/// What is found of every model, in order. Curvature belongs to the first seed: it depends on it in its last digits only.
pub fn blocks(settings: &Settings) -> Vec<Block> {
    let mut blocks = vec![];
    if settings.directions > 0 {
        blocks.extend(settings.seeds.iter().map(|seed| Block::Increase(*seed)));
    }
    let (seed, h) = (settings.seeds[0], &settings.hessian);
    blocks.extend((h.iterations > 0 || h.vectors > 0).then_some(Block::Gradient(seed)));
    blocks.extend((h.iterations > 0).then_some(Block::Spectrum(seed)));
    blocks.extend((h.vectors > 0).then_some(Block::Trace(seed)));
    blocks
}

impl Block {
    /// Its quantities.
    pub fn quantities(&self, settings: &Settings) -> Vec<Quantity> {
        let of = |seed: u64, name| Quantity { name, seed, radius: None };
        match *self {
            Block::Increase(seed) => {
                let at = |r: &f64| ["loss_increase", "accuracy_decrease"].map(|name| Quantity { name, seed, radius: Some(*r) });
                settings.radii.iter().flat_map(at).collect()
            }
            Block::Gradient(seed) => vec![of(seed, "gradient_norm")],
            Block::Spectrum(seed) => vec![of(seed, "hessian_largest"), of(seed, "hessian_smallest")],
            Block::Trace(seed) => vec![of(seed, "hessian_trace")],
        }
    }

    /// What it costs, in evaluations of the loss; a gradient in double precision counts as six of them.
    pub fn work(&self, settings: &Settings) -> usize {
        match self {
            Block::Increase(_) => settings.directions * settings.radii.len() + 1,
            Block::Gradient(_) => 6,
            Block::Spectrum(_) => 12 * settings.hessian.iterations,
            Block::Trace(_) => 12 * settings.hessian.vectors,
        }
    }
}

/// A model, its images, and how it is measured.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    /// The model.
    pub subject: &'a Subject,
    /// As it sees them.
    pub images: &'a Images,
    /// Directions and numbers.
    pub settings: &'a Settings,
    /// Where it computes.
    pub device: Device,
}

impl Probe<'_> {
    /// How the directions of a seed are made.
    pub fn recipe(&self, seed: u64) -> Recipe {
        Recipe { tensors: self.settings.tensors.clone(), filter: self.settings.filter, seed }
    }

    /// A surface of a worker's own.
    ///
    /// # Errors
    /// A model that cannot be planned.
    pub fn surface(&self) -> Result<Surface<'_>, Error> {
        Surface::new(self.subject, self.images, self.settings.batch, self.device)
    }

    /// The numbers of a block's quantities; `each` is told how much of its work is behind.
    ///
    /// # Errors
    /// Those of the device, and [`Error::Interrupted`].
    pub fn find(&self, block: &Block, mut each: impl FnMut(usize)) -> Result<Vec<Numbers>, Error> {
        let h = &self.settings.hessian;
        Ok(match *block {
            Block::Increase(seed) => self.increases(seed, each)?,
            Block::Gradient(_) => vec![[self.hessian()?.gradient_norm()?, 0.0, 1.0]],
            Block::Spectrum(seed) => {
                let found = lanczos(&mut self.hessian()?, h.iterations, h.tolerance, seed, |n| each(12 * n))?;
                [found.largest, found.smallest].map(|e| [e.value, e.residual, found.iterations as f64]).to_vec()
            }
            Block::Trace(seed) => vec![numbers(hutchinson(&mut self.hessian()?, h.vectors, seed, |n| each(12 * n))?)],
        })
    }

    /// At the model's weights; both sides of a difference at the same time, each on half of the threads.
    fn hessian(&self) -> Result<Hessian<Classifier<'_>>, Error> {
        let (threads, tensors) = (rayon::current_num_threads(), &self.settings.hessian.tensors);
        let batch = (self.settings.batch, threads.div_ceil(2));
        let loss = || Classifier::new(self.subject, self.images, tensors, batch);
        let (first, twin) = (loss()?, (threads > 1).then(loss).transpose()?);
        let theta = first.theta();
        Ok(Hessian::new(first, twin, theta))
    }

    /// L(θ + r d) - L(θ) over random directions d, one estimate a radius r; and the accuracy that is lost.
    fn increases(&self, seed: u64, mut each: impl FnMut(usize)) -> Result<Vec<Numbers>, Error> {
        let (recipe, radii) = (self.recipe(seed), &self.settings.radii);
        // Item 0 is the model itself.
        let measure = |surface: &mut Surface, item: usize| -> Result<Vec<Measured>, Error> {
            let Some(k) = item.checked_sub(1) else { return Ok(vec![surface.at(&[])?]) };
            let d = Direction::new(&recipe, &self.subject.params, &format!("ball.{k}"), None)?;
            radii.iter().map(|r| surface.at(&[(*r, &d)])).collect()
        };
        let mut all = vec![];
        in_order(
            0..self.settings.directions + 1,
            || self.surface(),
            measure,
            |item, measured| {
                all.push(measured);
                each(item * radii.len() + 1);
                Ok(())
            },
        )?;
        let here = all[0][0];
        let at = |i: usize| {
            let over = |f: &dyn Fn(Measured) -> f64| Estimate::of(&all[1..].iter().map(|m| f(m[i])).collect::<Vec<_>>());
            [numbers(over(&|m| m.loss - here.loss)), numbers(over(&|m| here.accuracy - m.accuracy))]
        };
        Ok((0..radii.len()).flat_map(at).collect())
    }
}

fn numbers(estimate: Estimate) -> Numbers {
    [estimate.mean, estimate.error, estimate.samples as f64]
}
