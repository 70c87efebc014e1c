//! AdamW with its parameter groups, schedule and clipping on given gradients: `grad{k}.*` is the raw gradient of step k (from 1),
//! `p{k}.*` the parameters after it, `m{k}.*` and `v{k}.*` the optimiser's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use fd_compute::optim::{AdamW, clip_factor, grad_norm};
use fd_compute::{DType, Grads, Layout};

use super::Stop;
use super::checks::{Checks, EXACT, error, tolerance};
use super::kind::{GroupOptions, OptimiserOptions, cosine, options};
use crate::groups::{Rates, groups};

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let o: OptimiserOptions = options(&checks.golden().json)?;
    let mut layout = Layout::builder();
    for name in checks.below("w.") {
        let (shape, _) = checks.tensor(&format!("w.{name}"))?;
        layout.add(name, shape);
    }
    let layout = layout.finish();
    compare_groups(checks, &o, &layout);

    let mut params = checks.params(&layout, "w.")?;
    let mut grads = Grads::new(&layout, DType::F32);
    let mut adamw = AdamW::new(&layout, DType::F32, o.betas, o.eps);
    let schedule = cosine((o.base_lr, o.warmup_lr, o.min_lr), o.epochs, o.warmup_epochs, o.n_iter_per_epoch);
    // The given gradients are not those of a model: a `k_bias` has one here.
    let mut rates = Rates::with_key_bias(&layout, o.weight_decay, o.layer_decay, schedule);
    let (mut norms, mut steps) = (vec![], 0);
    while checks.below(&format!("grad{}.", steps + 1)).next().is_some() {
        rates.update(steps);
        compare_rates(checks, &o, &layout, &rates, steps);
        steps += 1;
        for p in layout.iter() {
            let (shape, values) = checks.tensor(&format!("grad{steps}.{}", layout.name(p)))?;
            if shape != layout.shape(p) {
                return Err(Stop::Failed(format!("`grad{steps}.{}` has shape {shape:?}", layout.name(p))));
            }
            grads.set(p, values);
        }
        grads.place(&checks.device())?;
        let norm = grad_norm(&grads);
        norms.push(norm);
        let clip = clip_factor(norm, o.clip_grad.filter(|&max| max > 0.0));
        adamw.step(&mut params, &grads, rates.get(), clip)?;
        for p in layout.iter() {
            let (m, v) = adamw.state(p);
            for (what, values) in [("p", params.to_f64(p)), ("m", m), ("v", v)] {
                let name = format!("{what}{steps}.{}", layout.name(p));
                if checks.has(&name) {
                    checks.compare(&name, layout.shape(p), &values)?;
                }
            }
        }
    }
    checks.require(steps == o.steps, || format!("`steps` is {}, but there are gradients of {steps}", o.steps));
    let lists = o.lr_per_step_per_group.len();
    checks.require(lists == steps, || format!("`lr_per_step_per_group` has {lists} steps, expected {steps}"));
    checks.compare_numbers("grad_norm_before_clip", &norms, &o.grad_norm_before_clip, |_| tolerance(0.0));
    Ok(())
}

/// The group of each parameter, and its position.
fn by_name(o: &OptimiserOptions) -> BTreeMap<&str, (usize, &GroupOptions)> {
    let group = |(i, g)| named(i, g);
    o.groups.iter().enumerate().flat_map(group).collect()
}

fn named(i: usize, group: &GroupOptions) -> impl Iterator<Item = (&str, (usize, &GroupOptions))> {
    group.names.iter().map(move |name| (name.as_str(), (i, group)))
}

fn compare_groups(checks: &mut Checks, o: &OptimiserOptions, layout: &Arc<Layout>) {
    let given = by_name(o);
    let count: usize = o.groups.iter().map(|g| g.names.len()).sum();
    checks.require(count == layout.iter().len(), || format!("`groups` name {count} parameters of {}", layout.iter().len()));
    for (p, ours) in layout.iter().zip(groups(layout, o.layer_decay)) {
        let name = layout.name(p);
        let Some((_, theirs)) = given.get(name) else {
            checks.require(false, || format!("`groups` do not have `{name}`"));
            continue;
        };
        let decay = if ours.decays { o.weight_decay } else { 0.0 };
        let found = [ours.lr_scale, decay, o.base_lr * ours.lr_scale];
        checks.compare_numbers("groups", &found, &[theirs.lr_scale, theirs.weight_decay, theirs.initial_lr], |_| EXACT);
        let label = format!("layer_{}_{}", ours.layer, if ours.decays { "decay" } else { "no_decay" });
        let agrees = theirs.group_name.as_ref().is_none_or(|g| *g == label);
        checks.require(agrees, || format!("`groups`: `{name}` is in {:?}, we say {label}", theirs.group_name));
    }
}

fn compare_rates(checks: &mut Checks, o: &OptimiserOptions, layout: &Layout, rates: &Rates, step: usize) {
    let given = by_name(o);
    let Some(expected) = o.lr_per_step_per_group.get(step) else { return };
    checks.require(expected.len() == o.groups.len(), || format!("`lr_per_step_per_group[{step}]` has {} groups", expected.len()));
    // One number a group: the parameter of the group that disagrees most.
    let mut found = expected.clone();
    for rate in rates.get() {
        let Some(&(group, _)) = given.get(layout.name(rate.param)) else { continue };
        let (Some(best), Some(e)) = (found.get_mut(group), expected.get(group)) else { continue };
        if error(&[rate.lr], &[*e], f64::MIN_POSITIVE) >= error(&[*best], &[*e], f64::MIN_POSITIVE) {
            *best = rate.lr;
        }
    }
    checks.compare_numbers("lr_per_step_per_group", &found, expected, |_| EXACT);
}
