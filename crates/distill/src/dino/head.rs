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

/// Three linear layers.
type Mlp = [(Param, Param); 3];

/// Backbone and head as declared parameters.
pub(super) struct Declared {
    vit: Model,
    mlp: Mlp,
    /// [K, bottleneck]; used at unit length row by row (a weight normalisation whose lengths are fixed at 1, as DINO's).
    pub prototypes: Param,
    /// The same for regions.
    regions: Option<(Mlp, Param)>,
}

/// Names are the official ones: `head.mlp.{0,2,4}`, `head.last_layer.weight_v`; a head for regions stands under `head.region.`.
pub(super) fn declare(head: &Head, regions: bool, model: &ModelConfig, layout: &mut LayoutBuilder) -> Result<Declared, Error> {
    let vit = Model::declare(model, layout, "")?;
    let widths = [(0, model.width(), head.hidden), (2, head.hidden, head.hidden), (4, head.hidden, head.bottleneck)];
    let mut add = |prefix: &str| {
        let mlp = widths.map(|(i, from, to)| {
            let weight = layout.add(format!("{prefix}mlp.{i}.weight"), &[to, from]);
            (weight, layout.add(format!("{prefix}mlp.{i}.bias"), &[to]))
        });
        (mlp, layout.add(format!("{prefix}last_layer.weight_v"), &[head.prototypes, head.bottleneck]))
    };
    let (mlp, prototypes) = add(HEAD);
    let regions = regions.then(|| add(&format!("{HEAD}region.")));
    Ok(Declared { vit, mlp, prototypes, regions })
}

/// Handles to a plan's ends.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    images: Act,
    /// Unit-length vectors of the images [rows, bottleneck].
    out: Act,
    /// The backbone's regions [rows, n, C] and their unit-length vectors [rows, n, bottleneck].
    regions: Option<(Act, Act)>,
}

impl Declared {
    /// Images [rows, C, H, W] to unit-length vectors [rows, bottleneck].
    pub fn network(&self, layout: &Arc<Layout>, extents: [usize; 3], trained: bool) -> Result<Network, Error> {
        let (plan, ends) = self.plan(layout, extents, trained)?;
        Ok(Network { arena: Arena::new(&plan, DType::F32), plan, ends })
    }

    /// Prototypes of the regions.
    pub fn region_prototypes(&self) -> Option<Param> {
        self.regions.as_ref().map(|(_, prototypes)| *prototypes)
    }

    /// The plan alone, and its ends.
    pub fn plan(&self, layout: &Arc<Layout>, [rows, height, width]: [usize; 3], trained: bool) -> Result<(Plan, Ends), Error> {
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
        let x = p.pool(tokens, if config.cls_token() { Pooling::Token(0) } else { Pooling::Mean { skip: 0 } })?;
        let out = unit(&mut p, &self.mlp, x, trained)?;
        let regions = match &self.regions {
            None => None,
            Some((mlp, _)) => {
                let patches = if config.cls_token() { p.pool(tokens, Pooling::After { skip: 1 })? } else { tokens };
                p.keep(patches);
                Some((patches, unit(&mut p, mlp, patches, trained)?))
            }
        };
        Ok((p.finish()?, Ends { images, out, regions }))
    }
}

/// An MLP's output at unit length: a leaf where it is trained.
fn unit(p: &mut Planner, mlp: &Mlp, mut x: Act, trained: bool) -> Result<Act, Error> {
    for (i, (weight, bias)) in mlp.iter().enumerate() {
        x = if i > 0 { p.activation(x, Activation::Gelu) } else { x };
        x = p.linear(x, *weight, Bias::Full(*bias))?;
    }
    let out = p.l2_normalise(x);
    if trained {
        p.leaf(out);
    } else {
        p.keep(out);
    }
    Ok(out)
}

/// Gradients of the outputs of several networks, one behind the other: of images, of regions.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a> {
    pub images: &'a [f32],
    pub regions: &'a [f32],
}

/// A plan and its memory.
pub(super) struct Network {
    plan: Plan,
    arena: Arena,
    ends: Ends,
}

impl Network {
    /// The unit-length vectors [rows, bottleneck] of images.
    pub fn forward(&mut self, images: &[f32], params: &Params, key: StepKey, train: bool, device: &Device) -> Result<&[f32], Error> {
        self.arena.write::<f32>(self.ends.images, images);
        let sets = [params];
        let mut cx = Cx { train, ..Cx::new(device, &sets, &mut self.arena, key) };
        self.plan.forward(&mut cx)?;
        Ok(self.arena.value::<f32>(self.ends.out))
    }

    /// Of the images that were passed last: the backbone's regions, their unit-length vectors, and how many an image has.
    pub fn regions(&self) -> Option<(&[f32], &[f32], usize)> {
        let (patches, vectors) = self.ends.regions?;
        let n = self.plan.shape(patches).dims()[1];
        Some((self.arena.value::<f32>(patches), self.arena.value::<f32>(vectors), n))
    }

    /// Takes its rows off the front of the outputs' gradients and returns the rest.
    pub fn backward<'a>(
        &mut self,
        d: Pieces<'a>,
        params: &Params,
        key: StepKey,
        device: &Device,
        grads: &mut Grads,
    ) -> Result<Pieces<'a>, Error> {
        let (mine, images) = d.images.split_at(self.plan.shape(self.ends.out).len());
        self.arena.grad_mut::<f32>(self.ends.out).copy_from_slice(mine);
        let mut regions = d.regions;
        if let Some((_, vectors)) = self.ends.regions {
            let (mine, rest) = regions.split_at(self.plan.shape(vectors).len());
            self.arena.grad_mut::<f32>(vectors).copy_from_slice(mine);
            regions = rest;
        }
        let sets = [params];
        self.plan.backward(&mut Cx::new(device, &sets, &mut self.arena, key), grads)?;
        Ok(Pieces { images, regions })
    }
}
