//! DINO: self-distillation without labels (Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, 2021).
//!
//! Every image is cropped several times. A teacher, the moving average of the student, sees the global crops and says which of K
//! prototypes each looks like; the student sees all crops and learns to say the same of every other crop of the image. Targets are
//! sharpened by a low temperature and kept from collapsing by centring, or by Sinkhorn and Knopp's balancing (as in SwAV and DINOv2).
//!
//! With `regions` half of the loss is EsViT's: regions are matched, too (`regions.rs`).
//!
//! Backbone and head's MLP are plans, one a crop size, over one set of weights; the weight-normalised last layer and the loss are dfdx
//! (`loss.rs`). All numbers, the head's included, are in [`Params`].

mod collapse;
mod head;
mod loss;
mod regions;
mod targets;

use fd_compute::{DType, Device, Grads, Layout, Params, Plan, StepKey};
use fd_data::schema::below_one;
use fd_data::{Augment, Batch, Crop};
use fd_model::{Init, ModelConfig, initialise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use collapse::Guard;
pub use head::{HEAD, Head};
pub use loss::{logits, loss_and_gradients, loss_and_gradients_of_many};
pub use targets::{Targets, centred, sinkhorn};

use crate::Error;
use crate::recipe::{Normalise, Recipe, Views};
use crate::train::{At, Learner, Measured};
use head::{Network, Pieces};
use regions::Regions;

/// Cosines over less than this leave f32.
const LEAST_TEMPERATURE: f64 = 0.005;
const MOST_TEMPERATURE: f64 = 1e3;

/// DINO's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dino {
    /// The optimiser's numbers.
    pub recipe: Recipe,
    /// Drop path of the student's last block; the teacher has none.
    #[schemars(range(min = 0.0), transform = below_one)]
    pub drop_path_rate: f64,
    /// The head on the CLS token.
    pub head: Head,
    /// How the teacher's answers are kept apart.
    pub targets: Targets,
    /// Temperature of the student's answers.
    #[schemars(range(min = LEAST_TEMPERATURE, max = MOST_TEMPERATURE))]
    pub student_temperature: f64,
    /// Temperature of the teacher's.
    #[schemars(range(min = LEAST_TEMPERATURE, max = MOST_TEMPERATURE))]
    pub teacher_temperature: f64,
    /// Momentum of the teacher at the first and at the last step, a cosine between them.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub momentum: [f64; 2],
    /// Groups of crops of one size.
    pub crops: Vec<Crops>,
    /// Half of the loss matches regions (EsViT): each learns what the teacher says of the region most like it in another view.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(!skip_serializing_if)]
    pub regions: bool,
}

/// Crops of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crops {
    /// Who sees them.
    pub kind: Kind,
    /// Crops of each image.
    #[schemars(range(min = 1))]
    pub count: usize,
    /// Height and width in pixels, multiples of the patch size.
    #[schemars(with = "[usize; 2]", inner(range(min = 1)))]
    pub size: (usize, usize),
    /// How they are taken.
    pub views: Views,
}

/// Who sees a crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Teacher and student.
    Global,
    /// The student alone.
    Local,
}

impl Dino {
    /// The plans of a step and the number of trained parameters, without any memory for them.
    pub fn plans(&self, model: &ModelConfig) -> Result<(Vec<Plan>, usize), Error> {
        let mut declared = Layout::builder();
        let net = head::declare(&self.head, self.regions, model, &mut declared)?;
        let layout = declared.finish();
        let mut plans = vec![];
        for crops in &self.crops {
            for trained in [true, false].into_iter().filter(|trained| *trained || crops.kind == Kind::Global) {
                plans.push(net.plan(&layout, [crops.count * self.recipe.batch, crops.size.0, crops.size.1], trained)?.0);
            }
        }
        Ok((plans, layout.count()))
    }

    /// Refuses impossible numbers; the message names the key under `at`.
    pub fn check(&self, at: &str, model: &ModelConfig, samples: usize) -> Result<(), Error> {
        let refuse = |key: &str, why: String| Err(Error::Usage(format!("{at}.{key}: {why}")));
        self.recipe.check(at, samples)?;
        if self.recipe.accumulate != 1 {
            return refuse("recipe.accumulate", "must be 1: the targets of a batch depend on each other".into());
        }
        for (key, t) in [("student_temperature", self.student_temperature), ("teacher_temperature", self.teacher_temperature)] {
            if !(LEAST_TEMPERATURE..=MOST_TEMPERATURE).contains(&t) {
                return refuse(key, format!("{t} is not from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE}"));
            }
        }
        if self.momentum.iter().any(|m| !(0.0..=1.0).contains(m)) {
            return refuse("momentum", format!("{:?} are not in 0..=1", self.momentum));
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return refuse("drop_path_rate", format!("{} is not in 0..1", self.drop_path_rate));
        }
        let views = |kind: Option<Kind>| self.crops.iter().filter(|c| kind.is_none_or(|k| c.kind == k)).map(|c| c.count).sum::<usize>();
        if views(Some(Kind::Global)) == 0 || views(None) < 2 || views(None) > 64 || self.crops.iter().any(|c| c.count == 0) {
            return refuse("crops", "at least one global crop and two crops in all (at most 64) are needed".into());
        }
        for crop in &self.crops {
            let stride = model.stride();
            let fits = |side: usize| side > 0 && side.is_multiple_of(stride.max(1));
            if !(fits(crop.size.0) && fits(crop.size.1)) {
                return refuse("crops", format!("size {:?} is not a multiple of patch_size {stride}", crop.size));
            }
            model.clone().with_img_size(crop.size).check()?;
            if crop.size != model.img_size() && model.fixed_size() {
                return refuse("crops", format!("size {:?}: relative positions need crops of {:?}", crop.size, model.img_size()));
            }
        }
        self.targets.check().or_else(|why| refuse("targets", why))?;
        self.head.check().or_else(|why| refuse("head", why))
    }

    /// What the loader delivers: a group of views for every entry of `crops`.
    pub fn crops(&self, normalise: &Normalise) -> Result<Vec<Crop>, Error> {
        let augment = |c: &Crops| -> Result<Augment, Error> { c.views.augment(c.size, normalise) };
        self.crops.iter().map(|c| Ok(Crop { augment: augment(c)?, views: c.count })).collect()
    }
}

/// A run of DINO: student and teacher networks for every crop size.
pub struct DinoLearner {
    config: Dino,
    device: Device,
    seed: u64,
    student: Vec<Network>,
    teacher: Vec<Network>,
    /// Of the last layer; the same for regions.
    prototypes: fd_compute::Param,
    region_prototypes: Option<fd_compute::Param>,
    average: Params,
    centre: Params,
    region_centre: Params,
    guard: Guard,
}

impl DinoLearner {
    /// Student and teacher for batches of the recipe's size, and the student's initial values: those of `model` under its official
    /// names, the head's under `head.`.
    pub fn new(config: &Dino, model: &ModelConfig, init: Init, seed: u64, device: Device) -> Result<(Self, Params), Error> {
        let (mut declared, batch) = (Layout::builder(), config.recipe.batch);
        let model = model.clone().with_drop_path(config.drop_path_rate);
        let net = head::declare(&config.head, config.regions, &model, &mut declared)?;
        let layout = declared.finish();
        let mut params = Params::new(&layout, DType::F32);
        initialise(&mut params, "", &model, init, seed);
        let network = |crops: &Crops, trained: bool| net.network(&layout, [crops.count * batch, crops.size.0, crops.size.1], trained);
        let student = config.crops.iter().map(|c| network(c, true)).collect::<Result<_, Error>>()?;
        let teacher = config.crops.iter().filter(|c| c.kind == Kind::Global).map(|c| network(c, false)).collect::<Result<_, Error>>()?;
        let mut centre = Layout::builder();
        centre.add("centre", &[config.head.prototypes]);
        let centre = Params::new(&centre.finish(), DType::F32);
        let (region_centre, region_prototypes) = (centre.clone(), net.region_prototypes());
        let guard = Guard::new(config.head.prototypes);
        let (average, prototypes) = (params.clone(), net.prototypes);
        let config = config.clone();
        let learner =
            DinoLearner { config, device, seed, student, teacher, prototypes, region_prototypes, average, centre, region_centre, guard };
        Ok((learner, params))
    }

    /// The teacher starts as the student: to be called when the student's values were changed after [`new`](DinoLearner::new).
    pub fn start_from(&mut self, params: &Params) {
        self.average = params.clone();
    }

    /// The teacher's probabilities for its views [V B, K]; its regions and the probabilities for them, if they are matched.
    fn targets(&mut self, batch: &Batch, at: At) -> Result<(Vec<f32>, Option<OfRegions>), Error> {
        let (mut outputs, mut regions) = (vec![], Regions::default());
        let globals = (0..self.config.crops.len()).filter(|&g| self.config.crops[g].kind == Kind::Global);
        for (network, group) in self.teacher.iter_mut().zip(globals) {
            let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: 0, view: group as u64 };
            outputs.extend_from_slice(network.forward(batch.group(group), &self.average, key, false, &self.device)?);
            if let Some(found) = network.regions() {
                regions.push(found, self.config.crops[group].count, batch.len());
            }
        }
        self.guard.looked_at(&outputs, self.config.head.bottleneck);
        let (k, width, temperature) = (self.config.head.prototypes, self.config.head.bottleneck, self.config.teacher_temperature);
        let targets = |scores: &[f32], centre: &mut Params| match self.config.targets {
            Targets::Sinkhorn { iterations } => sinkhorn(scores, k, temperature, iterations),
            Targets::Centring { momentum } => centred(scores, k, temperature, momentum, centre),
        };
        let of_images = targets(&logits(&outputs, self.average.get::<f32>(self.prototypes), width)?, &mut self.centre);
        let Some(prototypes) = self.region_prototypes else { return Ok((of_images, None)) };
        let scores = logits(&regions.vectors, self.average.get::<f32>(prototypes), width)?;
        let of_regions = targets(&scores, &mut self.region_centre);
        Ok((of_images, Some((regions, of_regions))))
    }

    /// For every view of the student, the teacher's views that are other ones.
    fn others(&self) -> Vec<Vec<usize>> {
        let globals: usize = self.config.crops.iter().filter(|c| c.kind == Kind::Global).map(|c| c.count).sum();
        let (mut all, mut global) = (vec![], 0);
        for crops in &self.config.crops {
            for _ in 0..crops.count {
                // The teacher's own answer to this very view, if it has seen it.
                let same = (crops.kind == Kind::Global).then_some(global);
                global += usize::from(same.is_some());
                all.push((0..globals).filter(|t| Some(*t) != same).collect());
            }
        }
        all
    }

    /// For every view of the student, the sum of the teacher's probabilities for the other views [V B, K].
    fn spread(&self, teacher: &[f32], others: &[Vec<usize>], batch: usize) -> Vec<f32> {
        let size = batch * self.config.head.prototypes;
        let teacher: Vec<&[f32]> = teacher.chunks_exact(size).collect();
        let mut all = vec![];
        for others in others {
            let mut sum = vec![0.0; size];
            others.iter().for_each(|t| sum.iter_mut().zip(teacher[*t]).for_each(|(s, p)| *s += p));
            all.extend(sum);
        }
        all
    }
}

/// A teacher's regions and its probabilities for them [rows, K].
type OfRegions = (Regions, Vec<f32>);

impl Learner for DinoLearner {
    fn gradients(&mut self, batch: &mut Batch, at: At, params: &Params, grads: &mut Grads) -> Result<Measured, Error> {
        let (teacher, of_regions) = self.targets(batch, at)?;
        let others = self.others();
        let pairs: usize = others.iter().map(Vec::len).sum();
        let targets = self.spread(&teacher, &others, batch.len());
        let (mut outputs, mut regions) = (vec![], Regions::default());
        for (group, network) in self.student.iter_mut().enumerate() {
            let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: 0, view: group as u64 };
            outputs.extend_from_slice(network.forward(batch.group(group), params, key, true, &self.device)?);
            if let Some(found) = network.regions() {
                regions.push(found, self.config.crops[group].count, batch.len());
            }
        }
        // Images and regions share the loss.
        let share = if of_regions.is_some() { 0.5 } else { 1.0 };
        let (width, scale, temperature) =
            (self.config.head.bottleneck, share / (pairs * batch.len()) as f64, self.config.student_temperature);
        let (mut loss, dx, dw) = loss_and_gradients(&outputs, params.get::<f32>(self.prototypes), &targets, width, temperature, scale)?;
        let signs = self.guard.signs(&teacher, loss / share);
        let mut of_prototypes = vec![(self.prototypes, dw)];
        let mut dr = vec![];
        if let (Some((teachers, probabilities)), Some(prototypes)) = (of_regions, self.region_prototypes) {
            let targets = regions.targets(&teachers, &probabilities, &others, self.config.head.prototypes, batch.len());
            let found = loss_and_gradients_of_many(&regions.vectors, params.get::<f32>(prototypes), &targets, width, temperature, scale)?;
            loss += found.0;
            dr = found.1;
            of_prototypes.push((prototypes, found.2));
        }
        grads.reset();
        let mut pieces = Pieces { images: &dx, regions: &dr };
        for (group, network) in self.student.iter_mut().enumerate() {
            let key = StepKey { seed: self.seed, step: at.step as u64, first_sample: 0, view: group as u64 };
            pieces = network.backward(pieces, params, key, &self.device, grads)?;
        }
        for (param, gradient) in of_prototypes {
            grads.set(param, &gradient.iter().map(|&g| f64::from(g)).collect::<Vec<_>>());
        }
        self.guard.warn(at, &signs);
        Ok(Measured { loss, signs: Some(signs), ..Measured::default() })
    }

    fn stepped(&mut self, params: &Params, at: At) {
        let momentum = at.cosine(self.config.momentum[0], self.config.momentum[1]);
        self.average.approach(params, 1.0 - momentum).expect("student and teacher are of one layout");
    }

    fn sets(&mut self) -> Vec<(&'static str, &mut Params)> {
        let mut sets = vec![("teacher", &mut self.average), ("targets", &mut self.centre)];
        if self.region_prototypes.is_some() {
            sets.push(("region-targets", &mut self.region_centre));
        }
        sets
    }

    /// The teacher: the moving average of the student is what DINO hands out.
    fn result<'a>(&'a self, _: &'a Params) -> &'a Params {
        &self.average
    }
}
