//! The loss that a single model's gradients are of, as its JSON says it.

use std::collections::BTreeMap;

use fd_compute::{Act, Cx, DType, Grads, Layout, Params, Planner, Shape, StepKey};
use fd_model::Features;

use super::Stop;
use super::checks::Checks;
use super::kind::distance;
use crate::{Normalisation, Objective, Target, in_dfdx};

/// What a model's output is compared with.
pub(super) enum Wanted {
    /// The tokens, with `in.target`.
    Tokens(Objective),
    /// The logits: several losses by name; the one called `loss` is that of the gradients.
    Classes(BTreeMap<String, Probabilities>),
}

/// What the classes should have been.
pub(super) enum Probabilities {
    /// `in.label`, smoothed.
    Labels(f64),
    /// A tensor of the case.
    Given(String),
}

impl Wanted {
    /// `smooth_l1(tokens, in.target, beta=2)`, or, with classes, `loss: LabelSmoothingCrossEntropy(0.1); hard.loss: CE`.
    pub fn parse(text: &str, classes: usize) -> Result<Self, Stop> {
        if classes == 0 {
            let loss = distance(text)?;
            return Ok(Wanted::Tokens(Objective { target: Target::Map, normalisation: Normalisation::None, loss }));
        }
        let mut losses = BTreeMap::new();
        for part in text.split(';') {
            let unknown = || Stop::Unknown(format!("`loss`: {:?}", part.trim()));
            let (name, class) = part.split_once(':').ok_or_else(unknown)?;
            let class = class.trim().trim_start_matches("timm ");
            let (class, argument) = match class.split_once('(') {
                Some((class, rest)) => (class, rest.strip_suffix(')')),
                None => (class, None),
            };
            let probabilities = match (class, argument) {
                ("LabelSmoothingCrossEntropy", Some(smoothing)) => Probabilities::Labels(smoothing.parse().map_err(|_| unknown())?),
                ("SoftTargetCrossEntropy", Some(tensor)) => Probabilities::Given(tensor.to_owned()),
                ("CE", None) => Probabilities::Labels(0.0),
                _ => return Err(unknown()),
            };
            losses.insert(name.trim().to_owned(), probabilities);
        }
        if losses.contains_key("loss") {
            return Ok(Wanted::Classes(losses));
        }
        Err(Stop::Unknown(format!("`loss`: {text:?} does not say what `loss` is")))
    }

    /// The loss and its input.
    pub fn plan(&self, p: &mut Planner, features: &Features, cls: bool) -> Result<(Act, Act), Stop> {
        match (self, features.logits) {
            (Wanted::Tokens(objective), _) => {
                let target = p.input(p.shape(features.map()));
                Ok((objective.plan(p, features.map(), target, cls)?, target))
            }
            (Wanted::Classes(_), Some(logits)) => {
                let target = p.input(p.shape(logits));
                Ok((p.cross_entropy(logits, target)?, target))
            }
            (Wanted::Classes(_), None) => Err(Stop::Failed("`loss` is of logits, but the model has none".into())),
        }
    }

    /// The values of that input.
    pub fn target(&self, checks: &mut Checks, shape: Shape) -> Result<Vec<f64>, Stop> {
        match self {
            Wanted::Tokens(_) => given(checks, "in.target", shape),
            Wanted::Classes(losses) => losses["loss"].values(checks, shape),
        }
    }
}

fn given(checks: &mut Checks, name: &str, expected: Shape) -> Result<Vec<f64>, Stop> {
    let (shape, values) = checks.tensor(name)?;
    if shape == expected.dims() {
        return Ok(values.to_vec());
    }
    Err(Stop::Failed(format!("`{name}` has shape {shape:?}, the model's output {:?}", expected.dims())))
}

impl Probabilities {
    /// [B, K], row by row.
    fn values(&self, checks: &mut Checks, shape: Shape) -> Result<Vec<f64>, Stop> {
        let smoothing = match self {
            Probabilities::Given(tensor) => return given(checks, tensor, shape),
            Probabilities::Labels(smoothing) => *smoothing,
        };
        let ([batch], labels) = checks.input::<1>("in.label")?;
        let classes = shape.cols();
        if batch != shape.rows() {
            return Err(Stop::Failed(format!("`in.label` has {batch} labels for {} images", shape.rows())));
        }
        let mut rows = vec![smoothing / classes as f64; shape.len()];
        for (row, &label) in rows.chunks_exact_mut(classes).zip(labels) {
            match row.get_mut(label as usize).filter(|_| label >= 0.0) {
                Some(p) => *p += 1.0 - smoothing,
                None => return Err(Stop::Failed(format!("`in.label` has a class {label} of {classes}"))),
            }
        }
        Ok(rows)
    }
}

/// Every loss on these logits, and its gradient `g_logits.*`: fused, and in dfdx.
pub(super) fn compare_logit_losses(
    checks: &mut Checks,
    losses: &BTreeMap<String, Probabilities>,
    shape: Shape,
    logits: &[f64],
) -> Result<(), Stop> {
    for (name, probabilities) in losses {
        let target = probabilities.values(checks, shape)?;
        // `g_logits.soft` is that of `soft.loss`; what no other loss has a name for is that of `loss`.
        let short = name.strip_suffix(".loss");
        let is_ours = |g: &str| short.map_or_else(|| !losses.contains_key(&format!("{g}.loss")), |short| short == g);
        let gradients: Vec<String> = checks.below("g_logits.").filter(|g| is_ours(g)).map(|g| format!("g_logits.{g}")).collect();
        for (by, (loss, gradient)) in [("", fused(checks, shape, logits, &target)?), (" (dfdx)", dfdx(shape, logits, &target)?)] {
            if checks.has(name) {
                checks.compare_scalar(name, by, loss)?;
            }
            for g in &gradients {
                checks.compare_by(g, by, shape.dims(), &gradient)?;
            }
        }
    }
    Ok(())
}

fn fused(checks: &Checks, shape: Shape, logits: &[f64], target: &[f64]) -> Result<(f64, Vec<f64>), Stop> {
    run_on_inputs(checks, shape, logits, target, |p, logits, target| Ok(p.cross_entropy(logits, target)?))
}

fn dfdx(shape: Shape, logits: &[f64], target: &[f64]) -> Result<(f64, Vec<f64>), Stop> {
    let (rows, narrow) = ((shape.rows(), shape.cols()), |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<_>>());
    let target = in_dfdx::tensor(rows, &narrow(target))?;
    let (loss, gradient) = in_dfdx::differentiate(rows, &narrow(logits), |logits| Ok(in_dfdx::cross_entropy(logits, target)))?;
    Ok((f64::from(loss), gradient.into_iter().map(f64::from).collect()))
}

/// A plan of nothing but a loss between two inputs of the same shape: its value, and its gradient with respect to the first.
pub(super) fn run_on_inputs(
    checks: &Checks,
    shape: Shape,
    x: &[f64],
    target: &[f64],
    loss: impl FnOnce(&mut Planner, Act, Act) -> Result<Act, Stop>,
) -> Result<(f64, Vec<f64>), Stop> {
    let nothing = Layout::builder().finish();
    let mut p = Planner::new();
    p.train(&nothing);
    let (x_in, target_in) = (p.input(shape), p.input(shape));
    p.want_grad(x_in);
    let loss = loss(&mut p, x_in, target_in)?;
    p.root(loss);
    let plan = p.finish()?;
    let mut arena = checks.arena(&plan)?;
    arena.write_f64(x_in, x);
    arena.write_f64(target_in, target);
    let params = Params::new(&nothing, DType::F32);
    let sets = [&params];
    let device = checks.device();
    let mut cx = Cx::new(&device, &sets, &mut arena, StepKey::default());
    plan.forward(&mut cx)?;
    let value = cx.arena.scalar(loss);
    plan.backward(&mut cx, &mut Grads::new(&nothing, DType::F32))?;
    Ok((value, arena.grad_to_f64(x_in)))
}
