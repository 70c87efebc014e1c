//! Teacher, student and projector in one plan: the training step of feature distillation (the paper's section 3).

use std::sync::Arc;

use fd_compute::{Act, Bias, GeluKind, Layout, Param, Plan, Planner};
use fd_model::{Taps, Vit, VitConfig};
use serde::{Deserialize, Serialize};

use crate::train::Loss;
use crate::{Error, Objective, Target};

/// What stands between the student's features and the teacher's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Projector {
    /// Nothing: student and teacher are equally wide.
    None {},
    /// One linear layer a token, the paper's 1 x 1 convolution.
    Linear {},
    /// Two linear layers with a GELU between them.
    Mlp {
        /// Width between them.
        hidden: usize,
    },
}

#[derive(Clone, Debug)]
enum Layers {
    None,
    Linear(Param, Param),
    Mlp([(Param, Param); 2]),
}

/// A student and its frozen teacher.
#[derive(Clone, Debug)]
pub struct Distillation {
    /// The student, its parameters named `encoder.*`.
    pub student: Vit,
    /// The teacher.
    pub teacher: Vit,
    /// The trained parameters: student and projector (`decoder.*`).
    pub trained: Arc<Layout>,
    /// The teacher's parameters.
    pub frozen: Arc<Layout>,
    projector: Layers,
    objective: Objective,
}

/// The plan of a distillation step and its ends.
#[derive(Debug)]
pub struct DistillationPlan {
    /// Run it with parameters [trained, frozen].
    pub plan: Plan,
    /// Input: the view both models see [B, C, H, W].
    pub images: Act,
    /// The student's features after its final norm [B, N, C].
    pub student: Act,
    /// The prediction [B, N, teacher's C] (or logits).
    pub prediction: Act,
    /// The teacher's output, before normalisation.
    pub teacher: Act,
    /// The loss.
    pub loss: Loss,
}

/// Where the objective is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// In the plan, fused.
    Fused,
    /// In dfdx, on the features as they leave the plan: the way of new objectives, slower.
    Dfdx,
}

/// Drop path sites of the teacher start here, so that its masks are not the student's.
const TEACHER_SITES: u32 = 1 << 16;

impl Distillation {
    /// Declares the parameters of both models and the projector.
    pub fn new(student: &VitConfig, teacher: &VitConfig, projector: Projector, objective: Objective) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::Usage(why));
        if student.tokens() != teacher.tokens() && matches!(objective.target, Target::Map | Target::Patches) {
            return refuse(format!("a student of {} tokens cannot learn a teacher's map of {}", student.tokens(), teacher.tokens()));
        }
        let mut trained = Layout::builder();
        let student_vit = Vit::declare(student, &mut trained, "encoder.")?;
        let logits = objective.target == Target::Logits;
        let (from, to) = if logits { (student.num_classes, teacher.num_classes) } else { (student.embed_dim, teacher.embed_dim) };
        let mut layer = |name: usize, outputs: usize, inputs: usize| {
            let weight = trained.add(format!("decoder.{name}.weight"), &[outputs, inputs, 1]);
            (weight, trained.add(format!("decoder.{name}.bias"), &[outputs]))
        };
        let projector = match projector {
            _ if logits && from != to => return refuse(format!("a student of {from} classes cannot learn a teacher's {to} logits")),
            Projector::None {} if from != to => return refuse(format!("projector `none` needs equal widths, not {from} and {to}")),
            Projector::None {} => Layers::None,
            _ if logits => Layers::None,
            Projector::Linear {} => {
                let (w, b) = layer(0, to, from);
                Layers::Linear(w, b)
            }
            Projector::Mlp { hidden } => Layers::Mlp([layer(0, hidden, from), layer(2, to, hidden)]),
        };
        let mut frozen = Layout::builder();
        let teacher = Vit::declare(teacher, &mut frozen, "")?.with_first_site(TEACHER_SITES);
        Ok(Distillation { student: student_vit, teacher, trained: trained.finish(), frozen: frozen.finish(), projector, objective })
    }

    /// The step for a batch of images of the student's size.
    pub fn plan(&self, batch: usize, engine: Engine) -> Result<DistillationPlan, Error> {
        let mut p = Planner::new();
        p.train(&self.trained);
        p.bind(&self.frozen);
        let config = self.student.config();
        let images = p.input([batch, config.in_chans, config.img_size.0, config.img_size.1]);
        // The teacher first: its memory is free again before the student's activations are kept.
        let teacher = self.teacher.plan(&mut p, images, Taps::default())?;
        let student = self.student.plan(&mut p, images, Taps::default())?;
        let missing = || Error::Usage("objective target = \"logits\" needs a classifier on student and teacher".into());
        let (teacher_out, student_out) = if self.objective.target == Target::Logits {
            (teacher.logits.ok_or_else(missing)?, student.logits.ok_or_else(missing)?)
        } else {
            (teacher.map(), student.map())
        };
        let prediction = self.project(&mut p, student_out)?;
        let (objective, cls) = (self.objective, config.cls_token);
        let loss = match engine {
            Engine::Fused => {
                let loss = objective.plan(&mut p, prediction, teacher_out, cls)?;
                p.root(loss);
                Loss::InPlan(loss)
            }
            Engine::Dfdx => {
                // The fused form refuses what does not go together before anything is trained.
                let mut trial = Planner::new();
                let (a, b) = (trial.input(p.shape(prediction)), trial.input(p.shape(teacher_out)));
                objective.plan(&mut trial, a, b, cls)?;
                p.leaf(prediction);
                p.keep(teacher_out);
                Loss::InDfdx { objective, prediction, teacher: teacher_out, cls }
            }
        };
        Ok(DistillationPlan { plan: p.finish()?, images, student: student_out, prediction, teacher: teacher_out, loss })
    }

    fn project(&self, p: &mut Planner, x: Act) -> Result<Act, Error> {
        Ok(match self.projector {
            Layers::None => x,
            Layers::Linear(w, b) => p.linear(x, w, Bias::Full(b))?,
            Layers::Mlp([(w1, b1), (w2, b2)]) => {
                let h = p.linear(x, w1, Bias::Full(b1))?;
                let h = p.gelu(h, GeluKind::Erf);
                p.linear(h, w2, Bias::Full(b2))?
            }
        })
    }
}
