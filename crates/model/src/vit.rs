//! The plain vision transformer on the planner: parameters under their official names, and the forward pass. Every option of
//! [`VitConfig`] is here once; [`reference`](crate::reference) says the same in dfdx. CLIP's visual encoder, DINOv2's and MAE's are
//! configurations of it.

use std::sync::Arc;

use fd_compute::{Act, Bias, DropPath, LayoutBuilder, Param, Planner, Pooling, Span, Sparse};

use crate::block::{Block, BlockSpec, Declare, Pair};
use crate::features::{Features, Taps};
use crate::positions::{bicubic_scaled, relative_index, sin_cos};
use crate::{Head, ModelError, Position, VitConfig};

/// A vision transformer's parameters, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub struct Vit {
    config: VitConfig,
    first_site: u32,
    recompute: bool,
    patch_embed: (Param, Bias),
    cls_token: Option<Param>,
    reg_token: Option<Param>,
    pos_embed: Option<Param>,
    norm_pre: Option<Pair>,
    shared_table: Option<Param>,
    blocks: Vec<Block>,
    norm: Option<Pair>,
    fc_norm: Option<Pair>,
    proj: Option<Param>,
    head: Option<Pair>,
}

impl Vit {
    /// Adds the model's parameters to a layout, names prefixed with `prefix` (such as `encoder.`).
    pub fn declare(config: &VitConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Vit, ModelError> {
        config.check()?;
        let c = config.embed_dim;
        let (grid_h, grid_w) = config.grid();
        let rows = (2 * grid_h - 1) * (2 * grid_w - 1) + if config.cls_token { 3 } else { 0 };
        let mut d = Declare { layout, prefix: prefix.into() };
        let cls_token = config.cls_token.then(|| d.add("cls_token", &[1, 1, c]));
        let reg_token = (config.reg_tokens > 0).then(|| d.add("reg_token", &[1, config.reg_tokens, c]));
        let pos_embed = config.position.absolute().then(|| d.add("pos_embed", &[1, config.tokens(), c]));
        let kernel = [c, config.in_chans, config.patch_size, config.patch_size];
        let weight = d.add("patch_embed.proj.weight", &kernel);
        let bias = if config.patch_bias { Bias::Full(d.add("patch_embed.proj.bias", &[c])) } else { Bias::None };
        let norm_pre = config.pre_norm.then(|| d.pair("norm_pre", &[c]));
        let shared = config.position.shared();
        let shared_table = shared.then(|| d.add("rel_pos_bias.relative_position_bias_table", &[rows, config.num_heads]));
        let spec = BlockSpec {
            dim: c,
            heads: config.num_heads,
            hidden: config.hidden_dim(),
            qkv_bias: config.qkv_bias,
            layer_scale: config.layer_scale.is_some(),
            table_rows: config.position.relative().then_some(rows),
            activation: config.activation,
            ln_eps: config.ln_eps,
        };
        let blocks = (0..config.depth).map(|i| Block::declare(&spec, &mut d.below(&format!("blocks.{i}.")))).collect();
        let norm = (config.head != Head::MeanPool).then(|| d.pair("norm", &[c]));
        let fc_norm = (config.head == Head::MeanPool).then(|| d.pair("fc_norm", &[c]));
        let proj = config.proj_dim.map(|dim| d.add("proj.weight", &[dim, c]));
        let head = (config.num_classes > 0).then(|| d.pair("head", &[config.num_classes, c]));
        Ok(Vit {
            config: config.clone(),
            first_site: 0,
            recompute: false,
            patch_embed: (weight, bias),
            cls_token,
            reg_token,
            pos_embed,
            norm_pre,
            shared_table,
            blocks,
            norm,
            fc_norm,
            proj,
            head,
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Numbers the drop paths from `site` on: two models in one plan need numbers of their own, or they drop the same samples.
    pub fn with_first_site(mut self, site: u32) -> Vit {
        self.first_site = site;
        self
    }

    /// Of every block, keep only what it reads, and compute the rest again in the backward pass (activation checkpointing).
    pub fn with_recompute(mut self, recompute: bool) -> Vit {
        self.recompute = recompute;
        self
    }

    /// Describes the forward pass of `images` [B, in_chans, H, W]. The grid may differ from the configuration's where positions are
    /// absolute (they are then interpolated, differentiably) or absent.
    pub fn plan(&self, p: &mut Planner, images: Act, taps: Taps) -> Result<Features, ModelError> {
        self.plan_of(p, images, None, taps)
    }

    /// The same for some of the tokens: `visible` [B, K] names them, counting the CLS token (MAE's encoder).
    ///
    /// # Errors
    /// Relative positions, and registers: tokens are told apart by their place then.
    pub fn plan_visible(&self, p: &mut Planner, images: Act, visible: Act, taps: Taps) -> Result<Features, ModelError> {
        let position = self.config.position;
        if position.relative() || position.shared() {
            let why = format!("{position:?} cannot serve an encoder that sees some of the patches: use absolute, sin-cos or none");
            return Err(ModelError::Config { key: "position", why });
        }
        if self.reg_token.is_some() {
            return Err(ModelError::Config { key: "reg_tokens", why: "an encoder that sees some of the patches has none".into() });
        }
        self.plan_of(p, images, Some(visible), taps)
    }

    fn plan_of(&self, p: &mut Planner, images: Act, visible: Option<Act>, taps: Taps) -> Result<Features, ModelError> {
        let config = &self.config;
        let grid = grid_of(p, images, config.in_chans, config.patch_size)?;
        let patches = p.patchify(images, config.patch_size)?;
        let patch_embed = p.linear(patches, self.patch_embed.0, self.patch_embed.1)?;
        let cls = self.cls_token.map(|w| p.weight(w)).transpose()?;
        let registers = self.reg_token.map(|w| p.weight(w)).transpose()?;
        let pos = self.positions(p, grid)?;
        let mut x = p.tokens(patch_embed, cls, registers, pos)?;
        if let Some(visible) = visible {
            x = p.gather(x, visible)?;
        }
        if self.norm_pre.is_some() {
            x = p.layer_norm(x, self.norm_pre, config.ln_eps)?;
        }
        let mut features = Features::new(grid, config.cls_token, patch_embed, x);
        if let Some(table) = self.shared_table {
            features.rel_pos_bias.push(self.bias(p, table, grid)?);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let bias = match block.table {
                Some(table) => Some(self.bias(p, table, grid)?),
                None => features.rel_pos_bias.first().copied(),
            };
            let drop = DropPath { rate: config.drop_path(i), site: self.first_site + 2 * i as u32 };
            let drop = Some(drop).filter(|d| d.rate > 0.0);
            let describe = |p: &mut Planner| block.plan(p, x, bias, &Span::Whole, drop, taps.attention);
            let (out, attention) = if self.recompute { p.recompute(describe)? } else { describe(p)? };
            x = out;
            features.blocks.push(x);
            features.attention.extend(attention);
        }
        features.prenorm = x;
        self.finish(p, &mut features)?;
        features.keep(p, taps);
        Ok(features)
    }

    fn finish(&self, p: &mut Planner, f: &mut Features) -> Result<(), ModelError> {
        let (eps, cls) = (self.config.ln_eps, usize::from(self.config.cls_token));
        if self.norm.is_some() {
            let tokens = p.layer_norm(f.prenorm, self.norm, eps)?;
            f.tokens = Some(if self.config.reg_tokens == 0 { tokens } else { self.without_registers(p, tokens)? });
        }
        if let Some(proj) = self.proj {
            let token = p.pool(f.map(), Pooling::Token(0))?;
            f.projected = Some(p.linear(token, proj, Bias::None)?);
        }
        f.pooled = match self.config.head {
            Head::Features => None,
            Head::Cls => Some(p.pool(f.map(), Pooling::Token(0))?),
            Head::MeanPool => {
                let mean = p.pool(f.prenorm, Pooling::Mean { skip: cls + self.config.reg_tokens })?;
                Some(p.layer_norm(mean, self.fc_norm, eps)?)
            }
        };
        if let (Some(pooled), Some((w, b))) = (f.pooled, self.head) {
            f.logits = Some(p.linear(pooled, w, Bias::Full(b))?);
        }
        Ok(())
    }

    fn without_registers(&self, p: &mut Planner, tokens: Act) -> Result<Act, ModelError> {
        let (cls, n) = (u32::from(self.config.cls_token), p.shape(tokens).dims()[1] as u32);
        let kept = (0..cls).chain(cls + self.config.reg_tokens as u32..n);
        Ok(p.sparse(tokens, Arc::new(Sparse::new(n as usize, kept.map(|i| vec![(i, 1.0)]).collect())))?)
    }

    fn positions(&self, p: &mut Planner, grid: (usize, usize)) -> Result<Option<Act>, ModelError> {
        let (cls, c) = (usize::from(self.config.cls_token), self.config.embed_dim);
        if self.config.position == Position::SinCos {
            let table: Vec<f64> = std::iter::repeat_n(0.0, cls * c).chain(sin_cos(grid, c)).collect();
            return Ok(Some(p.constant([cls + grid.0 * grid.1, c], table.into())?));
        }
        let Some(table) = self.pos_embed else { return Ok(None) };
        let pos = p.weight(table)?;
        if grid == self.config.grid() {
            return Ok(Some(pos));
        }
        let matrix = bicubic_scaled(self.config.grid(), grid, cls, self.config.interpolate_offset);
        Ok(Some(p.sparse(pos, Arc::new(matrix))?))
    }

    fn bias(&self, p: &mut Planner, table: Param, grid: (usize, usize)) -> Result<Act, ModelError> {
        if grid != self.config.grid() {
            let why = format!("a relative bias table for a grid of {:?} does not serve one of {grid:?}", self.config.grid());
            return Err(ModelError::Config { key: "img_size", why });
        }
        let table = p.weight(table)?;
        Ok(p.relative_bias(table, relative_index(grid, self.config.cls_token).into(), self.config.tokens())?)
    }
}

/// Patches down and across of an image batch [B, channels, H, W].
pub(crate) fn grid_of(p: &Planner, images: Act, in_chans: usize, patch_size: usize) -> Result<(usize, usize), ModelError> {
    let shape = p.shape(images);
    let &[_, channels, height, width] = shape.dims() else {
        return Err(ModelError::Config { key: "images", why: format!("shape {shape}, expected B x C x H x W") });
    };
    if channels != in_chans {
        return Err(ModelError::Config { key: "in_chans", why: format!("images have {channels} channels, the model {in_chans}") });
    }
    Ok((height / patch_size, width / patch_size))
}
