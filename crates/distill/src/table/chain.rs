//! Fine-tunings that follow one another, and those with training images of their own (the paper's CLIP-L: ImageNet-22K, then ImageNet-1K
//! at 336 pixels).

use std::collections::HashMap;
use std::sync::Arc;

use fd_data::Source;
use fd_model::ModelConfig;
use serde_json::{Value, json};

use super::build::Builder;
use super::config::{FineTune, TableConfig};
use super::context::{Context, Sources, fine_tuned_model};
use super::work::Job;
use crate::Error;
use crate::graph::NodeId;
use crate::recipe::Normalise;

/// The training images of one fine-tuning.
pub struct OwnData {
    /// The images.
    pub train: Arc<dyn Source>,
    /// Names their contents.
    pub fingerprint: String,
    /// Are their classes those of the table?
    pub same_classes: bool,
}

impl OwnData {
    /// Opens the images of every fine-tuning that has its own; `classes` are the table's.
    ///
    /// # Errors
    /// Data that cannot be opened, or that does not go with the models and the recipe; the message names the key.
    pub(super) fn open(config: &TableConfig, classes: &[String], sources: &mut Sources) -> Result<HashMap<String, OwnData>, Error> {
        let mut all = HashMap::new();
        for column in &config.fine_tune {
            let Some(spec) = &column.data else { continue };
            let key = format!("fine_tune.{}.data", column.name);
            let (train, fingerprint) = sources.open(&key, spec, 0, true)?;
            let own = OwnData { same_classes: train.class_names() == classes, train, fingerprint };
            own.check(config, column)?;
            all.insert(column.name.clone(), own);
        }
        Ok(all)
    }

    /// Refuses images that the fine-tuning cannot be run on.
    ///
    /// # Errors
    /// What does not go together; the message names the key.
    pub fn check(&self, config: &TableConfig, column: &FineTune) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Usage(format!("fine_tune.{}.data: {why}", column.name)));
        if self.train.channels() != config.student.in_chans() {
            let (found, expected) = (self.train.channels(), config.student.in_chans());
            return refuse(format!("images of {found} channels, models with in_chans = {expected}"));
        }
        if config.columns.contains(&column.name) && !self.same_classes {
            return refuse(
                "has other classes than data.train: such a fine-tuning can only come before another one, not be a column".into(),
            );
        }
        column.check_recipes(self.train.len(), self.train.num_classes())
    }
}

impl FineTune {
    /// Refuses recipes for so many training images of so many classes.
    pub(super) fn check_recipes(&self, samples: usize, classes: usize) -> Result<(), Error> {
        let samples = if self.labels_per_class == 0 { samples } else { self.labels_per_class.saturating_mul(classes) };
        let both = [("train", &self.train), ("from_scratch", &self.from_scratch)];
        both.iter().try_for_each(|(key, how)| how.recipe.check(&format!("fine_tune.{}.{key}", self.name), samples))
    }
}

impl TableConfig {
    /// The fine-tuning that this one goes on from.
    pub fn before(&self, column: &FineTune) -> Option<&FineTune> {
        self.fine_tuning(column.after.as_deref()?)
    }

    /// Refuses chains that begin nowhere.
    pub(super) fn check_chains(&self) -> Result<(), Error> {
        for column in &self.fine_tune {
            let refuse = |why: String| Err(Error::Usage(format!("fine_tune.{}.after: {why}", column.name)));
            let (mut at, mut steps) = (column, 0);
            while let Some(after) = &at.after {
                let Some(before) = self.before(at) else {
                    let names: Vec<&str> = self.fine_tune.iter().map(|f| f.name.as_str()).collect();
                    return refuse(format!("no fine-tuning `{after}`; there are {}", names.join(", ")));
                };
                (at, steps) = (before, steps + 1);
                if steps > self.fine_tune.len() {
                    return refuse(format!("`{after}` comes after itself"));
                }
            }
        }
        Ok(())
    }
}

impl Context {
    /// Classes that a fine-tuning tells apart.
    pub fn classes_of(&self, column: &FineTune) -> usize {
        self.own.get(&column.name).map_or(self.classes, |own| own.train.num_classes())
    }

    /// Are its classes those of the test images?
    pub fn measures(&self, column: &FineTune) -> bool {
        self.own.get(&column.name).is_none_or(|own| own.same_classes)
    }

    /// Does a fine-tuning take over the classifier of the one before it?
    pub fn keeps_head(&self, column: &FineTune) -> bool {
        let classes = |f: &FineTune| self.own.get(&f.name).map_or(&self.train, |own| &own.train).class_names();
        self.config.before(column).is_some_and(|before| classes(before) == classes(column))
    }

    /// What a fine-tuning of an encoder starts from: the encoder, or the classifier of the one before it.
    fn start_of(&self, column: &FineTune, encoder: &ModelConfig, from_scratch: bool) -> ModelConfig {
        match self.config.before(column) {
            None => encoder.clone(),
            Some(before) => {
                let start = self.start_of(before, encoder, from_scratch);
                let how = if from_scratch { &before.from_scratch } else { &before.train };
                fine_tuned_model(&start, before, how, self.classes_of(before))
            }
        }
    }

    /// How images are evaluated, by the table's statistics or by others, for the identity of a stage.
    pub(super) fn evaluated(&self, size: (usize, usize), own: Option<&Normalise>) -> Value {
        let data = &self.config.data;
        let mut view = json!({ "normalise": own.unwrap_or(&data.normalise), "img_size": size });
        if let Some(crop) = data.evaluation_crop {
            view["crop"] = json!(crop);
        }
        view
    }

    /// Adds to a fine-tuning's identity what a chain and data of its own change; nothing where there is neither.
    pub(super) fn identify(&self, column: &FineTune, identity: &mut Value) {
        if let Some(own) = self.own.get(&column.name) {
            identity["train"] = json!(own.fingerprint);
            if !own.same_classes {
                identity["test"] = Value::Null;
            }
        }
        if column.after.is_some() {
            identity["keeps_head"] = json!(self.keeps_head(column));
        }
    }
}

impl Builder<'_> {
    /// Adds a fine-tuning of an encoder (its row's name, its model, has it random weights?) with those that come before it.
    pub(super) fn fine_tuning(
        &mut self,
        context: &Arc<Context>,
        column: &FineTune,
        of: (&str, &ModelConfig, bool),
        encoder: NodeId,
        seed: u64,
    ) -> Result<NodeId, Error> {
        let (row, model, from_scratch) = of;
        let input = match context.config.before(column) {
            None => encoder,
            Some(before) => self.fine_tuning(context, before, of, encoder, seed)?,
        };
        let job = Job::FineTune { model: context.start_of(column, model, from_scratch), column: Box::new(column.clone()), from_scratch };
        self.add(context, job, seed, &[input], (&column.name, row))
    }
}
