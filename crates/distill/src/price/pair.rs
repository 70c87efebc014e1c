//! A student and its teacher, by the names of architectures.

use fd_model::{ModelConfig, SwinVersion, preset};
use serde::Serialize;

use super::fleet::Fleet;
use super::step::{Split, StepPrice, parameters};
use crate::distillation::{Distillation, Projector};
use crate::{Error, Objective, Target};

/// Drop path of a priced student's last block. The price does not depend on it.
pub const DROP_PATH: f64 = 0.1;

/// A model of a pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// The architecture's name; of a student, of the architecture that it has the sizes of.
    pub name: String,
    /// The model.
    pub model: ModelConfig,
    /// Its parameters, the projector's not among them.
    pub parameters: usize,
    /// Rows and columns of its feature map.
    pub grid: (usize, usize),
    /// Tokens of the map, the CLS token included.
    pub tokens: usize,
    /// Their width.
    pub width: usize,
}

/// A student and its teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Is trained.
    pub student: Side,
    /// Stays as it is.
    pub teacher: Side,
}

/// How long is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// Training images.
    pub images: usize,
    /// Passes over them.
    pub epochs: usize,
}

/// A way to run the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// Which.
    #[serde(flatten)]
    pub split: Split,
    /// Its price.
    #[serde(flatten)]
    pub step: StepPrice,
    /// Days of the whole training, if a rate is known.
    pub days: Option<f64>,
}

/// What distilling a pair costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairPrice {
    /// The student.
    pub student: Side,
    /// The teacher.
    pub teacher: Side,
    /// Parameters of the projector: the paper's linear layer a token.
    pub projector_parameters: usize,
    /// What the student learns.
    pub objective: Objective,
    /// Images a step and device.
    pub batch: usize,
    /// Micro-batches of the variants that have several.
    pub accumulate: usize,
    /// The element type that memory is priced in.
    pub dtype: &'static str,
    /// How long.
    pub schedule: Schedule,
    /// On what.
    pub fleet: Fleet,
    /// Activations kept or recomputed, each in one batch and in micro-batches.
    pub variants: Vec<Variant>,
}

impl Side {
    /// A model under a name.
    ///
    /// # Errors
    /// A model that cannot be built; the message names it and the key.
    pub fn new(role: &str, name: &str, model: ModelConfig) -> Result<Side, Error> {
        let parameters = parameters(&model).map_err(|e| Error::Usage(format!("{role} {name}: {e}")))?;
        Ok(Side { name: name.into(), parameters, grid: model.grid(), tokens: model.tokens(), width: model.width(), model })
    }
}

impl Pair {
    /// The pair that an architecture stands for, with square images of another size if one is given.
    ///
    /// The student is what the paper trains from a teacher of that name. For every plain ViT (`vit-*`, `clip-*`, `dinov2-*`): a ViT of the
    /// same sizes with one relative position bias for all blocks, q and v biases and LayerScale 0.1. For Swin: Swin v2 of the same size,
    /// with the teacher's windows where its own do not tile the teacher's images. Drop path is [`DROP_PATH`].
    ///
    /// The teacher is the architecture itself, for `swinv2-t`, `-s` and `-b` the Swin of that size; or the one that is named. It sees
    /// the student's images.
    ///
    /// # Errors
    /// Names that are not known, sizes that cannot be.
    pub fn new(name: &str, teacher: Option<&str>, img_size: Option<usize>) -> Result<Pair, Error> {
        let sized = |model: ModelConfig| match img_size {
            Some(side) => model.with_img_size((side, side)),
            None => model,
        };
        let student = Side::new("student", name, sized(student_of(name)?))?;
        let teacher = teacher.map_or_else(|| teacher_of(name), String::from);
        let model = preset(&teacher).map_err(|e| Error::Usage(format!("teacher: {e}")))?.with_img_size(student.model.img_size());
        Ok(Pair { student, teacher: Side::new("teacher", &teacher, model)? })
    }

    /// The distillation: the paper's objective and projector. Where only one of the two has a CLS token, the patches are compared.
    ///
    /// # Errors
    /// Models that do not go together.
    pub fn distillation(&self) -> Result<Distillation, Error> {
        let (student, teacher) = (&self.student.model, &self.teacher.model);
        Distillation::new(student, teacher, Projector::Linear {}, self.objective())
    }

    fn objective(&self) -> Objective {
        let both = self.student.model.cls_token() == self.teacher.model.cls_token();
        Objective { target: if both { Target::Map } else { Target::Patches }, ..Objective::PAPER }
    }

    /// Prices it for a batch of images a step and device, in one piece and in `accumulate` micro-batches.
    ///
    /// # Errors
    /// Micro-batches that do not divide the batch; models that do not go together.
    pub fn price(self, batch: usize, accumulate: usize, schedule: Schedule, fleet: Fleet) -> Result<PairPrice, Error> {
        if batch == 0 {
            return Err(Error::Usage("batch: 0 images are none".into()));
        }
        if accumulate == 0 || !batch.is_multiple_of(accumulate) {
            return Err(Error::Usage(format!("accumulate: {accumulate} does not divide a batch of {batch}")));
        }
        let fd = self.distillation()?;
        let mut variants = vec![];
        for recompute in [false, true] {
            for accumulate in if accumulate == 1 { vec![1] } else { vec![1, accumulate] } {
                let split = Split { recompute, accumulate, micro_batch: batch / accumulate };
                let step = StepPrice::of(&fd, split)?;
                let days = fleet.days(schedule.images as f64 * schedule.epochs as f64, step.flops_per_image.total);
                variants.push(Variant { split, step, days });
            }
        }
        let (objective, projector_parameters) = (self.objective(), fd.trained.count() - self.student.parameters);
        let Pair { student, teacher } = self;
        let dtype = "f32";
        Ok(PairPrice { student, teacher, projector_parameters, objective, batch, accumulate, dtype, schedule, fleet, variants })
    }
}

fn student_of(name: &str) -> Result<ModelConfig, Error> {
    let student = match preset(name)? {
        ModelConfig::Swin(c) if c.version == SwinVersion::V1 => {
            match preset(&name.replacen("swin-", "swinv2-", 1))?.with_img_size(c.img_size) {
                ModelConfig::Swin(mut student) => {
                    if student.check().is_err() {
                        student.window_size = c.window_size;
                    }
                    ModelConfig::Swin(student)
                }
                other => other,
            }
        }
        same => same.student(),
    };
    Ok(student.with_drop_path(DROP_PATH))
}

fn teacher_of(name: &str) -> String {
    match name {
        "swinv2-t" | "swinv2-s" | "swinv2-b" => name.replacen("swinv2-", "swin-", 1),
        _ => name.into(),
    }
}
