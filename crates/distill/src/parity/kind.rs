//! What kind of case a JSON describes, and its options.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::Stop;
use crate::FeatureDistance;
use crate::schedule::Cosine;

/// Kinds of case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One encoder: forward, and mostly a loss and its gradients.
    Encoder,
    /// Student, teacher and objective.
    Distillation,
    /// The same over several optimiser steps.
    Training,
    /// Every variant of the objective on given features.
    Objectives,
    /// AdamW on given gradients.
    Optimiser,
    /// Learning rates.
    Schedules,
    /// Position tables of other sizes.
    Interpolation,
}

/// Recognised by the keys that only this kind has.
pub(super) fn of(json: &Value) -> Result<Kind, Stop> {
    let Some(keys) = json.as_object() else { return Err(Stop::Unknown("the JSON is not an object".into())) };
    let has = |key| keys.contains_key(key);
    match () {
        _ if has("schedules") => Ok(Kind::Schedules),
        _ if has("groups") || has("lr_per_step_per_group") || has("grad_norm_before_clip") => Ok(Kind::Optimiser),
        _ if (has("student") || has("teacher")) && (has("losses") || has("lrs")) => Ok(Kind::Training),
        _ if has("student") || has("teacher") => Ok(Kind::Distillation),
        _ if has("cls") => Ok(Kind::Encoder),
        _ if has("B") && has("C") => Ok(Kind::Objectives),
        _ if has("items") => Ok(Kind::Interpolation),
        _ => Err(Stop::Unknown(format!("no key tells its kind: {:?}", keys.keys().collect::<Vec<_>>()))),
    }
}

/// The case's options; a key that is not known is named.
pub(super) fn options<T: DeserializeOwned>(json: &Value) -> Result<T, Stop> {
    T::deserialize(json).map_err(|e| Stop::Unknown(e.to_string()))
}

/// `f32_dev` and what only people read.
macro_rules! case_options {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            #[serde(rename = "case", default)]
            _case: Option<serde::de::IgnoredAny>,
            #[serde(rename = "seed", default)]
            _seed: Option<serde::de::IgnoredAny>,
            #[serde(rename = "note", default)]
            _note: Option<serde::de::IgnoredAny>,
            #[serde(rename = "f32_dev_worst", default)]
            _worst: Option<serde::de::IgnoredAny>,
            #[serde(rename = "f32_dev", default)]
            _dev: Option<serde::de::IgnoredAny>,
            $($(#[$attribute])* pub $field: $type,)*
        }
    };
}
pub(super) use case_options;

case_options! {
    /// AdamW and its schedule on given gradients.
    OptimiserOptions {
        betas: (f64, f64),
        eps: f64,
        base_lr: f64,
        weight_decay: f64,
        layer_decay: f64,
        clip_grad: Option<f64>,
        warmup_epochs: f64,
        epochs: f64,
        n_iter_per_epoch: usize,
        warmup_lr: f64,
        min_lr: f64,
        steps: usize,
        groups: Vec<GroupOptions>,
        lr_per_step_per_group: Vec<Vec<f64>>,
        grad_norm_before_clip: Vec<f64>,
    }
}

/// A parameter group of the official code.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupOptions {
    pub names: Vec<String>,
    pub weight_decay: f64,
    pub lr_scale: f64,
    pub initial_lr: f64,
    pub group_name: Option<String>,
}

case_options! {
    /// Several steps of a distillation.
    TrainingOptions {
        cls: Option<String>,
        #[serde(rename = "student")]
        _student: IgnoredAny,
        #[serde(rename = "teacher")]
        _teacher: IgnoredAny,
        loss: Option<String>,
        ln_tgt_eps: Option<f64>,
        #[serde(rename = "ln_eps")]
        _ln_eps: Option<IgnoredAny>,
        #[serde(rename = "gelu")]
        _gelu: Option<IgnoredAny>,
        betas: Option<(f64, f64)>,
        eps: Option<f64>,
        base_lr: f64,
        warmup_lr: f64,
        min_lr: f64,
        weight_decay: f64,
        layer_decay: Option<f64>,
        clip_grad: Option<f64>,
        accumulation_steps: Option<usize>,
        epochs: f64,
        warmup_epochs: f64,
        n_iter_per_epoch: usize,
        steps: Option<usize>,
        losses: Vec<f64>,
        losses_f32: Option<Vec<f64>>,
        grad_norms: Vec<f64>,
        lrs: Vec<f64>,
    }
}

/// The schedule of a run of `epochs` x `n` steps.
pub(super) fn cosine((base_lr, warmup_lr, min_lr): (f64, f64, f64), epochs: f64, warmup_epochs: f64, n: usize) -> Cosine {
    let steps = |epochs: f64| (epochs * n as f64) as usize;
    Cosine { base_lr, warmup_lr, min_lr, steps: steps(epochs), warmup_steps: steps(warmup_epochs) }
}

/// `smooth_l1(.., beta=2, ..)`, `SmoothL1(beta=2) ..`, `l1(..)`, `mse(..)`, `cosine(..)`.
pub(super) fn distance(text: &str) -> Result<FeatureDistance, Stop> {
    let unknown = || Stop::Unknown(format!("`loss` is {text:?}"));
    let (name, rest) = text.split_once('(').ok_or_else(unknown)?;
    let (arguments, _) = rest.split_once(')').ok_or_else(unknown)?;
    match name.trim().to_lowercase().replace('_', "").as_str() {
        "smoothl1" => {
            let beta = arguments.split(',').find_map(|a| a.trim().strip_prefix("beta="));
            let beta = beta.and_then(|b| b.parse().ok()).ok_or_else(unknown)?;
            Ok(FeatureDistance::SmoothL1 { beta })
        }
        "l1" => Ok(FeatureDistance::L1 {}),
        "mse" => Ok(FeatureDistance::Mse {}),
        "cosine" => Ok(FeatureDistance::Cosine {}),
        _ => Err(unknown()),
    }
}

/// Which teacher a distillation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TeacherClass {
    /// DINO, DeiT or EsViT: it sees the student's view.
    Plain,
    /// CLIP: it sees the view normalised its own way.
    Clip,
}

/// `FD(PRED_FEAT=DINO, AFTERNORM)`: which teacher, and which of its outputs.
pub(super) fn teacher_class(text: &str) -> Result<TeacherClass, Stop> {
    let arguments = text.strip_prefix("FD(").and_then(|t| t.strip_suffix(')')).unwrap_or_default();
    let mut arguments: Vec<_> = arguments.split(',').map(str::trim).collect();
    arguments.sort_unstable();
    match arguments.as_slice() {
        ["AFTERNORM", "PRED_FEAT=DINO" | "PRED_FEAT=DEIT" | "PRED_FEAT=ESVIT"] => Ok(TeacherClass::Plain),
        ["AFTERNORM", "PRED_FEAT=CLIP_400M" | "PRED_FEAT=CLIP_400M_Large"] => Ok(TeacherClass::Clip),
        _ => Err(Stop::Unknown(format!("`cls` is {text:?}, not a distillation from a teacher's normalised features"))),
    }
}
