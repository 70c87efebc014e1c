//! Parameter groups of the official code: which parameters decay, and how far layer decay slows each of them down.
//!
//! - No weight decay: one-dimensional tensors, biases, `cls_token` and `pos_embed`. A plain ViT's relative position tables decay;
//!   Swin's tables, bias MLPs and `logit_scale` do not.
//! - Layer ids: patch embedding, `cls_token`, `pos_embed` 0; block i i + 1; everything else (the shared `rel_pos_bias`, norm, head,
//!   projector) the last, L + 1. A Swin counts its blocks over the stages, and a stage's patch merging goes with its last block.
//!   The learning rate of layer l is multiplied by `layer_decay`^(L + 1 - l).
//! - A `k_bias` has exactly zero gradient (softmax does not see it), so it is left out of training.

use fd_compute::Layout;
use fd_compute::optim::Rate;

use crate::schedule::Cosine;

/// What the official code makes of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Layer id, 0 ..= L + 1.
    pub layer: usize,
    /// Does weight decay act on it?
    pub decays: bool,
    /// What its learning rate is multiplied by.
    pub lr_scale: f64,
}

/// The blocks a model has, read off its parameters' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Blocks {
    /// `blocks.{i}`.
    Plain(usize),
    /// `layers.{stage}.blocks.{i}`: blocks of each stage.
    Stages(Vec<usize>),
    #[default]
    None,
}

impl Blocks {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Blocks::None;
        for name in names {
            if let Some((i, _)) = indexed(name, "blocks.") {
                let depth = if let Blocks::Plain(depth) = found { depth } else { 0 };
                found = Blocks::Plain(depth.max(i + 1));
            } else if let Some((stage, rest)) = indexed(name, "layers.") {
                let mut depths = if let Blocks::Stages(depths) = found { depths } else { vec![] };
                depths.resize(depths.len().max(stage + 1), 0);
                let blocks = indexed(rest, "blocks.").map_or(0, |(i, _)| i + 1);
                depths[stage] = depths[stage].max(blocks);
                found = Blocks::Stages(depths);
            }
        }
        found
    }

    fn depth(&self) -> usize {
        match self {
            Blocks::Plain(depth) => *depth,
            Blocks::Stages(depths) => depths.iter().sum(),
            Blocks::None => 0,
        }
    }

    fn layer(&self, name: &str) -> usize {
        if name.starts_with("patch_embed.") || name == "cls_token" || name == "pos_embed" {
            return 0;
        }
        match self {
            Blocks::Plain(_) => indexed(name, "blocks.").map_or(self.depth() + 1, |(i, _)| i + 1),
            Blocks::Stages(depths) => match indexed(name, "layers.") {
                // A patch merging comes after the stage's last block.
                Some((stage, rest)) => {
                    let here = indexed(rest, "blocks.").map_or(depths[stage], |(i, _)| i + 1);
                    depths[..stage].iter().sum::<usize>() + here
                }
                None => self.depth() + 1,
            },
            Blocks::None => 1,
        }
    }

    fn decays(&self, name: &str, shape: &[usize]) -> bool {
        let swin = ["relative_position_bias_table", "rpe_mlp", "cpb_mlp", "logit_scale"];
        let exempt = name == "cls_token" || name == "pos_embed" || name.ends_with(".bias") || shape.len() <= 1;
        let exempt_in_swin = matches!(self, Blocks::Stages(_)) && swin.iter().any(|part| name.contains(part));
        !exempt && !exempt_in_swin
    }
}

/// `<before><i>.<rest>` to (i, rest).
fn indexed<'a>(name: &'a str, before: &str) -> Option<(usize, &'a str)> {
    let (index, rest) = name.strip_prefix(before)?.split_once('.')?;
    // More blocks than this are not a model: a name from a file is not to make us allocate.
    Some((index.parse().ok().filter(|&i| i < 1 << 16)?, rest))
}

/// The name that the official code groups by: without the student's prefix.
fn plain(name: &str) -> &str {
    name.strip_prefix("encoder.").unwrap_or(name)
}

/// The groups of a layout's parameters, in its order.
pub fn groups(layout: &Layout, layer_decay: f64) -> Vec<Group> {
    let blocks = Blocks::of(layout.iter().map(|p| plain(layout.name(p))));
    let last = blocks.depth() + 1;
    let group = |p| {
        let name = plain(layout.name(p));
        let layer = blocks.layer(name);
        Group { layer, decays: blocks.decays(name, layout.shape(p)), lr_scale: layer_decay.powi((last - layer) as i32) }
    };
    layout.iter().map(group).collect()
}

/// Learning rate and weight decay of every trained parameter: made once, brought up to date at every step without allocating.
#[derive(Clone, Debug)]
pub struct Rates {
    schedule: Cosine,
    scales: Vec<f64>,
    rates: Vec<Rate>,
}

impl Rates {
    /// The rates of step 0. The student's names may have the prefix `encoder.`; whatever else is there (the projector's `decoder.`)
    /// belongs to the last layer.
    pub fn new(layout: &Layout, weight_decay: f64, layer_decay: f64, schedule: Cosine) -> Self {
        Rates::of(layout, weight_decay, layer_decay, schedule, |name| !name.ends_with(".k_bias"))
    }

    /// The same with each `k_bias`, as the official code has it: the optimiser then moves it by rounding errors.
    pub fn with_key_bias(layout: &Layout, weight_decay: f64, layer_decay: f64, schedule: Cosine) -> Self {
        Rates::of(layout, weight_decay, layer_decay, schedule, |_| true)
    }

    fn of(layout: &Layout, weight_decay: f64, layer_decay: f64, schedule: Cosine, trained: impl Fn(&str) -> bool) -> Self {
        let groups = groups(layout, layer_decay);
        let mut rates = Rates { schedule, scales: vec![], rates: vec![] };
        for (param, group) in layout.iter().zip(groups).filter(|(p, _)| trained(layout.name(*p))) {
            rates.scales.push(group.lr_scale);
            rates.rates.push(Rate { param, lr: 0.0, weight_decay: if group.decays { weight_decay } else { 0.0 } });
        }
        rates.update(0);
        rates
    }

    /// The rates of a step, ready for [`AdamW::step`](fd_compute::optim::AdamW::step).
    pub fn update(&mut self, step: usize) -> &[Rate] {
        for (rate, &scale) in self.rates.iter_mut().zip(&self.scales) {
            rate.lr = self.schedule.at(step, scale);
        }
        &self.rates
    }

    /// The rates as they are.
    pub fn get(&self) -> &[Rate] {
        &self.rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(entries: &[(&str, &[usize])]) -> std::sync::Arc<Layout> {
        let mut builder = Layout::builder();
        for (name, shape) in entries {
            builder.add(*name, shape);
        }
        builder.finish()
    }

    #[test]
    fn a_students_groups() {
        let layout = layout(&[
            ("encoder.cls_token", &[1, 1, 4]),
            ("encoder.patch_embed.proj.weight", &[4, 3, 2, 2]),
            ("encoder.rel_pos_bias.relative_position_bias_table", &[12, 2]),
            ("encoder.blocks.0.attn.k_bias", &[4]),
            ("encoder.blocks.10.attn.qkv.weight", &[12, 4]),
            ("encoder.blocks.1.gamma_1", &[4]),
            ("decoder.0.weight", &[2, 4, 1]),
            ("decoder.0.bias", &[2]),
        ]);
        let found: Vec<_> = groups(&layout, 0.5).iter().map(|g| (g.layer, g.decays)).collect();
        assert_eq!(found, [(0, false), (0, true), (12, true), (1, false), (11, true), (2, false), (12, true), (12, false)]);
        assert_eq!(groups(&layout, 0.5)[5].lr_scale, 0.5f64.powi(10));

        let schedule = Cosine { base_lr: 1.0, warmup_lr: 0.0, min_lr: 0.0, steps: 10, warmup_steps: 1 };
        let mut rates = Rates::new(&layout, 0.05, 0.5, schedule);
        let names: Vec<_> = rates.get().iter().map(|r| layout.name(r.param)).collect();
        assert!(names.len() == 7 && !names.contains(&"encoder.blocks.0.attn.k_bias"));
        let rate = rates.update(2)[3];
        assert_eq!((layout.name(rate.param), rate.lr, rate.weight_decay), ("encoder.blocks.10.attn.qkv.weight", 0.5, 0.05));
        assert_eq!(Rates::with_key_bias(&layout, 0.05, 0.5, schedule).get().len(), 8);
    }

    #[test]
    fn a_swins_groups() {
        let layout = layout(&[
            ("layers.0.blocks.1.attn.qkv.weight", &[12, 4]),
            ("layers.0.downsample.reduction.weight", &[8, 16]),
            ("layers.1.blocks.0.attn.relative_position_bias_table", &[9, 2]),
            ("layers.1.blocks.0.attn.rpe_mlp.0.weight", &[16, 2]),
            ("layers.1.blocks.0.attn.logit_scale", &[2, 1, 1]),
            ("head.weight", &[5, 4]),
        ]);
        let found: Vec<_> = groups(&layout, 0.5).iter().map(|g| (g.layer, g.decays)).collect();
        assert_eq!(found, [(2, true), (2, true), (3, false), (3, false), (3, false), (4, true)]);
    }
}
