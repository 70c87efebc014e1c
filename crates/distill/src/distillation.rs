//! Teachers, student and projectors in one plan: the training step of feature distillation (the paper's section 3).
//!
//! The paper has one teacher; here there may be several, each with a projector, a normalisation and an objective of its own, and the loss
//! is their weighted sum. A teacher's map on another grid than the student's is resized to it (bilinear, before it is whitened); one that
//! was trained on images normalised in another way sees them so.

use std::sync::Arc;

use fd_compute::{Act, Activation, Bias, Layout, LayoutBuilder, Param, Plan, Planner, Pooling};
use fd_model::{Features, Model, ModelConfig, Taps, WideBlock, bilinear};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::{InDfdx, Loss, MOST_PARTS};
use crate::{Error, Objective, Target};

/// Widest projector.
const MOST_HIDDEN: usize = 1 << 16;

/// What stands between the student's features and the teacher's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Projector {
    /// Nothing: student and teacher are equally wide.
    None {},
    /// One linear layer a token, the paper's 1 x 1 convolution.
    Linear {},
    /// Two linear layers with a GELU between them.
    Mlp {
        /// Width between them.
        #[schemars(range(min = 1, max = MOST_HIDDEN))]
        hidden: usize,
    },
    /// A linear layer and one transformer block of the teacher's width, for narrow students (arXiv 2511.15572).
    Wide {
        /// The block's heads.
        #[schemars(range(min = 1))]
        heads: usize,
    },
}

#[derive(Clone, Debug)]
enum Layers {
    None,
    Linear(Param, Param),
    Mlp([(Param, Param); 2]),
    Wide(WideBlock),
}

/// A teacher and what is learnt from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// The teacher.
    pub teacher: ModelConfig,
    /// What stands between the widths.
    pub projector: Projector,
    /// What is learnt.
    pub objective: Objective,
    /// Its part in the loss.
    pub weight: f64,
    /// (factor, term) of every channel that take the student's view to the teacher's normalisation; none: it is the same.
    pub renormalise: Option<Arc<[(f64, f64)]>>,
}

/// A teacher in a plan.
#[derive(Clone, Debug)]
struct Side {
    model: Model,
    projector: Layers,
    lesson: Lesson,
}

/// A student and its frozen teachers.
#[derive(Clone, Debug)]
pub struct Distillation {
    /// The student, its parameters named `encoder.*`.
    pub student: Model,
    /// The trained parameters: student and projectors (`decoder.*`, of several teachers `decoder.{i}.*`).
    pub trained: Arc<Layout>,
    /// The teachers' parameters.
    pub frozen: Vec<Arc<Layout>>,
    sides: Vec<Side>,
}

/// The plan of a distillation step and its ends.
#[derive(Debug)]
pub struct DistillationPlan {
    /// Run it with parameters [trained, frozen ..].
    pub plan: Plan,
    /// Input: the view all models see [B, C, H, W].
    pub images: Act,
    /// The student's features after its final norm [B, N, C].
    pub student: Act,
    /// What is compared, teacher by teacher.
    pub compared: Vec<Compared>,
    /// The loss.
    pub loss: Loss,
}

/// What is compared of one teacher.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// The prediction [B, N, teacher's C] (or logits).
    pub prediction: Act,
    /// The teacher's output on the student's grid, before normalisation.
    pub teacher: Act,
    /// Does its first token stand for the image?
    pub cls: bool,
}

/// Where the objective is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// In the plan, fused.
    Fused,
    /// In dfdx, on the features as they leave the plan: the way of new objectives, slower.
    Dfdx,
}

/// Drop path sites of the first teacher start here, so that its masks are not the student's; of the next ones at multiples of it.
const TEACHER_SITES: u32 = 1 << 16;

impl Lesson {
    /// The paper's way to learn from a teacher: whole weight, on the view as it is.
    pub fn of(teacher: ModelConfig, projector: Projector, objective: Objective) -> Lesson {
        Lesson { teacher, projector, objective, weight: 1.0, renormalise: None }
    }

    fn declare_projector(&self, student: &ModelConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Layers, Error> {
        let refuse = |why: String| Err(Error::Usage(why));
        if self.objective.target == Target::Logits {
            let (from, to) = (student.num_classes(), self.teacher.num_classes());
            return if from == to {
                Ok(Layers::None)
            } else {
                refuse(format!("a student of {from} classes cannot learn a teacher's {to} logits"))
            };
        }
        let (from, to) = (student.width(), self.teacher.width());
        let mut layer = |name: usize, outputs: usize, inputs: usize| {
            let weight = layout.add(format!("{prefix}{name}.weight"), &[outputs, inputs, 1]);
            (weight, layout.add(format!("{prefix}{name}.bias"), &[outputs]))
        };
        Ok(match self.projector {
            Projector::None {} if from != to => return refuse(format!("projector `none` needs equal widths, not {from} and {to}")),
            Projector::None {} => Layers::None,
            Projector::Linear {} => {
                let (w, b) = layer(0, to, from);
                Layers::Linear(w, b)
            }
            Projector::Mlp { hidden } if hidden == 0 || hidden > MOST_HIDDEN => {
                return refuse(format!("projector.hidden: {hidden} is not from 1 to {MOST_HIDDEN}"));
            }
            Projector::Mlp { hidden } => Layers::Mlp([layer(0, hidden, from), layer(2, to, hidden)]),
            Projector::Wide { heads } => Layers::Wide(WideBlock::declare(layout, prefix, from, to, heads)?),
        })
    }
}

impl Distillation {
    /// Declares the parameters of a student, its one teacher and the projector.
    ///
    /// # Errors
    /// As [`Distillation::of`].
    pub fn new(student: &ModelConfig, teacher: &ModelConfig, projector: Projector, objective: Objective) -> Result<Self, Error> {
        Distillation::of(student, &[Lesson::of(teacher.clone(), projector, objective)])
    }

    /// Declares the parameters of a student, its teachers and the projectors.
    ///
    /// # Errors
    /// Models that cannot be built; widths, tokens or classes that do not go together; no teacher, or too many; a weight that is not
    /// positive.
    pub fn of(student: &ModelConfig, lessons: &[Lesson]) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::Usage(why));
        if lessons.is_empty() || lessons.len() > MOST_PARTS {
            return refuse(format!("a student has from 1 to {MOST_PARTS} teachers, not {}", lessons.len()));
        }
        let mut trained = Layout::builder();
        let student_model = Model::declare(student, &mut trained, "encoder.")?;
        let (mut frozen, mut sides) = (vec![], vec![]);
        for (i, lesson) in lessons.iter().enumerate() {
            let target = lesson.objective.target;
            if !(lesson.weight > 0.0 && lesson.weight.is_finite()) {
                return refuse(format!("a teacher's weight in the loss must be positive, not {}", lesson.weight));
            }
            if let Some(channels) = lesson.renormalise.as_deref().filter(|c| c.len() != student.in_chans()) {
                return refuse(format!("a teacher's normalisation of {} channels for images of {}", channels.len(), student.in_chans()));
            }
            if target == Target::Map && student.cls_token() != lesson.teacher.cls_token() {
                let who = if student.cls_token() { "student" } else { "teacher" };
                return refuse(format!("objective target = \"map\": only the {who} has a CLS token; set target = \"patches\""));
            }
            let prefix = if lessons.len() == 1 { "decoder.".to_string() } else { format!("decoder.{i}.") };
            let projector = lesson.declare_projector(student, &mut trained, &prefix)?;
            let mut layout = Layout::builder();
            let model = Model::declare(&lesson.teacher, &mut layout, "")?.with_first_site(TEACHER_SITES * (i as u32 + 1));
            frozen.push(layout.finish());
            sides.push(Side { model, projector, lesson: lesson.clone() });
        }
        Ok(Distillation { student: student_model, trained: trained.finish(), frozen, sides })
    }

    /// Of every block of the student, keep only what it reads, and compute the rest again in the backward pass.
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.student = self.student.with_recompute(recompute);
        self
    }

    /// The teachers.
    pub fn teachers(&self) -> impl Iterator<Item = &Model> {
        self.sides.iter().map(|s| &s.model)
    }

    /// The step for a batch of images of the student's size.
    pub fn plan(&self, batch: usize, engine: Engine) -> Result<DistillationPlan, Error> {
        let mut p = Planner::new();
        p.train(&self.trained);
        self.frozen.iter().for_each(|layout| p.bind(layout));
        let config = self.student.config();
        let (height, width) = config.img_size();
        let images = p.input([batch, config.in_chans(), height, width]);
        // The teachers first: their memory is free again before the student's activations are kept.
        let teachers = self.sides.iter().map(|side| side.see(&mut p, images)).collect::<Result<Vec<_>, Error>>()?;
        let student = self.student.plan(&mut p, images, Taps::default())?;
        let mut compared = vec![];
        for (side, teacher) in self.sides.iter().zip(&teachers) {
            compared.push(side.compare(&mut p, &student, teacher)?);
        }
        let loss = match engine {
            Engine::Fused => {
                let objectives = self.sides.iter().zip(&compared);
                let parts = objectives.map(|(side, c)| side.lesson.objective.plan(&mut p, c.prediction, c.teacher, c.cls));
                let parts = parts.collect::<Result<Vec<_>, Error>>()?;
                let weights = self.sides.iter().map(|s| s.lesson.weight);
                let weighted: Vec<(Act, f64)> = parts.iter().copied().zip(weights).collect();
                let total = if let [(only, 1.0)] = weighted[..] { only } else { p.weighted_sum(&weighted)? };
                p.root(total);
                parts.iter().for_each(|part| p.keep(*part));
                Loss::InPlan { total, parts }
            }
            Engine::Dfdx => {
                let mut outside = vec![];
                for (side, &Compared { prediction, teacher, cls }) in self.sides.iter().zip(&compared) {
                    // The fused form refuses what does not go together before anything is trained.
                    let mut trial = Planner::new();
                    let (a, b) = (trial.input(p.shape(prediction)), trial.input(p.shape(teacher)));
                    let (objective, weight) = (side.lesson.objective, side.lesson.weight);
                    objective.plan(&mut trial, a, b, cls)?;
                    p.leaf(prediction);
                    p.keep(teacher);
                    outside.push(InDfdx { objective, prediction, teacher, cls, weight });
                }
                Loss::InDfdx(outside)
            }
        };
        Ok(DistillationPlan { plan: p.finish()?, images, student: student.map(), compared, loss })
    }
}

impl Side {
    /// The teacher's forward pass.
    fn see(&self, p: &mut Planner, images: Act) -> Result<Features, Error> {
        let images = match &self.lesson.renormalise {
            Some(channels) => p.channel_affine(images, channels.clone())?,
            None => images,
        };
        Ok(self.model.plan(p, images, Taps::default())?)
    }

    /// Prediction and target, token for token.
    fn compare(&self, p: &mut Planner, student: &Features, teacher: &Features) -> Result<Compared, Error> {
        let target = self.lesson.objective.target;
        if target == Target::Logits {
            let missing = || Error::Usage("objective target = \"logits\" needs a classifier on student and teacher".into());
            let (prediction, teacher) = (student.logits.ok_or_else(missing)?, teacher.logits.ok_or_else(missing)?);
            return Ok(Compared { prediction, teacher, cls: false });
        }
        let mut cls = student.cls && teacher.cls;
        let (mut from, mut to) = (student.map(), teacher.map());
        if student.cls != teacher.cls && matches!(target, Target::Patches | Target::Gap) {
            cls = false;
            let patches = Pooling::After { skip: 1 };
            (from, to) = if student.cls { (p.pool(from, patches)?, to) } else { (from, p.pool(to, patches)?) };
        }
        if student.grid != teacher.grid && matches!(target, Target::Map | Target::Patches) {
            to = p.sparse(to, Arc::new(bilinear(teacher.grid, student.grid, usize::from(cls))))?;
        }
        Ok(Compared { prediction: self.project(p, from)?, teacher: to, cls })
    }

    fn project(&self, p: &mut Planner, x: Act) -> Result<Act, Error> {
        Ok(match &self.projector {
            Layers::None => x,
            Layers::Linear(w, b) => p.linear(x, *w, Bias::Full(*b))?,
            Layers::Mlp([(w1, b1), (w2, b2)]) => {
                let h = p.linear(x, *w1, Bias::Full(*b1))?;
                let h = p.activation(h, Activation::Gelu);
                p.linear(h, *w2, Bias::Full(*b2))?
            }
            Layers::Wide(wide) => wide.plan(p, x)?,
        })
    }
}
