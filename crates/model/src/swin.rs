//! Swin transformers of both versions on the planner, parameters under their official names.
//!
//! Version 1 (Liu et al. 2021; EsViT's): x + Attention(LN x), x + Mlp(LN x); merging is LN(4C), then linear. Version 2 (Liu et al. 2022;
//! the paper's student of EsViT): x + LN(Attention x), x + LN(Mlp x); merging is linear, then LN(2C); cosine attention; the position
//! bias is an MLP of log-spaced coordinates. Every second block's windows are shifted by half their side. Windows as large as the map
//! are the map, unshifted.

mod config;
mod position;

use std::sync::Arc;

use fd_compute::{Act, Bias, DropPath, LayoutBuilder, Param, Planner, Pooling, Scores, Span};

pub use config::{BiasOutput, Coordinates, SwinAttention, SwinConfig, SwinPosition, SwinVersion};
use position::PositionBias;
pub use position::relative_coordinates;

use crate::block::{Declare, Pair};
use crate::features::{Features, Taps};
use crate::positions::bicubic;
use crate::vit::grid_of;
use crate::{Activation, Head, ModelError};

/// A Swin transformer's parameters, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub struct Swin {
    config: SwinConfig,
    first_site: u32,
    recompute: bool,
    patch_embed: Pair,
    patch_norm: Option<Pair>,
    absolute_pos_embed: Option<Param>,
    stages: Vec<Stage>,
    norm: Pair,
    head: Option<Pair>,
}

#[derive(Clone, Debug)]
struct Stage {
    /// One bias for all blocks.
    shared: Option<PositionBias>,
    blocks: Vec<Block>,
    downsample: Option<(Param, Pair)>,
}

#[derive(Clone, Debug)]
struct Block {
    norm1: Pair,
    qkv: Param,
    qkv_bias: Bias,
    logit_scale: Option<Param>,
    position: Option<PositionBias>,
    proj: Pair,
    norm2: Pair,
    fc1: Pair,
    mlp_norm: Option<Pair>,
    fc2: Pair,
    /// A norm over the main branch behind the block (SwinV2-G).
    end_norm: Option<Pair>,
}

impl Swin {
    /// Adds the model's parameters to a layout, names prefixed with `prefix` (such as `encoder.`).
    pub fn declare(config: &SwinConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Swin, ModelError> {
        config.check()?;
        let c = config.embed_dim;
        let mut d = Declare { layout, prefix: prefix.into() };
        let patch_embed = d.pair("patch_embed.proj", &[c, config.in_chans, config.patch_size, config.patch_size]);
        let patch_norm = config.patch_norm.then(|| d.pair("patch_embed.norm", &[c]));
        let (h, w) = config.patches();
        let absolute_pos_embed = config.absolute_position.then(|| d.add("absolute_pos_embed", &[1, h * w, c]));
        let stages = (0..config.depths.len()).map(|s| Stage::declare(config, s, &mut d.below(&format!("layers.{s}.")))).collect();
        let norm = d.pair("norm", &[config.width_of(config.depths.len() - 1)]);
        let head = (config.num_classes > 0).then(|| d.pair("head", &[config.num_classes, config.width_of(config.depths.len() - 1)]));
        let config = config.clone();
        Ok(Swin { config, first_site: 0, recompute: false, patch_embed, patch_norm, absolute_pos_embed, stages, norm, head })
    }

    /// The description it was made from.
    pub fn config(&self) -> &SwinConfig {
        &self.config
    }

    /// Numbers the drop paths from `site` on: two models in one plan need numbers of their own, or they drop the same samples.
    pub fn with_first_site(mut self, site: u32) -> Swin {
        self.first_site = site;
        self
    }

    /// Of every block, keep only what it reads, and compute the rest again in the backward pass (activation checkpointing).
    pub fn with_recompute(mut self, recompute: bool) -> Swin {
        self.recompute = recompute;
        self
    }

    /// Describes the forward pass of `images` [B, in_chans, H, W] up to the stage that is handed out. The image may be of another size
    /// than the configuration's where the windows fit its maps; smaller maps have smaller windows, which read the middle of the tables.
    pub fn plan(&self, p: &mut Planner, images: Act, taps: Taps) -> Result<Features, ModelError> {
        let config = &self.config;
        let mut grid = grid_of(p, images, config.in_chans, config.patch_size)?;
        let patches = p.patchify(images, config.patch_size)?;
        let mut x = p.linear(patches, self.patch_embed.0, Bias::Full(self.patch_embed.1))?;
        if self.patch_norm.is_some() {
            x = p.layer_norm(x, self.patch_norm, config.ln_eps)?;
        }
        let patch_embed = x;
        if let Some(pos) = self.absolute_pos_embed {
            let mut pos = p.weight(pos)?;
            if grid != config.patches() {
                pos = p.sparse(pos, Arc::new(bicubic(config.patches(), grid, 0)))?;
            }
            x = p.tokens(x, None, None, Some(pos))?;
        }
        let mut features = Features::new(grid, false, patch_embed, x);
        let last = config.out_stage() - 1;
        for (s, stage) in self.stages[..=last].iter().enumerate() {
            features.grid = grid;
            x = self.plan_stage(p, stage, (s, grid), x, taps, &mut features)?;
            if let (Some((reduction, norm)), true) = (stage.downsample, s < last) {
                if grid.0 % 2 != 0 || grid.1 % 2 != 0 {
                    let why = format!("a map of {} x {} tokens cannot be halved after stage {}", grid.0, grid.1, s + 1);
                    return Err(ModelError::Config { key: "img_size", why });
                }
                x = p.patch_merge(x, grid)?;
                if config.version == SwinVersion::V1 {
                    x = p.layer_norm(x, Some(norm), config.ln_eps)?;
                }
                x = p.linear(x, reduction, Bias::None)?;
                if config.version == SwinVersion::V2 {
                    x = p.layer_norm(x, Some(norm), config.ln_eps)?;
                }
                grid = (grid.0 / 2, grid.1 / 2);
                features.downsample.push(x);
            }
        }
        features.prenorm = x;
        // A stage before the last has no norm of its own.
        if last + 1 == self.stages.len() {
            features.tokens = Some(p.layer_norm(x, Some(self.norm), config.ln_eps)?);
        }
        if config.head == Head::MeanPool {
            let pooled = p.pool(features.map(), Pooling::Mean { skip: 0 })?;
            features.pooled = Some(pooled);
            features.logits = self.head.map(|(w, b)| p.linear(pooled, w, Bias::Full(b))).transpose()?;
        }
        features.keep(p, taps);
        Ok(features)
    }

    fn plan_stage(
        &self,
        p: &mut Planner,
        stage: &Stage,
        (s, map): (usize, (usize, usize)),
        mut x: Act,
        taps: Taps,
        features: &mut Features,
    ) -> Result<Act, ModelError> {
        let config = &self.config;
        let side = config.window_of(map);
        let table_side = config.window_of(config.map_of(s));
        if side > table_side {
            let why = format!("a position bias for windows of {table_side} does not serve windows of {side}");
            return Err(ModelError::Config { key: "window_size", why });
        }
        let spans = config.windows(s, map)?.map(|windows| Span::Windows(Arc::new(windows)));
        let shared = stage.shared.as_ref().map(|b| b.plan(p, side)).transpose()?;
        features.rel_pos_bias.extend(shared);
        let before: usize = config.depths[..s].iter().sum();
        for (i, block) in stage.blocks.iter().enumerate() {
            let bias = match &block.position {
                Some(own) => Some(own.plan(p, side)?),
                None => shared,
            };
            let drop = DropPath { rate: config.drop_path(before + i), site: self.first_site + 2 * (before + i) as u32 };
            let drop = Some(drop).filter(|d| d.rate > 0.0);
            let span = &spans[i % 2];
            let heads = config.num_heads[s];
            let describe = |p: &mut Planner| block.plan(config, p, x, (heads, bias, span), drop, taps.attention);
            let (out, attention) = if self.recompute { p.recompute(describe)? } else { describe(p)? };
            x = out;
            features.blocks.push(x);
            features.attention.extend(attention);
        }
        Ok(x)
    }
}

impl Stage {
    fn declare(config: &SwinConfig, s: usize, d: &mut Declare) -> Stage {
        let (c, depth) = (config.width_of(s), config.depths[s]);
        let shared = config.shared_position.then(|| PositionBias::declare(config, s, &mut d.below("rel_pos_bias.")));
        let blocks = (0..depth).map(|i| Block::declare(config, s, i, &mut d.below(&format!("blocks.{i}.")))).collect();
        let downsample = (s + 1 < config.depths.len()).then(|| {
            let norm = if config.version == SwinVersion::V1 { 4 * c } else { 2 * c };
            (d.add("downsample.reduction.weight", &[2 * c, 4 * c]), d.pair("downsample.norm", &[norm]))
        });
        Stage { shared, blocks, downsample }
    }
}

impl Block {
    fn declare(config: &SwinConfig, s: usize, i: usize, d: &mut Declare) -> Block {
        let (c, heads) = (config.width_of(s), config.num_heads[s]);
        let hidden = (c as f64 * config.mlp_ratio) as usize;
        let norm1 = d.pair("norm1", &[c]);
        let qkv_bias = d.qkv_bias(config.qkv_bias, c);
        let logit_scale = (config.attention == SwinAttention::Cosine).then(|| d.add("attn.logit_scale", &[heads, 1, 1]));
        let position = (!config.shared_position).then(|| PositionBias::declare(config, s, &mut d.below("attn.")));
        let qkv = d.add("attn.qkv.weight", &[3 * c, c]);
        let proj = d.pair("attn.proj", &[c, c]);
        let norm2 = d.pair("norm2", &[c]);
        let fc1 = d.pair("mlp.fc1", &[hidden, c]);
        let mlp_norm = config.mlp_norm_stages.contains(&(s + 1)).then(|| d.pair("mlp.norm", &[hidden]));
        let fc2 = d.pair("mlp.fc2", &[c, hidden]);
        let ends = config.end_norm_interval > 0 && (i + 1).is_multiple_of(config.end_norm_interval);
        let end_norm = ends.then(|| d.pair("enorm", &[c]));
        Block { norm1, qkv, qkv_bias, logit_scale, position, proj, norm2, fc1, mlp_norm, fc2, end_norm }
    }

    fn plan(
        &self,
        config: &SwinConfig,
        p: &mut Planner,
        x: Act,
        (heads, bias, span): (usize, Option<Act>, &Span),
        drop: Option<DropPath>,
        tap: bool,
    ) -> Result<(Act, Option<Act>), ModelError> {
        let pre = config.version == SwinVersion::V1;
        let eps = config.ln_eps;
        let head_dim = p.shape(x).cols() / heads;
        let scores = self.logit_scale.map_or(Scores::Scaled((head_dim as f64).powf(-0.5)), Scores::Cosine);
        let h = if pre { p.layer_norm(x, Some(self.norm1), eps)? } else { x };
        let qkv = p.linear(h, self.qkv, self.qkv_bias)?;
        let map = tap.then(|| p.attention_map(qkv, bias, heads, scores, span.clone())).transpose()?;
        let h = p.attention(qkv, bias, heads, scores, span.clone())?;
        let h = p.linear(h, self.proj.0, Bias::Full(self.proj.1))?;
        let h = if pre { h } else { p.layer_norm(h, Some(self.norm1), eps)? };
        let x = p.residual(x, h, None, drop)?;
        let h = if pre { p.layer_norm(x, Some(self.norm2), eps)? } else { x };
        let h = p.linear(h, self.fc1.0, Bias::Full(self.fc1.1))?;
        let h = if self.mlp_norm.is_some() { p.layer_norm(h, self.mlp_norm, eps)? } else { h };
        let h = p.activation(h, Activation::Gelu.of_compute());
        let h = p.linear(h, self.fc2.0, Bias::Full(self.fc2.1))?;
        let h = if pre { h } else { p.layer_norm(h, Some(self.norm2), eps)? };
        let x = p.residual(x, h, None, drop.map(|d| DropPath { site: d.site + 1, ..d }))?;
        let x = if self.end_norm.is_some() { p.layer_norm(x, self.end_norm, eps)? } else { x };
        Ok((x, map))
    }
}
