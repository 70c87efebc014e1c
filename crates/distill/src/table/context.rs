//! What the stages of one table share: its configuration, its data, its device; and models made ready for training.

use std::collections::HashMap;
use std::sync::Arc;

use fd_compute::{DType, Device, Layout, Params, Planner};
use fd_data::{Augment, Crop, DataSpec, Loader, LoaderConfig, Mix, Source, Subset, open};
use fd_model::{Checkpoint, Init, Model, ModelConfig, Taps, initialise};

use super::chain::OwnData;
use super::config::{Data, FineTune, TableConfig};
use super::render::thousands;
use crate::Error;
use crate::dino::{Dino, DinoLearner, HEAD};
use crate::evaluate::in_order;
use crate::graph::hex;
use crate::masked::DECODER;
use crate::recipe::{Normalise, Recipe, Supervised, central_view, plain_view};
use crate::train::{Loss, Task};

/// An encoder: what it is and its weights under official names. A teacher's weights may carry the head it was pretrained with (`head.`).
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The architecture.
    pub config: ModelConfig,
    /// The weights.
    pub weights: Checkpoint,
}

impl Encoder {
    /// Without the head, or the decoder, that it was pretrained with.
    pub fn bare(&self) -> Checkpoint {
        let mut weights = self.weights.clone();
        weights.tensors.retain(|name, _| !name.starts_with(HEAD) && !DECODER.iter().any(|part| name.starts_with(part)));
        weights
    }
}

/// Data, configuration and device.
pub struct Context {
    /// The configuration.
    pub config: TableConfig,
    /// Where it computes.
    pub device: Device,
    /// Training images.
    pub train: Arc<dyn Source>,
    /// Test images.
    pub test: Arc<dyn Source>,
    /// Classes.
    pub classes: usize,
    /// Names of the data's contents: training, test.
    pub fingerprints: [String; 2],
    /// Of fine-tunings with training images of their own, by their names.
    pub own: HashMap<String, OwnData>,
}

impl Context {
    /// Opens the data and checks the configuration against it.
    pub fn new(config: TableConfig, device: Device) -> Result<Self, Error> {
        Context::with(config, device, &mut Sources::default())
    }

    /// As [`new`](Context::new), with data that other contexts may have opened.
    pub fn with(config: TableConfig, device: Device, sources: &mut Sources) -> Result<Self, Error> {
        device.check()?;
        let Data { train, test, train_per_class, test_per_class, .. } = &config.data;
        let labels = config.needs_labels();
        let (train, train_print) = sources.open("data.train", train, *train_per_class, labels)?;
        let (test, test_print) = match test {
            Some(test) => sources.open("data.test", test, *test_per_class, labels)?,
            None if config.columns.is_empty() => (train.clone(), train_print.clone()),
            None => return Err(Error::Usage("data.test: what is measured (columns) needs test images".into())),
        };
        let classes = train.num_classes();
        config.check(train.len(), classes)?;
        let usage = |why: String| Err(Error::Usage(why));
        if test.num_classes() > classes {
            return usage(format!("data.test has {} classes, data.train {classes}", test.num_classes()));
        }
        if let Some((a, b)) = test.class_names().iter().zip(train.class_names()).find(|(a, b)| a != b) {
            return usage(format!("data.test: class `{a}` stands where data.train has `{b}`: both need the same classes"));
        }
        for (key, source) in [("data.train", &train), ("data.test", &test)] {
            if source.channels() != config.student.in_chans() {
                let (found, expected) = (source.channels(), config.student.in_chans());
                return usage(format!("{key}: images of {found} channels, models with in_chans = {expected}"));
            }
        }
        let own = OwnData::open(&config, train.class_names(), sources)?;
        Ok(Context { config, device, train, test, classes, fingerprints: [train_print, test_print], own })
    }

    /// Weights with their model's description, the statistics of its images among it.
    pub fn described(&self, weights: Checkpoint, model: &ModelConfig) -> Result<Checkpoint, Error> {
        Ok(weights.described(model, Some(&self.config.data.normalise))?)
    }

    /// The training data in words.
    pub fn data(&self) -> String {
        format!("{}, {} images", self.train.name(), thousands(self.train.len()))
    }

    /// The training images of a fine-tuning: all, or a balanced subset that belongs to the seed.
    pub fn labelled(&self, column: &FineTune, seed: u64) -> Result<Arc<dyn Source>, Error> {
        let train = self.own.get(&column.name).map_or(&self.train, |own| &own.train).clone();
        Ok(match column.labels_per_class {
            0 => train,
            n => Arc::new(Subset::balanced(train, n, seed)?),
        })
    }

    /// Shuffled, augmented batches.
    pub fn loader(&self, source: &Arc<dyn Source>, crops: Vec<Crop>, recipe: &Recipe, seed: u64) -> Result<Loader, Error> {
        let workers = self.config.data.workers;
        let config = LoaderConfig { batch: recipe.batch, shuffle: true, drop_last: true, seed, prefetch: 2 * workers.max(1), workers };
        Ok(Loader::multi_crop(source.clone(), crops, config)?)
    }

    /// One augmented view.
    pub fn one(&self, augment: Augment) -> Vec<Crop> {
        vec![Crop { augment, views: 1 }]
    }

    /// Test images of a size in their order, unaugmented, normalised as the table says or by statistics of their own.
    pub fn test_images(&self, size: (usize, usize), own: Option<&Normalise>) -> Result<Loader, Error> {
        in_order(&self.test, self.evaluation(size, own)?)
    }

    /// The same of the training images.
    pub fn train_images(&self, size: (usize, usize), own: Option<&Normalise>) -> Result<Loader, Error> {
        in_order(&self.train, self.evaluation(size, own)?)
    }

    /// How images of a size are evaluated.
    fn evaluation(&self, size: (usize, usize), own: Option<&Normalise>) -> Result<Augment, Error> {
        let Data { normalise, evaluation_crop, .. } = &self.config.data;
        let normalise = own.unwrap_or(normalise);
        match evaluation_crop {
            Some(crop) => central_view(size, *crop, normalise),
            None => plain_view(size, normalise),
        }
    }
}

/// A model's parameters at their initial values.
pub fn random(config: &ModelConfig, init: Init, seed: u64) -> Result<(Model, Params), Error> {
    let mut layout = Layout::builder();
    let vit = Model::declare(config, &mut layout, "")?;
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "", config, init, seed);
    Ok((vit, params))
}

/// A model with given weights, strictly.
pub fn loaded(config: &ModelConfig, weights: &Checkpoint) -> Result<(Model, Params), Error> {
    let mut layout = Layout::builder();
    let vit = Model::declare(config, &mut layout, "")?;
    let mut params = Params::new(&layout.finish(), DType::F32);
    weights.load(&mut params, "")?;
    Ok((vit, params))
}

/// Weights without those tensors of another head that these parameters have no place for.
pub fn fitting(params: &Params, weights: &Checkpoint) -> Checkpoint {
    let (layout, mut weights) = (params.layout(), weights.clone());
    let fits = |name: &str, shape: &[usize]| layout.find(name).is_some_and(|p| layout.shape(p) == shape);
    weights.tensors.retain(|name, tensor| !name.starts_with(HEAD) || fits(name, &tensor.shape));
    weights
}

/// Initial values with given ones in the place of those that there are.
pub fn onto(mut start: Params, given: Option<&Checkpoint>) -> Result<Params, Error> {
    if let Some(given) = given {
        let mut all = Checkpoint::of(&start, "");
        all.source.clone_from(&given.source);
        all.tensors.extend(given.tensors.clone());
        all.load(&mut start, "")?;
    }
    Ok(start)
}

/// A classifier's training step.
pub fn classifier(vit: &Model, layout: &Arc<Layout>, recipe: &Recipe) -> Result<Task, Error> {
    let mut p = Planner::new();
    p.train(layout);
    let (config, micro) = (vit.config(), recipe.batch / recipe.accumulate);
    let images = p.input([micro, config.in_chans(), config.img_size().0, config.img_size().1]);
    let targets = p.input([micro, config.num_classes()]);
    let features = vit.plan(&mut p, images, Taps::default())?;
    let logits = features.logits.ok_or_else(|| Error::Usage("a classifier needs num_classes".into()))?;
    let loss = p.cross_entropy(logits, targets)?;
    p.root(loss);
    Ok(Task { plan: p.finish()?, images, targets: Some(targets), loss: Loss::of(loss) })
}

/// The classifier that supervised pretraining trains.
pub fn supervised_model(model: &ModelConfig, how: &Supervised, classes: usize) -> ModelConfig {
    model.clone().classifier(classes).with_drop_path(how.drop_path_rate)
}

/// The classifier that fine-tuning trains: patch tokens averaged, a relative position table for every block (paper, section 3.2).
pub fn fine_tuned_model(model: &ModelConfig, column: &FineTune, how: &Supervised, classes: usize) -> ModelConfig {
    let size = column.img_size.unwrap_or(model.img_size());
    model.clone().fine_tuned(classes).with_drop_path(how.drop_path_rate).with_img_size(size)
}

/// Mixing as the recipe says.
pub fn mix(how: &Supervised) -> Result<Mix, Error> {
    Ok(Mix::new(how.mix.clone())?)
}

/// DINO ready for its first step, from given weights if there are any.
pub fn dino(
    context: &Context,
    how: &Dino,
    model: &ModelConfig,
    start: Option<&Checkpoint>,
    seed: u64,
) -> Result<(DinoLearner, Params), Error> {
    let (mut learner, mut params) = DinoLearner::new(how, model, context.config.init, seed, context.device)?;
    if let Some(weights) = start {
        weights.load(&mut params, "")?;
        learner.start_from(&params);
    }
    Ok((learner, params))
}

/// Refuses what this machine's memory cannot hold, where the system says how much that is.
pub fn fits_memory(what: &str, bytes: u64) -> Result<(), Error> {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    match total.map(|kb| kb * 1024) {
        Some(total) if bytes > total => {
            let (need, have) = (bytes >> 20, total >> 20);
            Err(Error::Usage(format!("{what}: needs {need} MiB of memory, this machine has {have} MiB: reduce the models or the batch")))
        }
        _ => Ok(()),
    }
}

/// Data that is open, with its fingerprint: the points of a sweep share it.
#[derive(Default)]
pub struct Sources(HashMap<String, (Arc<dyn Source>, String)>);

impl Sources {
    pub(super) fn open(&mut self, key: &str, spec: &DataSpec, per_class: usize, labels: bool) -> Result<(Arc<dyn Source>, String), Error> {
        let name = format!("{spec:?} {per_class} {labels}");
        if let Some(open) = self.0.get(&name) {
            return Ok(open.clone());
        }
        let mut source = open(spec).map_err(|e| Error::Usage(format!("{key}: {e}")))?;
        if labels && source.num_classes() == 0 {
            return Err(Error::Usage(format!("{key}: {}: a table needs labels", source.name())));
        }
        if per_class > 0 {
            source = Arc::new(Subset::balanced(source, per_class, 0)?);
        }
        let mut fingerprint = hex(&source.fingerprint()?);
        // A fingerprint is of images and labels; classes that no label shows are stated beside them.
        let seen = (0..source.len()).filter_map(|i| source.label(i)).max().map_or(0, |label| label as usize + 1);
        if source.num_classes() != seen {
            fingerprint += &format!(" of {} classes", source.num_classes());
        }
        self.0.insert(name, (source.clone(), fingerprint.clone()));
        Ok((source, fingerprint))
    }
}
