//! What a vision transformer is made of: a plain description, read from a configuration file and checked before anything is built.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How the tokens learn where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// One learned vector a token, added once (`pos_embed`).
    Absolute,
    /// One relative position bias table a block (`blocks.{i}.attn.relative_position_bias_table`).
    Relative,
    /// One relative position bias table for all blocks (`rel_pos_bias.relative_position_bias_table`), the paper's student.
    SharedRelative,
    /// A learned vector a token and one table a block.
    AbsoluteRelative,
    /// A learned vector a token and one table for all blocks.
    AbsoluteSharedRelative,
    /// None at all.
    None,
}

impl Position {
    /// Is there a learned vector a token?
    pub fn absolute(self) -> bool {
        matches!(self, Position::Absolute | Position::AbsoluteRelative | Position::AbsoluteSharedRelative)
    }

    /// Is there one table a block?
    pub fn relative(self) -> bool {
        matches!(self, Position::Relative | Position::AbsoluteRelative)
    }

    /// Is there one table for all blocks?
    pub fn shared(self) -> bool {
        matches!(self, Position::SharedRelative | Position::AbsoluteSharedRelative)
    }

    /// What fine-tuning makes of it: a shared table becomes one table a block.
    pub fn per_block(self) -> Position {
        match self {
            Position::SharedRelative => Position::Relative,
            Position::AbsoluteSharedRelative => Position::AbsoluteRelative,
            other => other,
        }
    }
}

/// Which of the query, key and value projections carry a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QkvBias {
    /// One `attn.qkv.bias` of width 3C (DINO, DeiT, CLIP, MAE).
    Full,
    /// `attn.q_bias` and `attn.v_bias` (the paper's student: a key bias has no gradient).
    Qv,
    /// `attn.q_bias`, `attn.k_bias` and `attn.v_bias`.
    Qkv,
    /// None.
    None,
}

/// The activation between the two layers of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x Φ(x), exact.
    Gelu,
    /// x · sigmoid(1.702 x), CLIP's.
    QuickGelu,
}

/// What follows the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// `norm` over all tokens, no classifier: an encoder of features.
    Features,
    /// Mean of the patch tokens (CLS left out), `fc_norm`, `head`: the paper's fine-tuning.
    MeanPool,
    /// `norm`, then the CLS token, `head`.
    Cls,
}

/// A plain vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Image height and width, in pixels.
    pub img_size: (usize, usize),
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Channels of the image.
    pub in_chans: usize,
    /// Token width C.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads H; C must be a multiple of it.
    pub num_heads: usize,
    /// Hidden width of the MLP over C.
    pub mlp_ratio: f64,
    /// Where position enters.
    pub position: Position,
    /// Which projections have a bias.
    pub qkv_bias: QkvBias,
    /// Initial value of LayerScale (`gamma_1`, `gamma_2`); none: no LayerScale.
    pub layer_scale: Option<f64>,
    /// Is there a CLS token?
    pub cls_token: bool,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Epsilon of every LayerNorm.
    pub ln_eps: f64,
    /// What follows the blocks.
    pub head: Head,
    /// Classes of the head; 0 with [`Head::Features`].
    pub num_classes: usize,
    /// Drop path of the last block; block i of L has `rate · i / (L - 1)`.
    pub drop_path_rate: f64,
}

/// Most tokens of an image: their relative positions are an index of N x N.
const MAX_TOKENS: usize = 8192;

impl VitConfig {
    /// Patches down and across.
    pub fn grid(&self) -> (usize, usize) {
        (self.img_size.0 / self.patch_size.max(1), self.img_size.1 / self.patch_size.max(1))
    }

    /// Tokens N, the CLS token included.
    pub fn tokens(&self) -> usize {
        let (h, w) = self.grid();
        h.saturating_mul(w).saturating_add(usize::from(self.cls_token))
    }

    /// Width D of a head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
    }

    /// Hidden width of the MLP.
    pub fn hidden_dim(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    /// Drop path rate of block `i`: linear from 0 to `drop_path_rate`.
    pub fn drop_path(&self, i: usize) -> f64 {
        if self.depth < 2 { self.drop_path_rate } else { self.drop_path_rate * i as f64 / (self.depth - 1) as f64 }
    }

    /// Refuses what cannot be built; the message names the key.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |key: &'static str, why: String| Err(ModelError::Config { key, why });
        if self.patch_size == 0 {
            return refuse("patch_size", "must be at least 1".into());
        }
        for (side, name) in [(self.img_size.0, "height"), (self.img_size.1, "width")] {
            if side == 0 || !side.is_multiple_of(self.patch_size) {
                return refuse("img_size", format!("{name} {side} is not a multiple of patch_size {}", self.patch_size));
            }
        }
        if self.tokens() > MAX_TOKENS {
            return refuse("img_size", format!("{} tokens are more than {MAX_TOKENS}", self.tokens()));
        }
        for (key, value, most) in [("in_chans", self.in_chans, 1024), ("embed_dim", self.embed_dim, 1 << 16), ("depth", self.depth, 1024)] {
            if value == 0 || value > most {
                return refuse(key, format!("{value} is not from 1 to {most}"));
            }
        }
        if self.num_classes > 1 << 24 {
            return refuse("num_classes", format!("{} is more than {}", self.num_classes, 1 << 24));
        }
        if self.num_heads == 0 || !self.embed_dim.is_multiple_of(self.num_heads) {
            return refuse("num_heads", format!("{} heads do not divide embed_dim {}", self.num_heads, self.embed_dim));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0 && self.hidden_dim() > 0) {
            return refuse("mlp_ratio", format!("{} is not above 0 and at most 64, with at least one hidden unit", self.mlp_ratio));
        }
        if !(self.ln_eps.is_finite() && self.ln_eps > 0.0) {
            return refuse("ln_eps", format!("{} must be positive", self.ln_eps));
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return refuse("drop_path_rate", format!("{} is not in 0..1", self.drop_path_rate));
        }
        if self.head == Head::Cls && !self.cls_token {
            return refuse("head", "`cls` needs cls_token = true".into());
        }
        if (self.head == Head::Features) != (self.num_classes == 0) {
            return refuse("num_classes", format!("{} classes do not go with head {:?}", self.num_classes, self.head));
        }
        Ok(())
    }
}
