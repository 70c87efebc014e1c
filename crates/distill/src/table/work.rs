//! The stages of a table as work of a graph.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use fd_compute::{DType, Grads, Layout, Params, Plan};
use fd_data::Loader;
use fd_model::{Checkpoint, Model, ModelConfig};
use serde_json::{Value, json};

use super::config::{Distil, FineTune, KNN, PROBE_AVG, PROBE_CLS};
use super::context::{Context, Encoder, classifier, fine_tuned_model, loaded, random, supervised_model};
use super::given::Given;
use super::lessons::{self, distillation};
use super::prepare::Prepared;
use crate::distillation::Lesson;
use crate::evaluate::{Output, Outputs, outputs, pixels};
use crate::graph::{Running, Work};
use crate::pretrain::Pretrain;
use crate::probe::{knn, probe};
use crate::recipe::{Normalise, Recipe, Supervised};
use crate::train::{At, Stage};
use crate::{Error, sha256_hex};

/// The file of an encoder's weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// The file of what stood between a student and its teachers' widths while it was distilled.
pub const PROJECTOR: &str = "projector.safetensors";
/// The file of the classes that an evaluation predicts.
pub const PREDICTIONS: &str = "predictions.csv";

/// What a stage of a table does.
#[derive(Clone, Debug)]
pub enum Job {
    /// Hands out weights that the user has.
    Given(Box<Given>),
    /// Hands out weights that the binary has.
    Shipped {
        /// The architecture.
        model: ModelConfig,
        /// The bytes of a safetensors file.
        bytes: Arc<[u8]>,
    },
    /// Hands out initial values.
    Random {
        /// The architecture.
        model: ModelConfig,
    },
    /// Trains a teacher: from initial values, or on from its first input's weights.
    Pretrain {
        /// The architecture.
        model: ModelConfig,
        /// How.
        how: Box<Pretrain>,
        /// Are there weights to start from?
        on: bool,
    },
    /// Makes a student of the inputs, its teachers.
    Distil {
        /// The student's architecture.
        student: Box<ModelConfig>,
        /// What is learnt from each of them.
        lessons: Vec<Lesson>,
    },
    /// Fine-tunes the first input and predicts the test images.
    FineTune {
        /// Its architecture: an encoder, or the classifier of the fine-tuning before this one.
        model: ModelConfig,
        /// The column.
        column: Box<FineTune>,
        /// Has it random weights?
        from_scratch: bool,
    },
    /// Linear probes and nearest neighbours on the frozen first input.
    Probe {
        /// Its architecture.
        model: ModelConfig,
        /// Statistics of its images' channels, if not those of the table.
        normalise: Option<Normalise>,
    },
    /// The same on the pixels.
    Pixels,
}

/// A job with what it works on.
pub struct TableWork {
    /// Shared by the table.
    pub context: Arc<Context>,
    /// What to do.
    pub job: Job,
    /// Of its random numbers.
    pub seed: u64,
}

/// What a stage costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Optimiser steps.
    pub steps: usize,
    /// Floating-point operations of all steps.
    pub flops: f64,
    /// Memory: activations, values, gradients and two moments of what is trained, values of what is not.
    pub bytes: u64,
}

impl Cost {
    fn of(plans: &[Plan], trained: usize, frozen: usize, recipe: &Recipe, samples: usize) -> Cost {
        let steps = recipe.epochs * (samples / recipe.batch);
        let passes = (steps * recipe.accumulate) as f64;
        let flops = plans.iter().map(|p| (p.cost().forward_flops + p.cost().backward_flops) as f64).sum::<f64>() * passes;
        let activations: u64 = plans.iter().map(|p| p.arena_len() as u64).sum();
        Cost { steps, flops, bytes: 4 * (activations + 4 * trained as u64 + frozen as u64) }
    }
}

impl TableWork {
    /// Everything that determines the results, beside the inputs' weights.
    pub fn identity(&self) -> Value {
        let c = &self.context.config;
        let [train, test] = &self.context.fingerprints;
        let view = json!({ "normalise": c.data.normalise, "img_size": c.student.img_size() });
        match &self.job {
            Job::Given(given) => {
                let Given { sha256, model, key, allow, .. } = given.as_ref();
                json!({ "given": sha256, "model": model, "key": key, "allow": allow.names, "interpolate": allow.interpolate })
            }
            Job::Shipped { model, bytes } => json!({ "given": sha256_hex(bytes), "model": model }),
            Job::Random { model } => json!({ "random": model, "init": c.init, "seed": self.seed }),
            Job::Pretrain { model, how, .. } => {
                let mut identity =
                    json!({ "pretrain": how, "model": model, "init": c.init, "seed": self.seed, "train": train, "view": view });
                if let Pretrain::Clip { .. } = how.as_ref() {
                    // Captions are made of the classes' names, which a fingerprint of images and labels does not know.
                    identity["classes"] = json!(self.context.train.class_names());
                }
                identity
            }
            // Recomputation gives the same bits.
            Job::Distil { student, lessons } => json!({
                "distil": Distil { recompute: false, ..c.distil.clone() }, "teacher": lessons::identity(c, lessons), "student": student, "init": c.init, "seed": self.seed, "train": train, "view": view,
            }),
            Job::FineTune { model, column, from_scratch } => {
                let mut identity = json!({
                    "fine_tune": self.supervised(column, *from_scratch), "labels_per_class": column.labels_per_class, "model": model,
                    "init": c.init, "seed": self.seed, "train": train, "test": test,
                    "view": self.context.evaluated(column.img_size.unwrap_or(model.img_size()), None),
                });
                self.context.identify(column, &mut identity);
                identity
            }
            Job::Probe { model, normalise } => {
                let view = self.context.evaluated(c.student.img_size(), normalise.as_ref());
                let mut identity = json!({ "probe": c.probe, "knn": c.knn, "model": model, "seed": self.seed, "train": train, "test": test, "view": view });
                if !model.cls_token() {
                    identity["neighbours"] = json!("average");
                }
                identity
            }
            Job::Pixels => {
                let view = self.context.evaluated(c.student.img_size(), None);
                json!({ "pixels": c.probe, "knn": c.knn, "seed": self.seed, "train": train, "test": test, "view": view })
            }
        }
    }

    pub(super) fn supervised<'a>(&self, column: &'a FineTune, from_scratch: bool) -> &'a Supervised {
        if from_scratch { &column.from_scratch } else { &column.train }
    }

    /// What the stage costs, found without any memory for its models.
    pub fn cost(&self) -> Result<Cost, Error> {
        let c = &self.context;
        let classifier = |model: &ModelConfig, how: &Supervised, samples| {
            let mut layout = Layout::builder();
            let vit = Model::declare(model, &mut layout, "")?;
            let layout = layout.finish();
            let plan = classifier(&vit, &layout, &how.recipe)?.plan;
            Ok(Cost::of(&[plan], layout.count(), 0, &how.recipe, samples))
        };
        match &self.job {
            Job::Pretrain { model, how, .. } => match how.as_ref() {
                Pretrain::Supervised { train: how } => classifier(&supervised_model(model, how, c.classes), how, c.train.len()),
                Pretrain::Clip { train: how } => {
                    let (plan, trained) = how.plan(model, c.train.class_names())?;
                    Ok(Cost::of(&[plan], trained, 0, &how.recipe, c.train.len()))
                }
                Pretrain::Mae { train: how } => {
                    let (plan, trained) = how.plan(model)?;
                    Ok(Cost::of(&[plan], trained, 0, &how.recipe, c.train.len()))
                }
                Pretrain::Dino { train: how } => {
                    let (plans, trained) = how.plans(model)?;
                    Ok(Cost::of(&plans, trained, trained, &how.recipe, c.train.len()))
                }
            },
            Job::Distil { student, lessons } => {
                let (fd, d) = (distillation(&c.config.distil, student, lessons, c.classes)?, &c.config.distil);
                let plan = fd.plan(d.recipe.batch / d.recipe.accumulate, d.engine)?.plan;
                Ok(Cost::of(&[plan], fd.trained.count(), fd.frozen.iter().map(|l| l.count()).sum(), &d.recipe, c.train.len()))
            }
            Job::FineTune { model, column, from_scratch } => {
                let how = self.supervised(column, *from_scratch);
                classifier(&fine_tuned_model(model, column, how, c.classes_of(column)), how, c.labelled(column, self.seed)?.len())
            }
            Job::Given(_) | Job::Shipped { .. } | Job::Random { .. } | Job::Probe { .. } | Job::Pixels => Ok(Cost::default()),
        }
    }

    /// Trains and returns the parameters that training is for.
    fn train(&self, stage: &Running, inputs: &[Checkpoint]) -> Result<Params, Error> {
        let Some(Prepared { mut learner, mut params, loader, recipe }) = self.prepare(inputs)? else {
            unreachable!("a job without training does not train");
        };
        stage.train(Stage { name: stage.title(), recipe: &recipe, loader }, learner.as_mut(), &mut params)?;
        Ok(learner.result(&params).clone())
    }

    /// An input's weights; without the head of its pretraining unless `with_head`.
    fn input(&self, stage: &Running, at: usize, model: &ModelConfig, with_head: bool) -> Result<Checkpoint, Error> {
        let (path, bytes) = stage.input(at, WEIGHTS)?;
        let weights = Checkpoint::from_bytes(&path.display().to_string(), &bytes)?;
        let encoder = Encoder { config: model.clone(), weights };
        Ok(if with_head { encoder.weights } else { encoder.bare() })
    }
}

impl Work for TableWork {
    fn run(&self, stage: &mut Running) -> Result<Vec<(String, f64)>, Error> {
        let c = &self.context;
        match &self.job {
            Job::Given(given) => stage.write_weights(WEIGHTS, &given.read()?)?,
            Job::Shipped { bytes, .. } => stage.write(WEIGHTS, bytes)?,
            Job::Random { model } => {
                let (_, params) = random(model, c.config.init, self.seed)?;
                stage.write_weights(WEIGHTS, &c.described(Checkpoint::of(&params, ""), model)?)?;
            }
            Job::Pretrain { model, on, .. } => {
                let inputs = if *on { vec![self.input(stage, 0, model, true)?] } else { vec![] };
                let trained = self.train(stage, &inputs)?;
                let weights = c.described(Checkpoint::of(&trained, ""), model)?;
                // Teachers are shipped in half precision; one that is trained here has to be the same teacher.
                stage.write(WEIGHTS, &weights.to_f16_bytes()?)?;
            }
            Job::Distil { student, lessons } => {
                let logits = |l: &Lesson| l.objective.target == crate::Target::Logits;
                let inputs = lessons.iter().enumerate().map(|(i, l)| self.input(stage, i, &l.teacher, logits(l)));
                let trained = self.train(stage, &inputs.collect::<Result<Vec<_>, _>>()?)?;
                stage.write_weights(WEIGHTS, &c.described(Checkpoint::of(&trained, "encoder."), student)?)?;
                let projector = Checkpoint::of(&trained, "decoder.");
                if !projector.tensors.is_empty() {
                    stage.write_weights(PROJECTOR, &projector)?;
                }
            }
            Job::FineTune { model, column, from_scratch } => {
                let input = self.input(stage, 0, model, c.keeps_head(column))?;
                let trained = self.train(stage, &[input])?;
                let config = fine_tuned_model(model, column, self.supervised(column, *from_scratch), c.classes_of(column));
                let weights = Checkpoint::of(&trained, "");
                if !c.measures(column) {
                    stage.write_weights(WEIGHTS, &c.described(weights, &config)?)?;
                    return Ok(vec![]);
                }
                let (vit, params) = loaded(&config, &weights)?;
                let [logits] = outputs(&vit, &params, [Output::Logits], &c.test_images(config.img_size(), None)?, c.device)?;
                stage.write_weights(WEIGHTS, &c.described(weights, &config)?)?;
                return predictions(stage, &[(column.name.as_str(), logits)]);
            }
            Job::Probe { model, normalise } => {
                let (vit, params) = loaded(model, &self.input(stage, 0, model, false)?)?;
                let (size, own) = (model.img_size(), normalise.as_ref());
                let sets = [c.train_images(size, own)?, c.test_images(size, own)?];
                if model.cls_token() {
                    let of = |loader: &Loader| outputs(&vit, &params, [Output::Cls, Output::MeanPatches], loader, c.device);
                    let ([train_cls, train], [test_cls, test]) = (of(&sets[0])?, of(&sets[1])?);
                    return self.judge(stage, Some((&train_cls, &test_cls)), (&train, &test));
                }
                let of = |loader: &Loader| outputs(&vit, &params, [Output::MeanPatches], loader, c.device);
                let ([train], [test]) = (of(&sets[0])?, of(&sets[1])?);
                return self.judge(stage, None, (&train, &test));
            }
            Job::Pixels => {
                let size = c.config.student.img_size();
                let (train, test) = (pixels(&c.train_images(size, None)?)?, pixels(&c.test_images(size, None)?)?);
                return self.judge(stage, Some((&train, &test)), (&train, &test));
            }
        }
        Ok(vec![])
    }

    fn rehearse(&self) -> Result<f64, Error> {
        let Some(Prepared { mut learner, params, loader, recipe }) = self.prepare(&[])? else { return Ok(0.0) };
        let (mut grads, mut steps) = (Grads::new(params.layout(), DType::F32), vec![]);
        let total = recipe.epochs * loader.batches();
        let mut start = Instant::now();
        for (step, batch) in loader.epoch(0, 0).take(6).enumerate() {
            learner.gradients(&mut batch?, At { step, steps: total }, &params, &mut grads)?;
            steps.push(start.elapsed().as_secs_f64());
            start = Instant::now();
        }
        // The first has page faults and thread starts in it.
        let measured = &steps[1.min(steps.len() - 1)..];
        Ok(total as f64 * measured.iter().sum::<f64>() / measured.len() as f64)
    }
}

impl TableWork {
    /// Probes and neighbours on features (training, test) of the CLS token, if there is one, and of the average.
    fn judge(
        &self,
        stage: &mut Running,
        cls: Option<(&Outputs, &Outputs)>,
        average: (&Outputs, &Outputs),
    ) -> Result<Vec<(String, f64)>, Error> {
        let c = &self.context;
        let (Some(numbers), Some(neighbours)) = (&c.config.probe, &c.config.knn) else {
            return Err(Error::Usage("a probe needs the tables [probe] and [knn]".into()));
        };
        let probed = |(train, test): (&Outputs, &Outputs)| probe(numbers, train, test, c.classes, self.seed);
        let mut measures = vec![(PROBE_AVG, probed(average)?)];
        if let Some(cls) = cls {
            measures.push((PROBE_CLS, probed(cls)?));
        }
        let (train, test) = cls.unwrap_or(average);
        measures.push((KNN, knn(neighbours, train, test, c.classes)));
        predictions(stage, &measures)
    }
}

/// Writes the predicted classes and returns the accuracies.
fn predictions(stage: &mut Running, measures: &[(&str, Outputs)]) -> Result<Vec<(String, f64)>, Error> {
    let tops: Vec<Vec<u32>> = measures.iter().map(|(_, o)| o.top()).collect();
    let mut text = String::from("label");
    measures.iter().for_each(|(name, _)| _ = write!(text, ",{name}"));
    for (i, label) in measures.first().map_or(&[][..], |(_, o)| &o.labels).iter().enumerate() {
        let _ = write!(text, "\n{label}");
        tops.iter().for_each(|top| _ = write!(text, ",{}", top[i]));
    }
    text.push('\n');
    stage.write(PREDICTIONS, text.as_bytes())?;
    Ok(measures.iter().map(|(name, o)| (name.to_string(), o.accuracy())).collect())
}
