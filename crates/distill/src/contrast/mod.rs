//! Image–caption contrast as pretraining (CLIP; Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
//! 2021), at the size of a class-labelled data set: captions are the classes' names in templates, a small causal text encoder reads them,
//! and images and captions of one class are pulled together under a learned temperature.
//!
//! A batch has many images of a class; their captions say the same, so all of them count as right (as in UniCL), and not only an image's
//! own. Backbone and text encoder are one plan; the contrast is dfdx (`loss.rs`). The text encoder, both projections and the scale stand
//! under `head.` and stay behind.

mod captions;
mod loss;

use std::sync::Arc;

use fd_compute::{Act, Arena, Bias, Cx, DType, Device, Grads, Layout, LayoutBuilder, Param, Params, Plan, Planner, Pooling, StepKey};
use fd_data::Batch;
use fd_data::schema::{above_zero, below_one};
use fd_model::{Init, Model, ModelConfig, Taps, TextConfig, TextEncoder, initialise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use captions::{Caption, Captions, NAME};
pub use loss::{contrast, targets};

use crate::Error;
use crate::dino::HEAD;
use crate::recipe::{Recipe, Views};
use crate::stuck::Stuck;
use crate::train::{At, Learner, Measured};

/// Largest sizes of the text encoder.
const MOST_WIDTH: usize = 1 << 16;
const MOST_LAYERS: usize = 1024;
const MOST_RATIO: f64 = 64.0;
/// Largest scale of the cosines, CLIP's.
const MOST_SCALE: f32 = 100.0;

/// The numbers of image–caption contrast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contrast {
    /// The optimiser's numbers.
    pub recipe: Recipe,
    /// The view (CLIP: a random square crop).
    pub views: Views,
    /// Drop path of the image encoder's last block.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub drop_path_rate: f64,
    /// Captions: `{}` stands for the class's name.
    pub templates: Vec<String>,
    /// What reads them.
    pub text: Text,
    /// Width of the space that images and captions share.
    #[schemars(range(min = 1, max = MOST_WIDTH))]
    pub embed_dim: usize,
    /// Temperature at the start; it is learnt (CLIP: 0.07).
    #[schemars(transform = above_zero, range(max = 1.0))]
    pub temperature: f64,
}

/// Sizes of the text encoder; its words and its longest text are those of the captions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Width.
    #[schemars(range(min = 1, max = MOST_WIDTH))]
    pub width: usize,
    /// Blocks.
    #[schemars(range(min = 1, max = MOST_LAYERS))]
    pub layers: usize,
    /// Attention heads.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Hidden width of the MLP over its width.
    #[schemars(range(max = MOST_RATIO), transform = above_zero)]
    pub mlp_ratio: f64,
}

/// What a step reads and hands out.
struct Described {
    layout: Arc<Layout>,
    plan: Plan,
    images: Act,
    words: Act,
    end: Act,
    /// Unit-length vectors [B, D] of the images and of the captions.
    of_images: Act,
    of_texts: Act,
    log_scale: Param,
}

impl Contrast {
    /// Refuses impossible numbers; the message names the key under `at`.
    pub fn check(&self, at: &str, model: &ModelConfig, samples: usize) -> Result<(), Error> {
        let refuse = |key: &str, why: String| Err(Error::Usage(format!("{at}.{key}: {why}")));
        self.recipe.check(at, samples)?;
        if self.recipe.accumulate != 1 {
            return refuse("recipe.accumulate", "must be 1: every image of a batch meets every caption".into());
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return refuse("drop_path_rate", format!("{} is not in 0..1", self.drop_path_rate));
        }
        if self.templates.is_empty() || self.templates.len() > 1000 || self.templates.iter().any(|t| !t.contains(NAME) || t.len() > 1000) {
            return refuse("templates", format!("up to 1000 are needed, each with {NAME} for the class's name"));
        }
        if !(self.temperature > 0.0 && self.temperature <= 1.0) {
            return refuse("temperature", format!("{} is not above 0 and at most 1", self.temperature));
        }
        if !(1..=MOST_WIDTH).contains(&self.embed_dim) {
            return refuse("embed_dim", format!("{} is not from 1 to {MOST_WIDTH}", self.embed_dim));
        }
        self.text_config(&Captions::new(&["a class".into()], &self.templates)).check().or_else(|e| refuse("text", e.to_string()))?;
        self.plan(model, &["a class".into()]).map(|_| ())
    }

    fn text_config(&self, captions: &Captions) -> TextConfig {
        let Text { width, layers, heads, mlp_ratio } = self.text;
        let (vocab_size, context_length) = (captions.vocabulary, captions.length);
        TextConfig { vocab_size, context_length, width, layers, heads, mlp_ratio, embed_dim: self.embed_dim, ln_eps: 1e-5 }
    }

    /// The plan of a step and the number of trained parameters, without any memory for them.
    ///
    /// # Errors
    /// Models that cannot be built.
    pub fn plan(&self, model: &ModelConfig, classes: &[String]) -> Result<(Plan, usize), Error> {
        let described = self.described(model, &Captions::new(classes, &self.templates))?;
        Ok((described.plan, described.layout.count()))
    }

    fn described(&self, model: &ModelConfig, captions: &Captions) -> Result<Described, Error> {
        let config = model.clone().with_drop_path(self.drop_path_rate);
        let mut layout = Layout::builder();
        let model = Model::declare(&config, &mut layout, "")?;
        let text = TextEncoder::declare(&self.text_config(captions), &mut layout, &format!("{HEAD}text."))?;
        let add = |layout: &mut LayoutBuilder, name: &str, shape: &[usize]| layout.add(format!("{HEAD}{name}"), shape);
        let proj = add(&mut layout, "proj.weight", &[self.embed_dim, config.width()]);
        let log_scale = add(&mut layout, "logit_scale", &[1]);
        let layout = layout.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let (batch, (h, w)) = (self.recipe.batch, config.img_size());
        let images = p.input([batch, config.in_chans(), h, w]);
        let words = p.input([batch, captions.length]);
        let end = p.input([batch, 1]);
        let map = model.plan(&mut p, images, Taps::default())?.map();
        // CLIP reads the CLS token; an encoder without one, the mean of its patches.
        let token = p.pool(map, if config.cls_token() { Pooling::Token(0) } else { Pooling::Mean { skip: 0 } })?;
        let token = p.linear(token, proj, Bias::None)?;
        let of_images = p.l2_normalise(token);
        let embedded = text.plan(&mut p, words, end)?;
        let of_texts = p.l2_normalise(embedded);
        p.leaf(of_images);
        p.leaf(of_texts);
        Ok(Described { layout, plan: p.finish()?, images, words, end, of_images, of_texts, log_scale })
    }
}

/// A run of image–caption contrast.
pub struct ContrastLearner {
    config: Contrast,
    captions: Captions,
    described: Described,
    arena: Arena,
    device: Device,
    seed: u64,
    stuck: Stuck,
}

impl ContrastLearner {
    /// A learner for batches of the recipe's size and images of these classes, and initial values.
    ///
    /// # Errors
    /// Those of [`Contrast::plan`]; fewer than two classes.
    pub fn new(
        config: &Contrast,
        model: &ModelConfig,
        classes: &[String],
        (init, seed): (Init, u64),
        device: Device,
    ) -> Result<(Self, Params), Error> {
        if classes.len() < 2 {
            return Err(Error::Usage("captions are made of the names of classes: at least two are needed".into()));
        }
        let captions = Captions::new(classes, &config.templates);
        let described = config.described(model, &captions)?;
        let mut params = Params::new(&described.layout, DType::F32);
        initialise(&mut params, "", model, init, seed);
        params.set(described.log_scale, &[-config.temperature.ln()]);
        let arena = Arena::new(&described.plan, DType::F32);
        let stuck = Stuck::new("image-caption contrast", "an even guess among the batch");
        Ok((ContrastLearner { config: config.clone(), captions, described, arena, device, seed, stuck }, params))
    }

    /// Has it warned that nothing is learnt?
    pub fn warned(&self) -> bool {
        self.stuck.warned()
    }

    /// Writes a caption for every image of a batch.
    fn caption(&mut self, labels: &[u32], at: At) -> Result<(), Error> {
        let (mut words, mut ends) = (vec![], vec![]);
        for (sample, label) in labels.iter().enumerate() {
            let caption = self.captions.draw(*label, [self.seed, at.step as u64, sample as u64]);
            let caption = caption.ok_or_else(|| Error::Usage(format!("class {label} has no caption")))?;
            words.extend(caption.words.iter().map(|w| *w as f32));
            ends.push(caption.end as f32);
        }
        self.arena.write::<f32>(self.described.words, &words);
        self.arena.write::<f32>(self.described.end, &ends);
        Ok(())
    }
}

impl Learner for ContrastLearner {
    fn gradients(&mut self, batch: &mut Batch, at: At, params: &Params, grads: &mut Grads) -> Result<Measured, Error> {
        if batch.labels.len() != batch.len() {
            return Err(Error::Usage("image-caption contrast needs labelled images: their classes' names are the captions".into()));
        }
        self.arena.write::<f32>(self.described.images, batch.view(0));
        self.caption(&batch.labels, at)?;
        let d = &self.described;
        let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: 0, view: 0 };
        let sets = [params];
        let mut cx = Cx::new(&self.device, &sets, &mut self.arena, key);
        d.plan.forward(&mut cx)?;
        // Above the limit the scale stays there, and has no gradient.
        let (log_scale, most) = (params.get::<f32>(d.log_scale)[0], MOST_SCALE.ln());
        let (x, y) = (cx.arena.value::<f32>(d.of_images), cx.arena.value::<f32>(d.of_texts));
        let (loss, dx, dy, ds) = contrast(x, y, &targets(&batch.labels), self.config.embed_dim, log_scale.min(most))?;
        cx.arena.grad_mut::<f32>(d.of_images).copy_from_slice(&dx);
        cx.arena.grad_mut::<f32>(d.of_texts).copy_from_slice(&dy);
        grads.reset();
        d.plan.backward(&mut cx, grads)?;
        grads.set(d.log_scale, &[if log_scale < most { ds } else { 0.0 }]);
        self.stuck.warn(at, loss, (batch.len() as f64).ln());
        Ok(Measured { loss, ..Measured::default() })
    }
}
