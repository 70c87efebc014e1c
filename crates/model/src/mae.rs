//! Masked autoencoders (He et al. 2022): the encoder sees the visible patches only; a small decoder sees them and a mask token for every
//! other patch, and predicts the masked patches' pixels.
//!
//! The encoder is a [`Vit`] under its own names; the decoder's parameters have the official names (`decoder_embed`, `mask_token`,
//! `decoder_blocks.{i}`, `decoder_norm`, `decoder_pred`). A patch's pixels are ordered (channel, row, column) as in a convolution's
//! weight; the official code's order is (row, column, channel), which permutes the rows of `decoder_pred` and nothing else.

use std::sync::Arc;

use fd_compute::{Act, Bias, Distance, LayoutBuilder, Param, Planner, Pooling, Span, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::block::{Block, BlockSpec, Declare, Pair};
use crate::config::{MOST_BLOCKS, MOST_RATIO, MOST_WIDTH, check_range};
use crate::vit::grid_of;
use crate::{Activation, Features, ModelError, QkvBias, Taps, Vit, VitConfig, sin_cos};

/// What surrounds the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    /// Share of the patches that are masked (the paper: 0.75).
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub mask_ratio: f64,
    /// Width of the decoder.
    #[schemars(range(min = 1, max = MOST_WIDTH))]
    pub decoder_embed_dim: usize,
    /// Its blocks.
    #[schemars(range(min = 1, max = MOST_BLOCKS))]
    pub decoder_depth: usize,
    /// Its heads.
    #[schemars(range(min = 1))]
    pub decoder_num_heads: usize,
    /// Hidden width of its MLP over its width.
    #[schemars(range(max = MOST_RATIO), extend("exclusiveMinimum" = 0.0))]
    pub decoder_mlp_ratio: f64,
    /// Added to the variance by which each patch's pixels are normalised (with their mean) to be the target; none: the pixels are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, extend("exclusiveMinimum" = 0.0))]
    pub norm_pix: Option<f64>,
}

/// The paper's.
impl Default for MaeConfig {
    fn default() -> Self {
        MaeConfig {
            mask_ratio: 0.75,
            decoder_embed_dim: 512,
            decoder_depth: 8,
            decoder_num_heads: 16,
            decoder_mlp_ratio: 4.0,
            norm_pix: Some(1e-6),
        }
    }
}

impl MaeConfig {
    /// Patches that stay visible, of `patches`.
    pub fn visible(&self, patches: usize) -> usize {
        (patches as f64 * (1.0 - self.mask_ratio)) as usize
    }

    /// Refuses what cannot be built; the message names the key.
    pub fn check(&self, encoder: &VitConfig) -> Result<(), ModelError> {
        encoder.check()?;
        let refuse = |key, why: String| Err(ModelError::Config { key, why });
        let (h, w) = encoder.grid();
        let visible = self.visible(h * w);
        if !(self.mask_ratio > 0.0 && self.mask_ratio < 1.0) {
            return refuse("mask_ratio", format!("{} is not above 0 and below 1", self.mask_ratio));
        }
        if visible == 0 || visible == h * w {
            return refuse("mask_ratio", format!("{} leaves {visible} of {} patches visible", self.mask_ratio, h * w));
        }
        check_range("decoder_embed_dim", self.decoder_embed_dim, MOST_WIDTH)?;
        check_range("decoder_depth", self.decoder_depth, MOST_BLOCKS)?;
        if self.decoder_num_heads == 0 || !self.decoder_embed_dim.is_multiple_of(self.decoder_num_heads) {
            let why = format!("{} heads do not divide decoder_embed_dim {}", self.decoder_num_heads, self.decoder_embed_dim);
            return refuse("decoder_num_heads", why);
        }
        if !(self.decoder_mlp_ratio > 0.0 && self.decoder_mlp_ratio <= MOST_RATIO) {
            return refuse("decoder_mlp_ratio", format!("{} is not above 0 and at most {MOST_RATIO}", self.decoder_mlp_ratio));
        }
        if self.hidden() == 0 {
            return refuse("decoder_mlp_ratio", format!("{} leaves no hidden unit", self.decoder_mlp_ratio));
        }
        if let Some(eps) = self.norm_pix.filter(|eps| !(eps.is_finite() && *eps > 0.0)) {
            return refuse("norm_pix", format!("{eps} must be positive"));
        }
        Ok(())
    }

    fn hidden(&self) -> usize {
        (self.decoder_embed_dim as f64 * self.decoder_mlp_ratio) as usize
    }
}

/// Which patches of one image are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The encoder's tokens: the CLS token (0, where there is one) and the visible patches.
    pub visible: Vec<u32>,
    /// For the CLS token and every patch, its place among [mask token, the encoder's tokens].
    pub restore: Vec<u32>,
    /// The masked patches.
    pub masked: Vec<u32>,
}

/// Draws `visible` of `patches` at random, a function of the key alone (seed, step, sample).
pub fn random_mask(patches: usize, visible: usize, cls: bool, key: &[u64]) -> Mask {
    let mut stream = Stream::new(key);
    let mut order: Vec<u32> = (0..patches as u32).collect();
    // The first `visible` of a shuffle.
    for i in 0..visible.min(patches) {
        let j = i + (stream.uniform() * (patches - i) as f64) as usize;
        order.swap(i, j.min(patches - 1));
    }
    let (seen, masked) = order.split_at_mut(visible);
    seen.sort_unstable();
    masked.sort_unstable();
    let lead = u32::from(cls);
    let mut restore = vec![0; patches + lead as usize];
    (0..lead).for_each(|i| restore[i as usize] = 1 + i);
    for (place, patch) in (0..).zip(seen.iter()) {
        restore[(lead + patch) as usize] = 1 + lead + place;
    }
    Mask { visible: (0..lead).chain(seen.iter().map(|s| s + lead)).collect(), restore, masked: masked.to_vec() }
}

/// An encoder and its decoder, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub struct Mae {
    config: MaeConfig,
    encoder: Vit,
    mask_token: Param,
    decoder_embed: Pair,
    blocks: Vec<Block>,
    norm: Pair,
    pred: Pair,
}

/// Handles to what a pass of the autoencoder computes.
#[derive(Clone, Debug)]
pub struct MaePass {
    /// Input: the encoder's tokens, [B, K].
    pub visible: Act,
    /// Input: every token's place among the mask token and the encoder's tokens, [B, N].
    pub restore: Act,
    /// Input: the masked patches, [B, M].
    pub masked: Act,
    /// The encoder's features; its map holds the visible tokens only.
    pub features: Features,
    /// Predicted pixels of every patch, [B, n, c P P].
    pub prediction: Act,
    /// What is predicted of the masked patches, [B, M, c P P].
    pub target: Act,
    /// Mean squared distance to the target over the masked patches, `[1]`.
    pub loss: Act,
}

impl Mae {
    /// Adds the encoder's and the decoder's parameters to a layout.
    pub fn declare(config: &MaeConfig, encoder: &VitConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Mae, ModelError> {
        config.check(encoder)?;
        let vit = Vit::declare(encoder, layout, prefix)?;
        let (c, pixels) = (config.decoder_embed_dim, encoder.in_chans * encoder.patch_size * encoder.patch_size);
        let mut d = Declare { layout, prefix: prefix.into() };
        let mask_token = d.add("mask_token", &[1, 1, c]);
        let decoder_embed = d.pair("decoder_embed", &[c, encoder.embed_dim]);
        let spec = BlockSpec {
            dim: c,
            heads: config.decoder_num_heads,
            hidden: config.hidden(),
            qkv_bias: QkvBias::Full,
            layer_scale: false,
            table_rows: None,
            activation: Activation::Gelu,
            ln_eps: encoder.ln_eps,
        };
        let blocks = (0..config.decoder_depth).map(|i| Block::declare(&spec, &mut d.below(&format!("decoder_blocks.{i}.")))).collect();
        let norm = d.pair("decoder_norm", &[c]);
        let pred = d.pair("decoder_pred", &[pixels, c]);
        Ok(Mae { config: config.clone(), encoder: vit, mask_token, decoder_embed, blocks, norm, pred })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Vit {
        &self.encoder
    }

    /// Describes a pass over `images` [B, in_chans, H, W] of the configured size: what is visible is an input.
    ///
    /// # Errors
    /// Images of another size; what [`Vit::plan_visible`] refuses.
    pub fn plan(&self, p: &mut Planner, images: Act) -> Result<MaePass, ModelError> {
        let encoder = self.encoder.config();
        let (h, w) = encoder.grid();
        let grid = grid_of(p, images, encoder.in_chans, encoder.patch_size)?;
        if grid != (h, w) {
            let why = format!("what is masked of a grid of {:?} patches does not serve one of {grid:?}", (h, w));
            return Err(ModelError::Config { key: "img_size", why });
        }
        let batch = p.shape(images).dims()[0];
        let (patches, lead) = (h * w, usize::from(encoder.cls_token));
        let seen = self.config.visible(patches);
        let visible = p.input([batch, lead + seen]);
        let restore = p.input([batch, lead + patches]);
        let masked = p.input([batch, patches - seen]);

        let features = self.encoder.plan_visible(p, images, visible, Taps::default())?;
        let x = p.linear(features.map(), self.decoder_embed.0, Bias::Full(self.decoder_embed.1))?;
        let mask_token = p.weight(self.mask_token)?;
        let x = p.tokens(x, Some(mask_token), None, None)?;
        let x = p.gather(x, restore)?;
        let c = self.config.decoder_embed_dim;
        let pos: Vec<f64> = std::iter::repeat_n(0.0, lead * c).chain(sin_cos((h, w), c)).collect();
        let pos = p.constant([lead + patches, c], pos.into())?;
        let mut x = p.tokens(x, None, None, Some(pos))?;
        for block in &self.blocks {
            x = block.plan(p, x, None, &Span::Whole, None, false)?.0;
        }
        let x = p.layer_norm(x, Some(self.norm), encoder.ln_eps)?;
        let x = p.linear(x, self.pred.0, Bias::Full(self.pred.1))?;
        let prediction = if lead > 0 { p.pool(x, Pooling::After { skip: lead })? } else { x };

        let pixels = p.patchify(images, encoder.patch_size)?;
        let (predicted, mut target) = (p.gather(prediction, masked)?, p.gather(pixels, masked)?);
        if let Some(eps) = self.config.norm_pix {
            // The unbiased variance is n / (n - 1) times that of LayerNorm: (x - m) / √(v n / (n - 1) + e).
            let n = p.shape(target).cols() as f64;
            let unbiased = (n - 1.0).max(1.0) / n;
            target = p.layer_norm(target, None, eps * unbiased)?;
            let scale = vec![(unbiased.sqrt(), 0.0); patches - seen];
            target = p.channel_affine(target, Arc::from(scale))?;
        }
        let loss = p.feature_loss(predicted, target, Distance::Mse, None)?;
        Ok(MaePass { visible, restore, masked, features, prediction, target, loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_hides_what_it_should_and_finds_its_way_back() {
        for (cls, sample) in [(true, 0), (false, 1), (true, 2)] {
            let mask = random_mask(16, 4, cls, &[7, 3, sample]);
            let lead = usize::from(cls);
            assert_eq!((mask.visible.len(), mask.masked.len(), mask.restore.len()), (4 + lead, 12, 16 + lead));
            // What the decoder reads at every place: the mask token, or the encoder's token of that place.
            for (place, &at) in mask.restore.iter().enumerate() {
                match at {
                    0 => assert!(mask.masked.contains(&((place - lead) as u32))),
                    at => assert_eq!(mask.visible[at as usize - 1], place as u32),
                }
            }
        }
        assert_eq!(random_mask(16, 4, true, &[7, 3, 0]), random_mask(16, 4, true, &[7, 3, 0]));
        assert_ne!(random_mask(16, 4, true, &[7, 3, 0]), random_mask(16, 4, true, &[7, 4, 0]));
        // Every patch is visible as often as any other.
        let mut seen = [0; 8];
        (0..4000).for_each(|s| random_mask(8, 2, false, &[1, s]).visible.iter().for_each(|v| seen[*v as usize] += 1));
        assert!(seen.iter().all(|n| (900..1100).contains(n)), "{seen:?}");
    }
}
