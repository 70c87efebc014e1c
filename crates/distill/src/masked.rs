//! Masked autoencoding as pretraining (MAE; He et al., *Masked Autoencoders Are Scalable Vision Learners*, 2022): three quarters of the
//! patches are hidden, the encoder sees the rest, a small decoder predicts the hidden patches' pixels. The paper's control: its heads
//! are local already, and feature distillation gains little.
//!
//! Which patches are hidden is a function of (seed, step, sample), so a resumed run hides the same ones.

use std::sync::Arc;

use fd_compute::{Act, Arena, Cx, DType, Device, Grads, Layout, Params, Plan, Planner, StepKey};
use fd_data::Batch;
use fd_data::schema::below_one;
use fd_model::{Init, Mae, MaeConfig, MaePass, Mask, ModelConfig, VitConfig, initialise, random_mask};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::recipe::{Recipe, Views};
use crate::stuck::Stuck;
use crate::train::{At, Learner, Measured};

/// What a decoder's parameters are called: these, and what begins so.
pub const DECODER: [&str; 2] = ["decoder", "mask_token"];

/// The numbers of masked autoencoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Masked {
    /// The optimiser's numbers.
    pub recipe: Recipe,
    /// The view (the paper: a random crop and a flip).
    pub views: Views,
    /// Drop path of the encoder's last block.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub drop_path_rate: f64,
    /// How much is hidden, and what predicts it.
    pub decoder: MaeConfig,
}

impl Masked {
    /// Refuses impossible numbers; the message names the key under `at`.
    pub fn check(&self, at: &str, model: &ModelConfig, samples: usize) -> Result<(), Error> {
        let refuse = |key: &str, why: String| Err(Error::Usage(format!("{at}.{key}: {why}")));
        self.recipe.check(at, samples)?;
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return refuse("drop_path_rate", format!("{} is not in 0..1", self.drop_path_rate));
        }
        let vit = vit(model).map_err(|why| Error::Usage(format!("{at}.decoder: {why}")))?;
        self.decoder.check(&vit).or_else(|e| refuse("decoder", e.to_string()))?;
        // What the encoder cannot be is found out by describing it.
        self.plan(model).map(|_| ()).or_else(|e| refuse("decoder", e.to_string()))
    }

    /// The plan of a micro-batch and the number of trained parameters, without any memory for them.
    ///
    /// # Errors
    /// An encoder that cannot see some of the patches only.
    pub fn plan(&self, model: &ModelConfig) -> Result<(Plan, usize), Error> {
        let (layout, pass) = self.described(model)?;
        Ok((pass.0, layout.count()))
    }

    fn described(&self, model: &ModelConfig) -> Result<(Arc<Layout>, Described), Error> {
        let model = vit(&model.clone().with_drop_path(self.drop_path_rate)).map_err(Error::Usage)?;
        let mut layout = Layout::builder();
        let mae = Mae::declare(&self.decoder, &model, &mut layout, "")?;
        let layout = layout.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let micro = self.recipe.batch / self.recipe.accumulate;
        let images = p.input([micro, model.in_chans, model.img_size.0, model.img_size.1]);
        let pass = mae.plan(&mut p, images)?;
        p.keep(pass.target);
        p.root(pass.loss);
        Ok((layout, (p.finish()?, pass, images)))
    }
}

/// A micro-batch's plan, its handles, and its images.
type Described = (Plan, MaePass, Act);

fn vit(model: &ModelConfig) -> Result<VitConfig, String> {
    match model {
        ModelConfig::Vit(c) => Ok(c.clone()),
        ModelConfig::Swin(_) => Err("a Swin's windows need all of their patches: masked autoencoding is for ViTs".into()),
    }
}

/// A run of masked autoencoding.
pub struct MaskedLearner {
    config: Masked,
    vit: VitConfig,
    plan: Plan,
    pass: MaePass,
    images: Act,
    arena: Arena,
    device: Device,
    seed: u64,
    stuck: Stuck,
}

impl MaskedLearner {
    /// A learner for batches of the recipe's size, and initial values: those of `model` and the decoder under their official names.
    ///
    /// # Errors
    /// Those of [`Masked::plan`].
    pub fn new(config: &Masked, model: &ModelConfig, init: Init, seed: u64, device: Device) -> Result<(Self, Params), Error> {
        let (layout, (plan, pass, images)) = config.described(model)?;
        let mut params = Params::new(&layout, DType::F32);
        initialise(&mut params, "", model, init, seed);
        let (vit, arena) = (vit(model).map_err(Error::Usage)?, Arena::new(&plan, DType::F32));
        let learner = MaskedLearner {
            config: config.clone(),
            vit,
            plan,
            pass,
            images,
            arena,
            device,
            seed,
            stuck: Stuck::new("MAE", "one number for all pixels"),
        };
        Ok((learner, params))
    }

    /// Has it warned that nothing is learnt?
    pub fn warned(&self) -> bool {
        self.stuck.warned()
    }

    /// Draws and writes the masks of samples `first`.. of a step.
    fn mask(&mut self, step: usize, first: usize, samples: usize) {
        let (h, w) = self.vit.grid();
        let visible = self.config.decoder.visible(h * w);
        let masks: Vec<Mask> = (first..first + samples)
            .map(|sample| random_mask(h * w, visible, self.vit.cls_token, &[self.seed, step as u64, sample as u64]))
            .collect();
        for (act, list) in [(self.pass.visible, 0), (self.pass.restore, 1), (self.pass.masked, 2)] {
            let of = |mask: &Mask| [&mask.visible, &mask.restore, &mask.masked][list].iter().map(|i| *i as f32).collect::<Vec<_>>();
            let values: Vec<f32> = masks.iter().flat_map(of).collect();
            self.arena.write::<f32>(act, &values);
        }
    }
}

impl Learner for MaskedLearner {
    fn gradients(&mut self, batch: &mut Batch, at: At, params: &Params, grads: &mut Grads) -> Result<Measured, Error> {
        let len = self.plan.shape(self.images).len();
        let micro = self.plan.shape(self.images).dims()[0];
        let accumulate = batch.view(0).len() / len;
        grads.reset();
        let (mut loss, mut constant) = (0.0, 0.0);
        for i in 0..accumulate {
            self.arena.write::<f32>(self.images, &batch.view(0)[i * len..(i + 1) * len]);
            self.mask(at.step, i * micro, micro);
            let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: (i * micro) as u64, view: 0 };
            let sets = [params];
            let mut cx = Cx { seed_grad: 1.0 / accumulate as f64, ..Cx::new(&self.device, &sets, &mut self.arena, key) };
            self.plan.forward(&mut cx)?;
            loss += f64::from(cx.arena.value::<f32>(self.pass.loss)[0]) / accumulate as f64;
            constant += variance(cx.arena.value::<f32>(self.pass.target)) / accumulate as f64;
            self.plan.backward(&mut cx, grads)?;
        }
        self.stuck.warn(at, loss, constant);
        Ok(Measured { loss, ..Measured::default() })
    }
}

/// Mean squared distance of values to their mean: what predicting one number for all costs.
fn variance(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_constant_prediction_by_hand() {
        assert!((super::variance(&[1.0, 3.0]) - 1.0).abs() < 1e-12 && super::variance(&[]) == 0.0);
    }
}
