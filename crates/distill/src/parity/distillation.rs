//! A student, its teacher and the objective: features on both sides, the loss, the gradients of student and projector.

use fd_compute::{Arena, Cx, DType, Grads, Params, Planner, StepKey};
use fd_model::goldens::Part;
use fd_model::names::Naming;
use fd_model::{ModelConfig, Taps};
use serde::de::IgnoredAny;

use super::Stop;
use super::checks::Checks;
use super::encoder::{compare_gradients, no_drop_path};
use super::kind::{self, TeacherClass, case_options};
use crate::distillation::{Distillation, DistillationPlan, Engine, Lesson, Projector};
use crate::in_dfdx::value_and_gradient;
use crate::{Normalisation, Objective, Target, WHITEN_EPS};

case_options! {
    /// How both were built.
    Options {
        cls: String,
        #[serde(rename = "student")]
        _student: IgnoredAny,
        #[serde(rename = "teacher")]
        _teacher: IgnoredAny,
        #[serde(rename = "ln_eps")]
        _ln_eps: Option<IgnoredAny>,
        #[serde(rename = "gelu")]
        _gelu: Option<IgnoredAny>,
        ln_tgt_eps: Option<f64>,
        loss: String,
    }
}

/// Student, teacher and their weights.
pub(super) struct Pair {
    pub fd: Distillation,
    pub trained: Params,
    pub frozen: Params,
    pub objective: Objective,
    lesson: Lesson,
    student: ModelConfig,
}

/// What the official code normalises the student's view with, and CLIP's: means, then standard deviations.
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
const CLIP: [[f64; 3]; 2] = [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]];

impl Pair {
    /// Reads both models; `loss` and `ln_tgt_eps` as the JSON has them, or else the paper's.
    pub fn read(checks: &mut Checks, class: TeacherClass, loss: Option<&str>, ln_tgt_eps: Option<f64>) -> Result<Self, Stop> {
        let (student, teacher) = (checks.golden().config(Part::Student)?, checks.golden().config(Part::Teacher)?);
        if (class == TeacherClass::Clip) != (teacher.naming == Naming::Clip) {
            let class = &checks.golden().json["cls"];
            return Err(Stop::Unknown(format!("`cls` is {class}, but the teacher's arguments are of another class")));
        }
        no_drop_path(&student.config)?;
        no_drop_path(&teacher.config)?;
        if let Some(eps) = ln_tgt_eps.filter(|&eps| eps != WHITEN_EPS) {
            return Err(Stop::Unknown(format!("`ln_tgt_eps` is {eps}, ours {WHITEN_EPS}")));
        }
        let loss = loss.map_or(Ok(Objective::PAPER.loss), kind::distance)?;
        let objective = Objective { target: Target::Map, normalisation: Normalisation::LayerNorm, loss };
        let mut lesson = Lesson::of(teacher.config.clone(), projector(checks)?, objective);
        if class == TeacherClass::Clip {
            lesson.renormalise = Some(renormalisation(&IMAGENET, &CLIP).into());
        }
        let fd = Distillation::of(&student.config, std::slice::from_ref(&lesson))?;
        let trained = checks.params(&fd.trained, "w.")?;
        let frozen = checks.params_of(&fd.frozen[0], "", &teacher)?;
        checks.compare_buffers("buf.encoder.", &student.config)?;
        Ok(Pair { fd, trained, frozen, objective, lesson, student: student.config })
    }

    pub fn student(&self) -> &ModelConfig {
        &self.student
    }
}

/// The layers that the case has weights of.
fn projector(checks: &Checks) -> Result<Projector, Stop> {
    let mut names: Vec<&str> = checks.below("w.decoder.").collect();
    names.sort_unstable();
    match names.as_slice() {
        [] => Ok(Projector::None {}),
        ["0.bias", "0.weight"] => Ok(Projector::Linear {}),
        ["0.bias", "0.weight", "2.bias", "2.weight"] => {
            let hidden = checks.golden().tensors["w.decoder.0.bias"].1.len();
            Ok(Projector::Mlp { hidden })
        }
        other => Err(Stop::Unknown(format!("a projector with the weights {other:?}"))),
    }
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let options: Options = kind::options(&checks.golden().json).or_else(|stop| {
        // Where the class is not ours, its options need not be.
        checks.golden().json["cls"].as_str().map(kind::teacher_class).transpose()?;
        Err(stop)
    })?;
    let class = kind::teacher_class(&options.cls)?;
    let pair = Pair::read(checks, class, Some(&options.loss), options.ln_tgt_eps)?;
    let (shape, pixels) = checks.input::<4>("in.image")?;
    let (height, width) = pair.student().img_size();
    if shape[1..] != [pair.student().in_chans(), height, width] {
        return Err(Stop::Failed(format!("`in.image` of shape {shape:?} does not fit the student")));
    }
    compare_features(checks, &pair, shape, pixels)?;

    let step = pair.fd.plan(shape[0], Engine::Fused)?;
    let mut arena = checks.arena(&step.plan)?;
    arena.write_f64(step.images, pixels);
    let sets = [&pair.trained, &pair.frozen];
    let device = checks.device();
    let mut cx = Cx::new(&device, &sets, &mut arena, StepKey::default());
    step.plan.forward(&mut cx)?;
    let (loss, _) = step.loss.value(&step.plan, &mut cx)?;
    checks.compare_scalar("loss", "", loss)?;
    compare_step(checks, &pair, &step, cx.arena)?;
    let mut grads = Grads::new(&pair.fd.trained, DType::F32);
    step.plan.backward(&mut cx, &mut grads)?;
    if checks.below("g.").next().is_some() { compare_gradients(checks, &grads) } else { Ok(()) }
}

/// Prediction, and the loss in dfdx, of the step that trains.
fn compare_step(checks: &mut Checks, pair: &Pair, step: &DistillationPlan, arena: &Arena) -> Result<(), Stop> {
    let compared = step.compared[0];
    checks.compare_value("out.pred", &step.plan, arena, compared.prediction)?;
    // The last operation reads both, so they are still there.
    let (prediction, teacher) = (arena.value::<f32>(compared.prediction), arena.value::<f32>(compared.teacher));
    let shape = step.plan.shape(compared.prediction);
    let (loss, _) = value_and_gradient(&pair.objective, shape.dims(), prediction, teacher, compared.cls)?;
    checks.compare_scalar("loss", " (dfdx)", f64::from(loss))
}

/// Features of both models, which that step does not keep.
fn compare_features(checks: &mut Checks, pair: &Pair, shape: [usize; 4], pixels: &[f64]) -> Result<(), Stop> {
    let mut p = Planner::new();
    p.bind(&pair.fd.trained);
    p.bind(&pair.fd.frozen[0]);
    let images = p.input(shape);
    let taps = Taps { blocks: true, attention: false };
    let seen = match &pair.lesson.renormalise {
        Some(channels) => p.channel_affine(images, channels.clone())?,
        None => images,
    };
    p.keep(seen);
    let model = pair.fd.teachers().next().ok_or_else(|| Stop::Failed("no teacher".into()))?;
    let (student, teacher) = (pair.fd.student.plan(&mut p, images, taps)?, model.plan(&mut p, seen, taps)?);
    let target = p.layer_norm(teacher.map(), None, WHITEN_EPS)?;
    p.keep(target);
    let plan = p.finish()?;
    let mut arena = checks.arena(&plan)?;
    arena.write_f64(images, pixels);
    plan.forward(&mut Cx::new(&checks.device(), &[&pair.trained, &pair.frozen], &mut arena, StepKey::default()))?;
    let named = [
        ("out.teacher_input", seen),
        ("out.student_tokens", student.map()),
        ("out.teacher_prenorm", teacher.prenorm),
        ("out.teacher_afternorm", teacher.map()),
        ("out.target", target),
    ];
    named.into_iter().try_for_each(|(name, act)| checks.compare_value(name, &plan, &arena, act))
}

/// (factor, term) of every channel that take images from one normalisation to another: mean and standard deviation of each.
fn renormalisation(from: &[[f64; 3]; 2], to: &[[f64; 3]; 2]) -> Vec<(f64, f64)> {
    (0..3).map(|c| crate::recipe::renormalise((from[0][c], from[1][c]), (to[0][c], to[1][c]))).collect()
}
