//! The stages of a table: each takes weights and returns weights or logits.

use std::sync::Arc;

use fd_compute::{DType, Device, Layout, Params, Planner};
use fd_data::{Augment, Loader, LoaderConfig, Mix, Source, Subset, open};
use fd_model::{Checkpoint, Head, Taps, Vit, VitConfig, initialise};

use super::config::{Data, TableConfig};
use super::render::thousands;
use crate::Error;
use crate::distillation::Distillation;
use crate::evaluate::{Output, Outputs, in_order, outputs, pixels};
use crate::probe::probe;
use crate::recipe::{Recipe, Supervised, plain_view};
use crate::train::{Loss, Stage, StepReport, Task};

/// An encoder: what it is and its weights under official names.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The architecture.
    pub config: VitConfig,
    /// The weights.
    pub weights: Checkpoint,
}

/// Hears of every optimiser step: stage, seed, report.
pub type Reporter<'a> = dyn FnMut(&str, u64, &StepReport) + 'a;

/// Data, models and device that all stages share.
pub struct Stages<'a> {
    config: &'a TableConfig,
    device: Device,
    train: Arc<dyn Source>,
    test: Arc<dyn Source>,
    classes: usize,
}

impl<'a> Stages<'a> {
    /// Opens the data and checks every recipe against it.
    pub fn new(config: &'a TableConfig, device: Device) -> Result<Self, Error> {
        config.check()?;
        device.check()?;
        let Data { train, test, train_per_class, test_per_class, .. } = &config.data;
        let (train, test) = (labelled(open(train)?, *train_per_class)?, labelled(open(test)?, *test_per_class)?);
        let classes = train.num_classes();
        if test.num_classes() > classes {
            return Err(Error::Usage(format!("data.test has {} classes, data.train {classes}", test.num_classes())));
        }
        for (name, recipe) in
            [("pretrain", &config.pretrain.recipe), ("distil", &config.distil.recipe), ("fine_tune", &config.fine_tune.recipe)]
        {
            recipe.check(name, train.len())?;
        }
        config.probe.check()?;
        let stages = Stages { config, device, train, test, classes };
        // Impossible combinations of models and objective, and of model and machine, show before anything is trained.
        let (fd, recipe) = (stages.distillation()?, &config.distil.recipe);
        let plan = fd.plan(recipe.batch / recipe.accumulate, config.distil.engine)?.plan;
        // Values, gradients and two moments of what is trained; the teacher's values; activations.
        let elements = 4 * fd.trained.count() as u64 + fd.frozen.count() as u64 + plan.arena_len() as u64;
        fits_memory(4 * elements)?;
        Ok(stages)
    }

    /// The configuration.
    pub fn config(&self) -> &'a TableConfig {
        self.config
    }

    /// The training data in words and the number of test images.
    pub fn data(&self) -> (String, usize) {
        (format!("{}, {} images", self.train.name(), thousands(self.train.len())), self.test.len())
    }

    /// Optimiser steps of one seed, by stage: pretrain, distil, fine-tune.
    pub fn steps(&self) -> [usize; 3] {
        let of = |r: &Recipe| r.epochs * (self.train.len() / r.batch);
        [of(&self.config.pretrain.recipe), of(&self.config.distil.recipe), of(&self.config.fine_tune.recipe)]
    }

    /// A model at its initial values.
    pub fn random(&self, config: &VitConfig, seed: u64) -> Result<Encoder, Error> {
        let mut layout = Layout::builder();
        Vit::declare(config, &mut layout, "")?;
        let mut params = Params::new(&layout.finish(), DType::F32);
        initialise(&mut params, "", config, self.config.init, seed);
        Ok(Encoder { config: config.clone(), weights: Checkpoint::of(&params, "") })
    }

    /// A teacher trained on labels; its classifier is left out.
    pub fn pretrain(&self, seed: u64, report: &mut Reporter) -> Result<Encoder, Error> {
        let config = VitConfig { head: Head::Cls, num_classes: self.classes, ..self.config.teacher.clone() };
        let start = self.random(&config, seed)?;
        let (_, params) = self.supervised("pretrain", &self.config.pretrain, &start, seed, report)?;
        let mut weights = Checkpoint::of(&params, "");
        weights.tensors.retain(|name, _| !name.starts_with("head."));
        Ok(Encoder { config: self.config.teacher.clone(), weights })
    }

    /// Refuses weights that are not the teacher's.
    pub fn check_teacher(&self, weights: &Checkpoint) -> Result<(), Error> {
        let mut layout = Layout::builder();
        Vit::declare(&self.config.teacher, &mut layout, "")?;
        weights.load(&mut Params::new(&layout.finish(), DType::F32), "")?;
        Ok(())
    }

    /// The student that feature distillation makes of a teacher.
    pub fn distil(&self, teacher: &Encoder, seed: u64, report: &mut Reporter) -> Result<Encoder, Error> {
        let (fd, distil) = (self.distillation()?, &self.config.distil);
        let mut frozen = Params::new(&fd.frozen, DType::F32);
        teacher.weights.load(&mut frozen, "")?;
        let mut trained = Params::new(&fd.trained, DType::F32);
        initialise(&mut trained, "encoder.", &self.config.student, self.config.init, seed);
        initialise(&mut trained, "decoder.", &self.config.student, self.config.init, seed);
        let step = fd.plan(distil.recipe.batch / distil.recipe.accumulate, distil.engine)?;
        let stage = Stage {
            name: "distil",
            device: self.device,
            seed,
            recipe: &distil.recipe,
            task: Task { plan: step.plan, images: step.images, targets: None, loss: step.loss },
            frozen: vec![&frozen],
            loader: self.loader(distil.views.augment(self.config.student.img_size, &self.config.data.normalise)?, &distil.recipe, seed)?,
            mix: None,
        };
        stage.run(&mut trained, &mut |step| report("distil", seed, step))?;
        Ok(Encoder { config: self.config.student.clone(), weights: Checkpoint::of(&trained, "encoder.") })
    }

    fn distillation(&self) -> Result<Distillation, Error> {
        let d = &self.config.distil;
        let student = VitConfig { drop_path_rate: d.student_drop_path_rate, ..self.config.student.clone() };
        let teacher = VitConfig { drop_path_rate: d.teacher_drop_path_rate, ..self.config.teacher.clone() };
        Distillation::new(&student, &teacher, d.projector, d.objective)
    }

    /// Fine-tunes an encoder on the labels and returns its logits on the test images. As in the paper: patch tokens are averaged, the
    /// distilled final norm is dropped for a fresh one, and a shared position table is copied to every block.
    pub fn fine_tune(&self, name: &str, encoder: &Encoder, seed: u64, report: &mut Reporter) -> Result<Outputs, Error> {
        let config = VitConfig {
            head: Head::MeanPool,
            num_classes: self.classes,
            position: encoder.config.position.per_block(),
            ..encoder.config.clone()
        };
        let mut start = self.random(&config, seed)?;
        let mut pretrained = encoder.weights.clone();
        pretrained.shared_table_to_blocks(config.depth);
        pretrained.tensors.retain(|name, _| !name.starts_with("norm."));
        start.weights.tensors.extend(pretrained.tensors);
        let (vit, params) = self.supervised(name, &self.config.fine_tune, &start, seed, report)?;
        outputs(&vit, &params, Output::Logits, &self.test_images()?, self.device)
    }

    /// Trains a classifier from given weights.
    fn supervised(&self, name: &str, how: &Supervised, start: &Encoder, seed: u64, report: &mut Reporter) -> Result<(Vit, Params), Error> {
        let config = VitConfig { drop_path_rate: how.drop_path_rate, ..start.config.clone() };
        let mut layout = Layout::builder();
        let vit = Vit::declare(&config, &mut layout, "")?;
        let mut params = Params::new(&layout.finish(), DType::F32);
        start.weights.load(&mut params, "")?;
        let mut p = Planner::new();
        p.train(params.layout());
        let micro = how.recipe.batch / how.recipe.accumulate;
        let images = p.input([micro, config.in_chans, config.img_size.0, config.img_size.1]);
        let targets = p.input([micro, self.classes]);
        let features = vit.plan(&mut p, images, Taps::default())?;
        let logits = features.logits.ok_or_else(|| Error::Usage("a classifier needs num_classes".into()))?;
        let loss = p.cross_entropy(logits, targets)?;
        p.root(loss);
        let stage = Stage {
            name,
            device: self.device,
            seed,
            recipe: &how.recipe,
            task: Task { plan: p.finish()?, images, targets: Some(targets), loss: Loss::InPlan(loss) },
            frozen: vec![],
            loader: self.loader(how.views.augment(config.img_size, &self.config.data.normalise)?, &how.recipe, seed)?,
            mix: Some(Mix::new(how.mix.clone())?),
        };
        stage.run(&mut params, &mut |step| report(name, seed, step))?;
        Ok((vit, params))
    }

    /// Logits on the test images of a linear probe on the averaged patch tokens of a frozen encoder.
    pub fn probe(&self, encoder: &Encoder, seed: u64) -> Result<Outputs, Error> {
        let mut layout = Layout::builder();
        let vit = Vit::declare(&encoder.config, &mut layout, "")?;
        let mut params = Params::new(&layout.finish(), DType::F32);
        encoder.weights.load(&mut params, "")?;
        let of = |loader: &Loader| outputs(&vit, &params, Output::MeanPatches, loader, self.device);
        let (train, test) = (of(&self.train_images()?)?, of(&self.test_images()?)?);
        probe(&self.config.probe, &train, &test, self.classes, seed, self.device)
    }

    /// The same probe on the pixels.
    pub fn probe_pixels(&self, seed: u64) -> Result<Outputs, Error> {
        let (train, test) = (pixels(&self.train_images()?)?, pixels(&self.test_images()?)?);
        probe(&self.config.probe, &train, &test, self.classes, seed, self.device)
    }

    fn plain(&self) -> Result<Augment, Error> {
        plain_view(self.config.student.img_size, &self.config.data.normalise)
    }

    fn train_images(&self) -> Result<Loader, Error> {
        in_order(&self.train, self.plain()?)
    }

    fn test_images(&self) -> Result<Loader, Error> {
        in_order(&self.test, self.plain()?)
    }

    fn loader(&self, augment: Augment, recipe: &Recipe, seed: u64) -> Result<Loader, Error> {
        let workers = self.config.data.workers;
        let config =
            LoaderConfig { batch: recipe.batch, shuffle: true, drop_last: true, seed, views: 1, prefetch: 2 * workers.max(1), workers };
        Ok(Loader::new(self.train.clone(), augment, config)?)
    }
}

/// Refuses what this machine's memory cannot hold, where the system says how much that is.
fn fits_memory(bytes: u64) -> Result<(), Error> {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    match total.map(|kb| kb * 1024) {
        Some(total) if bytes > total => {
            let (need, have) = (bytes >> 20, total >> 20);
            Err(Error::Usage(format!(
                "distil: a step needs {need} MiB of memory, this machine has {have} MiB: reduce the models or the batch"
            )))
        }
        _ => Ok(()),
    }
}

fn labelled(source: Arc<dyn Source>, per_class: usize) -> Result<Arc<dyn Source>, Error> {
    if source.num_classes() == 0 {
        return Err(Error::Usage(format!("{}: a table needs labels", source.name())));
    }
    Ok(if per_class == 0 { source } else { Arc::new(Subset::balanced(source, per_class, 0)?) })
}
