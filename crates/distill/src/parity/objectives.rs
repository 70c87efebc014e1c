//! Every variant of the objective on given features: `{target}.{normalisation}.{loss}.loss` and `.grad`, on logits
//! `logits.kl.T{t}.*` and `logits.softce.*`, and the normalised targets. Each is run as a fused plan and in dfdx.

use std::collections::BTreeSet;

use fd_compute::{Act, Cx, Planner, Pooling, Shape, StepKey};

use super::Stop;
use super::checks::Checks;
use super::kind::{self, case_options};
use super::losses::run_on_inputs;
use crate::in_dfdx::{self, value_and_gradient};
use crate::{FeatureDistance, Normalisation, Objective, Target, WHITEN_EPS};

case_options! {
    /// Sizes, said a second time.
    Options {
        #[serde(rename = "B")]
        batch: usize,
        #[serde(rename = "N")]
        tokens: Option<usize>,
        #[serde(rename = "C")]
        width: usize,
        #[serde(rename = "K")]
        classes: Option<usize>,
    }
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let options: Options = kind::options(&checks.golden().json)?;
    let stems: BTreeSet<&str> = checks.below("").filter(|name| !name.starts_with("in.") && !name.starts_with("out.")).map(stem).collect();
    let variants = stems.into_iter().map(|stem| Ok((stem, parse(stem)?))).collect::<Result<Vec<_>, Stop>>()?;

    let cls = has_cls(checks);
    for (stem, objective) in variants {
        let logits = objective.target == Target::Logits;
        let suffix = if logits { "_logits" } else { "" };
        let (shape, student) = checks.tensor(&format!("in.student{suffix}"))?;
        let (same, teacher) = checks.tensor(&format!("in.teacher{suffix}"))?;
        let expected = [vec![options.batch], if logits { vec![] } else { options.tokens.into_iter().collect() }].concat();
        let width = if logits { options.classes } else { Some(options.width) };
        let expected = [expected, width.into_iter().collect()].concat();
        if shape != same || shape != expected {
            return Err(Stop::Failed(format!("`in.student{suffix}` {shape:?}, `in.teacher{suffix}` {same:?}, the JSON says {expected:?}")));
        }
        for (by, result) in
            [("", fused(checks, &objective, shape, student, teacher, cls)), (" (dfdx)", dfdx(&objective, shape, student, teacher, cls))]
        {
            let (loss, gradient) = result?;
            checks.compare_scalar(&format!("{stem}.loss"), by, loss)?;
            checks.compare_by(&format!("{stem}.grad"), by, shape, &gradient)?;
        }
    }
    for name in checks.below("out.target.") {
        compare_target(checks, name, cls)?;
    }
    Ok(())
}

/// A variant's name: without what of it this is.
fn stem(name: &str) -> &str {
    let name = name.strip_suffix(".f64").unwrap_or(name);
    name.strip_suffix(".loss").or(name.strip_suffix(".grad")).unwrap_or(name)
}

fn parse(stem: &str) -> Result<Objective, Stop> {
    let unknown = || Stop::Unknown(format!("the variant `{stem}`"));
    let number = |text: Option<&str>| text.and_then(|t| t.parse().ok()).ok_or_else(unknown);
    if let Some(rest) = stem.strip_prefix("logits.") {
        let loss = match rest.split_once('.') {
            Some(("kl", at)) => FeatureDistance::Kl { temperature: number(at.strip_prefix('T'))? },
            Some(("softce", at)) => FeatureDistance::SoftCrossEntropy { temperature: number(at.strip_prefix('T'))? },
            None if rest == "softce" => FeatureDistance::SoftCrossEntropy { temperature: 1.0 },
            None if rest == "kl" => FeatureDistance::Kl { temperature: 1.0 },
            _ => return Err(unknown()),
        };
        return Ok(Objective { target: Target::Logits, normalisation: Normalisation::None, loss });
    }
    let [at, how, loss] = stem.splitn(3, '.').collect::<Vec<_>>()[..] else { return Err(unknown()) };
    let (target, normalisation) = target(at, how).ok_or_else(unknown)?;
    let loss = match loss {
        "l1" => FeatureDistance::L1 {},
        "mse" => FeatureDistance::Mse {},
        "cosine" => FeatureDistance::Cosine {},
        other => FeatureDistance::SmoothL1 { beta: number(other.strip_prefix("smoothl1_b"))? },
    };
    Ok(Objective { target, normalisation, loss })
}

fn target(target: &str, normalisation: &str) -> Option<(Target, Normalisation)> {
    let target = match target {
        "map" => Target::Map,
        "patches" => Target::Patches,
        "gap" => Target::Gap,
        "cls" => Target::Cls,
        _ => return None,
    };
    let normalisation = match normalisation {
        "none" => Normalisation::None,
        "l2" => Normalisation::L2,
        "ln" => Normalisation::LayerNorm,
        _ => return None,
    };
    Some((target, normalisation))
}

/// Is the first token a CLS token? The patches are then one fewer than the tokens.
fn has_cls(checks: &Checks) -> bool {
    let tokens = |name: &str| checks.golden().tensors.get(name).and_then(|(shape, _)| shape.get(1));
    match (tokens("in.student"), checks.below("out.target.patches.").next()) {
        (Some(all), Some(how)) => tokens(&format!("out.target.patches.{how}")) != Some(all),
        _ => true,
    }
}

type Found = Result<(f64, Vec<f64>), Stop>;

fn fused(checks: &Checks, objective: &Objective, shape: &[usize], student: &[f64], teacher: &[f64], cls: bool) -> Found {
    run_on_inputs(checks, plan_shape(shape)?, student, teacher, |p, student, teacher| Ok(objective.plan(p, student, teacher, cls)?))
}

fn dfdx(objective: &Objective, shape: &[usize], student: &[f64], teacher: &[f64], cls: bool) -> Found {
    let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let (loss, gradient) = value_and_gradient(objective, shape, &narrow(student), &narrow(teacher), cls)?;
    Ok((f64::from(loss), gradient.into_iter().map(f64::from).collect()))
}

fn plan_shape(shape: &[usize]) -> Result<Shape, Stop> {
    match *shape {
        [b, n, c] => Ok([b, n, c].into()),
        [b, k] => Ok([b, k].into()),
        _ => Err(Stop::Failed(format!("features or logits of shape {shape:?}"))),
    }
}

/// The normalised target, `out.target.{target}.{normalisation}`.
fn compare_target(checks: &mut Checks, name: &str, cls: bool) -> Result<(), Stop> {
    let of = name.split_once('.').and_then(|(at, how)| target(at, how));
    let (of, how) = of.ok_or_else(|| Stop::Unknown(format!("the target `{name}`")))?;
    let name = format!("out.target.{name}");
    let (shape, teacher) = checks.input::<3>("in.teacher")?;
    let (expected, _) = checks.tensor(&name)?;

    let mut p = Planner::new();
    let x = p.input(shape);
    let y = plan_target(&mut p, x, of, how, cls)?;
    p.keep(y);
    let plan = p.finish()?;
    let mut arena = checks.arena(&plan)?;
    arena.write_f64(x, teacher);
    plan.forward(&mut Cx::new(&checks.device(), &[], &mut arena, StepKey::default()))?;
    checks.compare(&name, plan.shape(y).dims(), &arena.to_f64(y))?;

    let narrow: Vec<f32> = teacher.iter().map(|&v| v as f32).collect();
    let x = in_dfdx::tensor((shape[0], shape[1], shape[2]), &narrow)?;
    let y = in_dfdx::normalise(how, in_dfdx::select(of, x, cls)?).as_vec();
    // A pooled target is a row an image, here as in PyTorch; in dfdx it keeps an extent of one token.
    checks.compare_by(&name, " (dfdx)", expected, &y.into_iter().map(f64::from).collect::<Vec<_>>())
}

fn plan_target(p: &mut Planner, x: Act, target: Target, how: Normalisation, cls: bool) -> Result<Act, Stop> {
    let skip = usize::from(cls);
    let x = match target {
        Target::Patches if cls => p.pool(x, Pooling::After { skip })?,
        Target::Gap => p.pool(x, Pooling::Mean { skip })?,
        Target::Cls => p.pool(x, Pooling::Token(0))?,
        _ => x,
    };
    Ok(match how {
        Normalisation::None => x,
        Normalisation::L2 => p.l2_normalise(x),
        Normalisation::LayerNorm => p.layer_norm(x, None, WHITEN_EPS)?,
    })
}
