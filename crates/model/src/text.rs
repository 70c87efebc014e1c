//! CLIP's text encoder (Radford et al. 2021): words and positions, blocks of causal attention, a final norm; the token at the end of the
//! text, projected, stands for all of it.
//!
//! Parameters have the names of our blocks (`blocks.{i}.attn.qkv.weight`), the rest CLIP's: `token_embedding.weight`,
//! `positional_embedding`, `ln_final`, `text_projection` (stored [out, in] here).

use fd_compute::{Act, Bias, LayoutBuilder, Param, Planner, Pooling, Span};
use serde::{Deserialize, Serialize};

use crate::block::{Block, BlockSpec, Declare, Pair};
use crate::config::check_range;
use crate::{Activation, ModelError, QkvBias};

/// What a text encoder is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Words of the vocabulary.
    pub vocab_size: usize,
    /// Most words of a text N.
    pub context_length: usize,
    /// Width C.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP over C.
    pub mlp_ratio: f64,
    /// Width of the embedding that images and texts share.
    pub embed_dim: usize,
    /// Epsilon of every LayerNorm.
    pub ln_eps: f64,
}

/// The text encoder of CLIP ViT-B.
impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 49_408,
            context_length: 77,
            width: 512,
            layers: 12,
            heads: 8,
            mlp_ratio: 4.0,
            embed_dim: 512,
            ln_eps: 1e-5,
        }
    }
}

impl TextConfig {
    /// Refuses what cannot be built; the message names the key.
    pub fn check(&self) -> Result<(), ModelError> {
        // Words are numbers of the plan, which f32 holds exactly up to 2^24.
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("context_length", self.context_length, 4096),
            ("width", self.width, 1 << 16),
            ("layers", self.layers, 1024),
            ("embed_dim", self.embed_dim, 1 << 16),
        ] {
            check_range(key, value, most)?;
        }
        let refuse = |key, why: String| Err(ModelError::Config { key, why });
        if self.heads == 0 || !self.width.is_multiple_of(self.heads) {
            return refuse("heads", format!("{} heads do not divide width {}", self.heads, self.width));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0 && self.width as f64 * self.mlp_ratio >= 1.0) {
            return refuse("mlp_ratio", format!("{} is not above 0 and at most 64", self.mlp_ratio));
        }
        if !(self.ln_eps > 0.0 && self.ln_eps.is_finite()) {
            return refuse("ln_eps", format!("{} must be positive", self.ln_eps));
        }
        Ok(())
    }
}

/// A text encoder's parameters, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    config: TextConfig,
    token_embedding: Param,
    positional_embedding: Param,
    blocks: Vec<Block>,
    ln_final: Pair,
    text_projection: Param,
}

impl TextEncoder {
    /// Adds the encoder's parameters to a layout, names prefixed with `prefix`.
    pub fn declare(config: &TextConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<TextEncoder, ModelError> {
        config.check()?;
        let c = config.width;
        let mut d = Declare { layout, prefix: prefix.into() };
        let token_embedding = d.add("token_embedding.weight", &[1, config.vocab_size, c]);
        let positional_embedding = d.add("positional_embedding", &[config.context_length, c]);
        let spec = BlockSpec {
            dim: c,
            heads: config.heads,
            hidden: (c as f64 * config.mlp_ratio) as usize,
            qkv_bias: QkvBias::Full,
            layer_scale: false,
            table_rows: None,
            activation: Activation::QuickGelu,
            ln_eps: config.ln_eps,
        };
        let blocks = (0..config.layers).map(|i| Block::declare(&spec, &mut d.below(&format!("blocks.{i}.")))).collect();
        let ln_final = d.pair("ln_final", &[c]);
        let text_projection = d.add("text_projection", &[config.embed_dim, c]);
        let config = config.clone();
        Ok(TextEncoder { config, token_embedding, positional_embedding, blocks, ln_final, text_projection })
    }

    /// Describes the embedding [B, embed_dim] of texts: `words` [B, N] are numbers below `vocab_size`, `end` [B, 1] is the place of each
    /// text's last token. What stands behind it does not matter.
    pub fn plan(&self, p: &mut Planner, words: Act, end: Act) -> Result<Act, ModelError> {
        let (shape, n) = (p.shape(words), self.config.context_length);
        if shape.dims().get(1) != Some(&n) {
            return Err(ModelError::Config { key: "context_length", why: format!("words of shape {shape}, expected B x {n}") });
        }
        let table = p.weight_as(self.token_embedding, [1, self.config.vocab_size, self.config.width])?;
        let embedded = p.gather(table, words)?;
        let pos = p.weight(self.positional_embedding)?;
        let mut x = p.tokens(embedded, None, None, Some(pos))?;
        for block in &self.blocks {
            x = block.plan(p, x, None, &Span::Causal, None, false)?.0;
        }
        let x = p.layer_norm(x, Some(self.ln_final), self.config.ln_eps)?;
        let last = p.gather(x, end)?;
        let last = p.pool(last, Pooling::Token(0))?;
        Ok(p.linear(last, self.text_projection, Bias::None)?)
    }
}
