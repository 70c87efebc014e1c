//! The plain vision transformer on the planner: parameters under their official names, and the forward pass. Every option of
//! [`VitConfig`] is here once; [`reference`](crate::reference) says the same in dfdx.

use std::sync::Arc;

use fd_compute::{Act, Bias, DropPath, GeluKind, LayoutBuilder, Param, Planner, Pooling};

use crate::positions::{bicubic, relative_index};
use crate::{Activation, Head, ModelError, QkvBias, VitConfig};

/// One block's parameters.
#[derive(Clone, Debug)]
struct Block {
    norm1: (Param, Param),
    qkv: Param,
    qkv_bias: Bias,
    table: Option<Param>,
    proj: (Param, Param),
    gamma: Option<(Param, Param)>,
    norm2: (Param, Param),
    fc1: (Param, Param),
    fc2: (Param, Param),
}

/// A vision transformer's parameters, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub struct Vit {
    config: VitConfig,
    first_site: u32,
    patch_embed: (Param, Param),
    cls_token: Option<Param>,
    pos_embed: Option<Param>,
    shared_table: Option<Param>,
    blocks: Vec<Block>,
    norm: Option<(Param, Param)>,
    fc_norm: Option<(Param, Param)>,
    head: Option<(Param, Param)>,
}

/// What to keep of a forward pass beside its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Every block's output and the values before and after the final norm.
    pub blocks: bool,
    /// Every block's attention probabilities [B, H, N, N].
    pub attention: bool,
}

/// Handles to what a forward pass computes. Without [`Taps`] only the result may be read.
#[derive(Clone, Debug)]
pub struct Features {
    /// Patch embeddings [B, n, C], before CLS token and positions.
    pub patch_embed: Act,
    /// The shared relative position bias [H, N, N].
    pub rel_pos_bias: Option<Act>,
    /// Output of each block [B, N, C].
    pub blocks: Vec<Act>,
    /// Attention probabilities of each block [B, H, N, N], if tapped.
    pub attention: Vec<Act>,
    /// Tokens [B, N, C] before the final norm.
    pub prenorm: Act,
    /// Tokens after `norm` (all but mean-pool heads).
    pub tokens: Option<Act>,
    /// What the classifier reads [B, C].
    pub pooled: Option<Act>,
    /// Logits [B, classes].
    pub logits: Option<Act>,
}

impl Features {
    /// What the encoder hands out: tokens after `norm`, or before it where there is none.
    pub fn map(&self) -> Act {
        self.tokens.unwrap_or(self.prenorm)
    }
}

impl Vit {
    /// Adds the model's parameters to a layout, names prefixed with `prefix` (such as `encoder.`).
    pub fn declare(config: &VitConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Vit, ModelError> {
        config.check()?;
        let c = config.embed_dim;
        let (grid_h, grid_w) = config.grid();
        let rows = (2 * grid_h - 1) * (2 * grid_w - 1) + if config.cls_token { 3 } else { 0 };
        let mut add = |name: &str, shape: &[usize]| layout.add(format!("{prefix}{name}"), shape);
        let cls_token = config.cls_token.then(|| add("cls_token", &[1, 1, c]));
        let pos_embed = config.position.absolute().then(|| add("pos_embed", &[1, config.tokens(), c]));
        let kernel = [c, config.in_chans, config.patch_size, config.patch_size];
        let patch_embed = (add("patch_embed.proj.weight", &kernel), add("patch_embed.proj.bias", &[c]));
        let shared = config.position.shared();
        let shared_table = shared.then(|| add("rel_pos_bias.relative_position_bias_table", &[rows, config.num_heads]));
        let blocks = (0..config.depth).map(|i| Block::declare(config, i, rows, &mut add)).collect();
        let mut pair = |name: &str, shape: &[usize]| (add(&format!("{name}.weight"), shape), add(&format!("{name}.bias"), &shape[..1]));
        let norm = (config.head != Head::MeanPool).then(|| pair("norm", &[c]));
        let fc_norm = (config.head == Head::MeanPool).then(|| pair("fc_norm", &[c]));
        let head = (config.num_classes > 0).then(|| pair("head", &[config.num_classes, c]));
        Ok(Vit { config: config.clone(), first_site: 0, patch_embed, cls_token, pos_embed, shared_table, blocks, norm, fc_norm, head })
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

    /// Describes the forward pass of `images` [B, in_chans, H, W]. The grid may differ from the configuration's where positions are
    /// absolute (they are then interpolated, differentiably) or absent.
    pub fn plan(&self, p: &mut Planner, images: Act, taps: Taps) -> Result<Features, ModelError> {
        let shape = p.shape(images);
        let &[_, channels, height, width] = shape.dims() else {
            return Err(ModelError::Config { key: "images", why: format!("shape {shape}, expected B x C x H x W") });
        };
        if channels != self.config.in_chans {
            return Err(ModelError::Config {
                key: "in_chans",
                why: format!("images have {channels} channels, the model {}", self.config.in_chans),
            });
        }
        let grid = (height / self.config.patch_size, width / self.config.patch_size);
        let patches = p.patchify(images, self.config.patch_size)?;
        let patch_embed = p.linear(patches, self.patch_embed.0, Bias::Full(self.patch_embed.1))?;
        let cls = self.cls_token.map(|w| p.weight(w)).transpose()?;
        let pos = self.positions(p, grid)?;
        let mut x = p.tokens(patch_embed, cls, pos)?;
        let rel_pos_bias = self.shared_table.map(|t| self.bias(p, t, grid)).transpose()?;
        let mut features =
            Features { patch_embed, rel_pos_bias, blocks: vec![], attention: vec![], prenorm: x, tokens: None, pooled: None, logits: None };
        for (i, block) in self.blocks.iter().enumerate() {
            let bias = match block.table {
                Some(table) => Some(self.bias(p, table, grid)?),
                None => rel_pos_bias,
            };
            let (out, attention) = block.plan(&self.config, (i, self.first_site), p, x, bias, taps)?;
            x = out;
            features.blocks.push(x);
            features.attention.extend(attention);
        }
        features.prenorm = x;
        self.finish(p, &mut features)?;
        self.keep(p, &features, taps);
        Ok(features)
    }

    fn finish(&self, p: &mut Planner, f: &mut Features) -> Result<(), ModelError> {
        let eps = self.config.ln_eps;
        if self.norm.is_some() {
            f.tokens = Some(p.layer_norm(f.prenorm, self.norm, eps)?);
        }
        f.pooled = match self.config.head {
            Head::Features => None,
            Head::Cls => Some(p.pool(f.map(), Pooling::Token(0))?),
            Head::MeanPool => {
                let mean = p.pool(f.prenorm, Pooling::Mean { skip: usize::from(self.config.cls_token) })?;
                Some(p.layer_norm(mean, self.fc_norm, eps)?)
            }
        };
        if let (Some(pooled), Some((w, b))) = (f.pooled, self.head) {
            f.logits = Some(p.linear(pooled, w, Bias::Full(b))?);
        }
        Ok(())
    }

    fn keep(&self, p: &mut Planner, f: &Features, taps: Taps) {
        if taps.blocks {
            let all = [f.patch_embed, f.prenorm].into_iter().chain(f.rel_pos_bias).chain(f.tokens).chain(f.pooled).chain(f.logits);
            all.chain(f.blocks.iter().copied()).for_each(|act| p.keep(act));
        }
        f.attention.iter().for_each(|&act| p.keep(act));
    }

    fn positions(&self, p: &mut Planner, grid: (usize, usize)) -> Result<Option<Act>, ModelError> {
        let Some(table) = self.pos_embed else { return Ok(None) };
        let pos = p.weight(table)?;
        if grid == self.config.grid() {
            return Ok(Some(pos));
        }
        Ok(Some(p.sparse(pos, Arc::new(bicubic(self.config.grid(), grid, usize::from(self.config.cls_token))))?))
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

impl Block {
    fn declare(config: &VitConfig, i: usize, rows: usize, add: &mut impl FnMut(&str, &[usize]) -> Param) -> Block {
        let (c, hidden) = (config.embed_dim, config.hidden_dim());
        let mut add = |name: &str, shape: &[usize]| add(&format!("blocks.{i}.{name}"), shape);
        let gamma = config.layer_scale.map(|_| (add("gamma_1", &[c]), add("gamma_2", &[c])));
        let norm1 = (add("norm1.weight", &[c]), add("norm1.bias", &[c]));
        let qkv_bias = match config.qkv_bias {
            QkvBias::None => Bias::None,
            QkvBias::Full => Bias::Full(add("attn.qkv.bias", &[3 * c])),
            QkvBias::Qv | QkvBias::Qkv => {
                let (q, v) = (Some(add("attn.q_bias", &[c])), Some(add("attn.v_bias", &[c])));
                Bias::Qkv { q, k: (config.qkv_bias == QkvBias::Qkv).then(|| add("attn.k_bias", &[c])), v }
            }
        };
        let relative = config.position.relative();
        let table = relative.then(|| add("attn.relative_position_bias_table", &[rows, config.num_heads]));
        let qkv = add("attn.qkv.weight", &[3 * c, c]);
        let proj = (add("attn.proj.weight", &[c, c]), add("attn.proj.bias", &[c]));
        let norm2 = (add("norm2.weight", &[c]), add("norm2.bias", &[c]));
        let fc1 = (add("mlp.fc1.weight", &[hidden, c]), add("mlp.fc1.bias", &[hidden]));
        let fc2 = (add("mlp.fc2.weight", &[c, hidden]), add("mlp.fc2.bias", &[c]));
        Block { norm1, qkv, qkv_bias, table, proj, gamma, norm2, fc1, fc2 }
    }

    /// x + drop(γ₁ · attention(norm1 x)), then x + drop(γ₂ · mlp(norm2 x)).
    fn plan(
        &self,
        config: &VitConfig,
        (i, first_site): (usize, u32),
        p: &mut Planner,
        x: Act,
        bias: Option<Act>,
        taps: Taps,
    ) -> Result<(Act, Option<Act>), ModelError> {
        let scale = (config.head_dim() as f64).powf(-0.5);
        let drop =
            |branch: u32| Some(DropPath { rate: config.drop_path(i), site: first_site + 2 * i as u32 + branch }).filter(|d| d.rate > 0.0);
        let h = p.layer_norm(x, Some(self.norm1), config.ln_eps)?;
        let qkv = p.linear(h, self.qkv, self.qkv_bias)?;
        let map = taps.attention.then(|| p.attention_map(qkv, bias, config.num_heads, scale)).transpose()?;
        let h = p.attention(qkv, bias, config.num_heads, scale)?;
        let h = p.linear(h, self.proj.0, Bias::Full(self.proj.1))?;
        let x = p.residual(x, h, self.gamma.map(|g| g.0), drop(0))?;
        let h = p.layer_norm(x, Some(self.norm2), config.ln_eps)?;
        let h = p.linear(h, self.fc1.0, Bias::Full(self.fc1.1))?;
        let activation = match config.activation {
            Activation::Gelu => GeluKind::Erf,
            Activation::QuickGelu => GeluKind::Quick,
        };
        let h = p.gelu(h, activation);
        let h = p.linear(h, self.fc2.0, Bias::Full(self.fc2.1))?;
        Ok((p.residual(x, h, self.gamma.map(|g| g.1), drop(1))?, map))
    }
}
