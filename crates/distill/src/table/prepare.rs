//! Stages of a table that train, made ready for their first step.

use std::sync::Arc;

use fd_compute::{DType, Params};
use fd_data::{Loader, Source};
use fd_model::{Checkpoint, Model, ModelConfig, initialise};

use super::config::FineTune;
use super::context::{classifier, dino, fine_tuned_model, fitting, mix, onto, random, supervised_model};
use super::lessons::distillation;
use super::work::{Job, TableWork};
use crate::Error;
use crate::contrast::ContrastLearner;
use crate::distillation::Lesson;
use crate::masked::MaskedLearner;
use crate::pretrain::Pretrain;
use crate::recipe::{Recipe, Supervised};
use crate::train::{Learner, PlanLearner, Task};

/// A stage ready for its first step.
pub(super) struct Prepared {
    pub learner: Box<dyn Learner>,
    pub params: Params,
    pub loader: Loader,
    pub recipe: Recipe,
}

impl TableWork {
    /// The learner, for stages that train; without `inputs` from initial values, which cost the same.
    pub(super) fn prepare(&self, inputs: &[Checkpoint]) -> Result<Option<Prepared>, Error> {
        let input = inputs.first();
        Ok(match &self.job {
            Job::Pretrain { model, how, .. } => Some(self.prepare_teacher(model, how, input)?),
            Job::Distil { student, lessons } => Some(self.prepare_student(student, lessons, inputs)?),
            Job::FineTune { model, column, from_scratch } => {
                Some(self.prepare_classifier(model, column, self.supervised(column, *from_scratch), input)?)
            }
            Job::Given(_) | Job::Shipped { .. } | Job::Random { .. } | Job::Probe { .. } | Job::Pixels => None,
        })
    }

    fn prepare_teacher(&self, model: &ModelConfig, how: &Pretrain, input: Option<&Checkpoint>) -> Result<Prepared, Error> {
        let c = &self.context;
        match how {
            Pretrain::Supervised { train: how } => {
                let model = supervised_model(model, how, c.classes);
                let (vit, start) = random(&model, c.config.init, self.seed)?;
                let input = input.map(|weights| fitting(&start, weights));
                self.train_classifier(&vit, onto(start, input.as_ref())?, how, &c.train)
            }
            Pretrain::Dino { train: how } => {
                let (mut learner, params) = dino(c, how, model, None, self.seed)?;
                let input = input.map(|weights| fitting(&params, weights));
                let params = onto(params, input.as_ref())?;
                learner.start_from(&params);
                let loader = c.loader(&c.train, how.crops(&c.config.data.normalise)?, &how.recipe, self.seed)?;
                Ok(Prepared { learner: Box::new(learner), params, loader, recipe: how.recipe.clone() })
            }
            Pretrain::Clip { train: how } => {
                let start = (c.config.init, self.seed);
                let (learner, params) = ContrastLearner::new(how, model, c.train.class_names(), start, c.device)?;
                let input = input.map(|weights| fitting(&params, weights));
                let params = onto(params, input.as_ref())?;
                let view = how.views.augment(model.img_size(), &c.config.data.normalise)?;
                let loader = c.loader(&c.train, c.one(view), &how.recipe, self.seed)?;
                Ok(Prepared { learner: Box::new(learner), params, loader, recipe: how.recipe.clone() })
            }
            Pretrain::Mae { train: how } => {
                let (learner, params) = MaskedLearner::new(how, model, c.config.init, self.seed, c.device)?;
                let params = onto(params, input)?;
                let view = how.views.augment(model.img_size(), &c.config.data.normalise)?;
                let loader = c.loader(&c.train, c.one(view), &how.recipe, self.seed)?;
                Ok(Prepared { learner: Box::new(learner), params, loader, recipe: how.recipe.clone() })
            }
        }
    }

    fn prepare_student(&self, student: &ModelConfig, lessons: &[Lesson], inputs: &[Checkpoint]) -> Result<Prepared, Error> {
        let (c, d) = (&self.context, &self.context.config.distil);
        let fd = distillation(d, student, lessons, c.classes)?;
        let mut frozen: Vec<Params> = fd.frozen.iter().map(|layout| Params::new(layout, DType::F32)).collect();
        frozen.iter_mut().zip(inputs).try_for_each(|(frozen, weights)| weights.load(frozen, ""))?;
        let mut params = Params::new(&fd.trained, DType::F32);
        for prefix in ["encoder.", "decoder."] {
            initialise(&mut params, prefix, student, c.config.init, self.seed);
        }
        let step = fd.plan(d.recipe.batch / d.recipe.accumulate, d.engine)?;
        let task = Task { plan: step.plan, images: step.images, targets: None, loss: step.loss };
        let view = d.views.augment(c.config.student.img_size(), &c.config.data.normalise)?;
        let loader = c.loader(&c.train, c.one(view), &d.recipe, self.seed)?;
        let learner = PlanLearner::new(task, c.device, self.seed, frozen, None);
        Ok(Prepared { learner: Box::new(learner), params, loader, recipe: d.recipe.clone() })
    }

    /// As in the paper: patch tokens are averaged, the distilled final norm is dropped for a fresh one, and a shared position table is
    /// copied to every block.
    fn prepare_classifier(
        &self,
        model: &ModelConfig,
        column: &FineTune,
        how: &Supervised,
        input: Option<&Checkpoint>,
    ) -> Result<Prepared, Error> {
        let c = &self.context;
        let config = fine_tuned_model(model, column, how, c.classes_of(column));
        let (vit, start) = random(&config, c.config.init, self.seed)?;
        let pretrained = input.map(|weights| {
            let mut weights = model.fine_tuning_weights(weights.clone());
            if config.img_size() != model.img_size() {
                weights.resize_positions(&config, Some(model.patches()))?;
            }
            Ok::<_, Error>(weights)
        });
        let pretrained = pretrained.transpose()?;
        self.train_classifier(&vit, onto(start, pretrained.as_ref())?, how, &c.labelled(column, self.seed)?)
    }

    fn train_classifier(&self, vit: &Model, params: Params, how: &Supervised, source: &Arc<dyn Source>) -> Result<Prepared, Error> {
        let c = &self.context;
        let task = classifier(vit, params.layout(), &how.recipe)?;
        let view = how.views.augment(vit.config().img_size(), &c.config.data.normalise)?;
        let loader = c.loader(source, c.one(view), &how.recipe, self.seed)?;
        let learner = PlanLearner::new(task, c.device, self.seed, vec![], Some(mix(how)?));
        Ok(Prepared { learner: Box::new(learner), params, loader, recipe: how.recipe.clone() })
    }
}
