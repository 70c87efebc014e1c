//! DINO's head (three linear layers with GELU, unit length, then weight-normalised prototypes) on the CLS token of a backbone.

use std::sync::Arc;

use fd_compute::{
    Act, Activation, Arena, Bias, Cx, DType, Device, Grads, Layout, LayoutBuilder, Param, Params, Plan, Planner, Pooling, StepKey,
};
use fd_model::{Model, ModelConfig, Taps};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Prefix of the head's parameters.
pub const HEAD: &str = "head.";

/// Largest size of the head.
const MOST: usize = 1 << 20;

/// Sizes of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Width of the two hidden layers.
    #[schemars(range(min = 2, max = MOST))]
    pub hidden: usize,
    /// Width of the unit-length vector that meets the prototypes.
    #[schemars(range(min = 2, max = MOST))]
    pub bottleneck: usize,
    /// Prototypes K.
    #[schemars(range(min = 2, max = MOST))]
    pub prototypes: usize,
}

impl Head {
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = [("hidden", self.hidden), ("bottleneck", self.bottleneck), ("prototypes", self.prototypes)];
        match sizes.iter().find(|(_, n)| !(2..=MOST).contains(n)) {
            Some((key, n)) => Err(format!("{key} {n} is not from 2 to {MOST}")),
            None => Ok(()),
        }
    }
}

/// Backbone and head as declared parameters.
pub(super) struct Declared {
    vit: Model,
    mlp: [(Param, Param); 3],
    /// [K, bottleneck]; used at unit length row by row (a weight normalisation whose lengths are fixed at 1, as DINO's).
    pub prototypes: Param,
}

/// Names are the official ones: `head.mlp.{0,2,4}`, `head.last_layer.weight_v`.
pub(super) fn declare(head: &Head, model: &ModelConfig, layout: &mut LayoutBuilder) -> Result<Declared, Error> {
    let vit = Model::declare(model, layout, "")?;
    let widths = [(0, model.width(), head.hidden), (2, head.hidden, head.hidden), (4, head.hidden, head.bottleneck)];
    let mlp = widths.map(|(i, from, to)| {
        let weight = layout.add(format!("{HEAD}mlp.{i}.weight"), &[to, from]);
        (weight, layout.add(format!("{HEAD}mlp.{i}.bias"), &[to]))
    });
    let prototypes = layout.add(format!("{HEAD}last_layer.weight_v"), &[head.prototypes, head.bottleneck]);
    Ok(Declared { vit, mlp, prototypes })
}

impl Declared {
    /// Images [rows, C, H, W] to unit-length vectors [rows, bottleneck].
    pub fn network(&self, layout: &Arc<Layout>, extents: [usize; 3], trained: bool) -> Result<Network, Error> {
        let (plan, images, out) = self.plan(layout, extents, trained)?;
        Ok(Network { arena: Arena::new(&plan, DType::F32), plan, images, out })
    }

    /// The plan alone, its input and its output.
    pub fn plan(&self, layout: &Arc<Layout>, [rows, height, width]: [usize; 3], trained: bool) -> Result<(Plan, Act, Act), Error> {
        let mut p = Planner::new();
        if trained {
            p.train(layout);
        } else {
            p.bind(layout);
        }
        let config = self.vit.config();
        let images = p.input([rows, config.in_chans(), height, width]);
        let tokens = self.vit.plan(&mut p, images, Taps::default())?.map();
        // DINO reads the CLS token; a backbone without one, the mean of its patches.
        let mut x = p.pool(tokens, if config.cls_token() { Pooling::Token(0) } else { Pooling::Mean { skip: 0 } })?;
        for (i, (weight, bias)) in self.mlp.into_iter().enumerate() {
            x = if i > 0 { p.activation(x, Activation::Gelu) } else { x };
            x = p.linear(x, weight, Bias::Full(bias))?;
        }
        let out = p.l2_normalise(x);
        if trained {
            p.leaf(out);
        } else {
            p.keep(out);
        }
        Ok((p.finish()?, images, out))
    }
}

/// A plan and its memory.
pub(super) struct Network {
    plan: Plan,
    arena: Arena,
    images: Act,
    out: Act,
}

impl Network {
    /// The unit-length vectors [rows, bottleneck] of images.
    pub fn forward(&mut self, images: &[f32], params: &Params, key: StepKey, train: bool, device: &Device) -> Result<&[f32], Error> {
        self.arena.write::<f32>(self.images, images);
        let sets = [params];
        let mut cx = Cx { train, ..Cx::new(device, &sets, &mut self.arena, key) };
        self.plan.forward(&mut cx)?;
        Ok(self.arena.value::<f32>(self.out))
    }

    /// Takes its rows off the front of the outputs' gradient and returns the rest.
    pub fn backward<'a>(
        &mut self,
        dx: &'a [f32],
        params: &Params,
        key: StepKey,
        device: &Device,
        grads: &mut Grads,
    ) -> Result<&'a [f32], Error> {
        let (mine, rest) = dx.split_at(self.plan.shape(self.out).len());
        self.arena.grad_mut::<f32>(self.out).copy_from_slice(mine);
        let sets = [params];
        self.plan.backward(&mut Cx::new(device, &sets, &mut self.arena, key), grads)?;
        Ok(rest)
    }
}
