//! What a vision transformer is made of: a plain description, read from a configuration file and checked before anything is built.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How the tokens learn where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Sine and cosine of the place, added once and not trained (MAE).
    SinCos,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x Φ(x), exact.
    Gelu,
    /// x · sigmoid(1.702 x), CLIP's.
    QuickGelu,
}

/// What follows the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Image height and width, in pixels.
    #[schemars(with = "[usize; 2]", inner(range(min = 1)))]
    pub img_size: (usize, usize),
    /// Side of a square patch, in pixels.
    #[schemars(range(min = 1, max = MOST_PATCH))]
    pub patch_size: usize,
    /// Channels of the image.
    #[schemars(range(min = 1, max = MOST_CHANNELS))]
    pub in_chans: usize,
    /// Token width C.
    #[schemars(range(min = 1, max = MOST_WIDTH))]
    pub embed_dim: usize,
    /// Number of blocks.
    #[schemars(range(min = 1, max = MOST_BLOCKS))]
    pub depth: usize,
    /// Attention heads H; C must be a multiple of it.
    #[schemars(range(min = 1))]
    pub num_heads: usize,
    /// Hidden width of the MLP over C.
    #[schemars(range(max = MOST_RATIO), extend("exclusiveMinimum" = 0.0))]
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
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub ln_eps: f64,
    /// What follows the blocks.
    pub head: Head,
    /// Classes of the head; 0 with head `features`.
    #[schemars(range(max = MOST_CLASSES))]
    pub num_classes: usize,
    /// Drop path of the last block; block i of L has `rate · i / (L - 1)`.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub drop_path_rate: f64,
    /// Register tokens (`reg_token`, DINOv2 with registers): they have no position and are not handed out.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if, range(max = MAX_TOKENS))]
    pub reg_tokens: usize,
    /// A LayerNorm before the first block (`norm_pre`, CLIP's `ln_pre`).
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub pre_norm: bool,
    /// Has the patch embedding a bias? (CLIP: no.)
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub patch_bias: bool,
    /// Width of a projection of the CLS token without bias (`proj`, CLIP's image embedding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, range(min = 1, max = MOST_WIDTH))]
    pub proj_dim: Option<usize>,
    /// Added to the sides of a grid when absolute positions are interpolated to it (`interpolate_offset`; DINOv2: 0.1).
    #[serde(default, skip_serializing_if = "is_none_of_it")]
    #[schemars(!skip_serializing_if, range(min = 0.0, max = 1.0))]
    pub interpolate_offset: f64,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn is_none_of_it(x: &f64) -> bool {
    *x == 0.0
}

pub(crate) fn is_false(b: &bool) -> bool {
    !b
}

pub(crate) fn is_true(b: &bool) -> bool {
    *b
}

pub(crate) fn yes() -> bool {
    true
}

/// ViT-B/16 at 224 pixels with absolute positions, as DINO, DeiT and MAE have it: an encoder of features.
impl Default for VitConfig {
    fn default() -> Self {
        VitConfig {
            img_size: (224, 224),
            patch_size: 16,
            in_chans: 3,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            position: Position::Absolute,
            qkv_bias: QkvBias::Full,
            layer_scale: None,
            cls_token: true,
            activation: Activation::Gelu,
            ln_eps: 1e-6,
            head: Head::Features,
            num_classes: 0,
            drop_path_rate: 0.0,
            reg_tokens: 0,
            pre_norm: false,
            patch_bias: true,
            proj_dim: None,
            interpolate_offset: 0.0,
        }
    }
}

/// Most tokens of an image: their relative positions are an index of N x N.
const MAX_TOKENS: usize = 8192;
/// Widest tokens, MLPs of positions and projections.
pub(crate) const MOST_WIDTH: usize = 1 << 16;
pub(crate) const MOST_BLOCKS: usize = 1024;
pub(crate) const MOST_CHANNELS: usize = 1024;
/// Largest side of a patch: a kernel's values can then be counted.
pub(crate) const MOST_PATCH: usize = 4096;
pub(crate) const MOST_CLASSES: usize = 1 << 24;
/// Largest MLP over its input.
pub(crate) const MOST_RATIO: f64 = 64.0;

impl VitConfig {
    /// Patches down and across.
    pub fn grid(&self) -> (usize, usize) {
        (self.img_size.0 / self.patch_size.max(1), self.img_size.1 / self.patch_size.max(1))
    }

    /// Tokens N that are handed out: the patches and the CLS token. (The blocks see the registers besides.)
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
        check_patches(self.img_size, self.patch_size)?;
        if self.tokens() > MAX_TOKENS {
            return refuse("img_size", format!("{} tokens are more than {MAX_TOKENS}", self.tokens()));
        }
        for (key, value, most) in
            [("in_chans", self.in_chans, MOST_CHANNELS), ("embed_dim", self.embed_dim, MOST_WIDTH), ("depth", self.depth, MOST_BLOCKS)]
        {
            check_range(key, value, most)?;
        }
        if self.reg_tokens > MAX_TOKENS {
            return refuse("reg_tokens", format!("{} is more than {MAX_TOKENS}", self.reg_tokens));
        }
        if self.reg_tokens > 0 && (self.position.relative() || self.position.shared()) {
            return refuse("reg_tokens", "register tokens have no place that a relative position could be taken of".into());
        }
        if let Some(dim) = self.proj_dim {
            check_range("proj_dim", dim, MOST_WIDTH)?;
            if !self.cls_token || self.head == Head::MeanPool {
                return refuse("proj_dim", "projects the CLS token after the final norm: there is none".into());
            }
        }
        if !(0.0..=1.0).contains(&self.interpolate_offset) {
            return refuse("interpolate_offset", format!("{} is not in 0..=1", self.interpolate_offset));
        }
        if self.num_classes > MOST_CLASSES {
            return refuse("num_classes", format!("{} is more than {MOST_CLASSES}", self.num_classes));
        }
        if self.num_heads == 0 || !self.embed_dim.is_multiple_of(self.num_heads) {
            return refuse("num_heads", format!("{} heads do not divide embed_dim {}", self.num_heads, self.embed_dim));
        }
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= MOST_RATIO && self.hidden_dim() > 0) {
            return refuse(
                "mlp_ratio",
                format!("{} is not above 0 and at most {MOST_RATIO}, with at least one hidden unit", self.mlp_ratio),
            );
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

/// Refuses images that patches do not tile.
pub(crate) fn check_patches(img_size: (usize, usize), patch_size: usize) -> Result<(), ModelError> {
    let refuse = |key: &'static str, why: String| Err(ModelError::Config { key, why });
    check_range("patch_size", patch_size, MOST_PATCH)?;
    for (side, name) in [(img_size.0, "height"), (img_size.1, "width")] {
        if side == 0 || !side.is_multiple_of(patch_size) {
            return refuse("img_size", format!("{name} {side} is not a multiple of patch_size {patch_size}"));
        }
    }
    Ok(())
}

/// Refuses what is not in 1..=most.
pub(crate) fn check_range(key: &'static str, value: usize, most: usize) -> Result<(), ModelError> {
    if value == 0 || value > most {
        return Err(ModelError::Config { key, why: format!("{value} is not from 1 to {most}") });
    }
    Ok(())
}
