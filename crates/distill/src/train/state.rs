//! A stage's state as named tensors, and back.
//!
//! `params.*`, `adamw.m.*` and `adamw.v.*` by parameter, `<set>.*` for every further set of the learner; counters in the metadata.

use fd_compute::Params;
use fd_compute::optim::AdamW;
use fd_model::{Checkpoint, Tensor};

use super::Learner;
use crate::Error;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Steps taken or skipped.
    pub step: usize,
    /// Steps skipped.
    pub skipped: usize,
}

pub(super) fn capture(progress: Progress, params: &Params, adam: &AdamW, learner: &mut dyn Learner) -> Checkpoint {
    let layout = params.layout();
    let mut state = Checkpoint { source: "memory".into(), ..Checkpoint::default() };
    add(&mut state, "params", params);
    for p in layout.iter() {
        let (m, v) = adam.state(p);
        for (kind, values) in [("m", m), ("v", v)] {
            let data = values.into_iter().map(|v| v as f32).collect();
            state.tensors.insert(format!("adamw.{kind}.{}", layout.name(p)), Tensor { shape: layout.shape(p).to_vec(), data });
        }
    }
    learner.sets().into_iter().for_each(|(name, set)| add(&mut state, name, set));
    let counts = [("step", progress.step as u64), ("skipped", progress.skipped as u64), ("adamw.steps", adam.steps())];
    state.metadata = counts.map(|(key, n)| (key.to_string(), n.to_string())).into();
    state
}

fn add(state: &mut Checkpoint, set: &str, params: &Params) {
    let tensors = Checkpoint::of(params, "").tensors;
    state.tensors.extend(tensors.into_iter().map(|(name, tensor)| (format!("{set}.{name}"), tensor)));
}

/// Strict: a state of another model is refused, and then nothing has changed but sets restored before it.
pub(super) fn restore(state: &Checkpoint, params: &mut Params, adam: &mut AdamW, learner: &mut dyn Learner) -> Result<Progress, Error> {
    let layout = params.layout().clone();
    part(state, "params").load(params, "")?;
    let [mut m, mut v] = [params.clone(), params.clone()];
    part(state, "adamw.m").load(&mut m, "")?;
    part(state, "adamw.v").load(&mut v, "")?;
    layout.iter().for_each(|p| adam.set_state(p, &m.to_f64(p), &v.to_f64(p)));
    for (name, set) in learner.sets() {
        part(state, name).load(set, "")?;
    }
    let count = |key: &str| {
        let missing =
            || Error::File { path: (&state.source).into(), why: format!("holds no number `{key}`: not a checkpoint of training") };
        state.metadata.get(key).and_then(|n| n.parse::<u64>().ok()).ok_or_else(missing)
    };
    adam.set_steps(count("adamw.steps")?);
    Ok(Progress { step: count("step")? as usize, skipped: count("skipped")? as usize })
}

/// The tensors of one set, without its name.
fn part(state: &Checkpoint, set: &str) -> Checkpoint {
    let of_set = state.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(set)?.strip_prefix('.')?.to_string(), t.clone())));
    Checkpoint { source: state.source.clone(), tensors: of_set.collect(), ..Checkpoint::default() }
}
