//! What a Swin transformer is made of.

use fd_compute::Windows;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{MOST_CHANNELS, MOST_CLASSES, MOST_PATCH, MOST_RATIO, check_patches, check_range, is_false, is_true, yes};
use crate::{Head, ModelError, QkvBias};

/// Where the norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwinVersion {
    /// Before attention and MLP; patch merging is LayerNorm(4C), then linear.
    V1,
    /// After them; patch merging is linear, then LayerNorm(2C).
    V2,
}

/// How queries and keys become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwinAttention {
    /// q · k / √D.
    Scaled,
    /// The cosine between them, times a trained scale a head (`attn.logit_scale`), at most 100.
    Cosine,
}

/// Where the relative position bias comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwinPosition {
    /// A table (`relative_position_bias_table`).
    Table,
    /// An MLP of the offset (`rpe_mlp`).
    Mlp,
}

/// What the MLP sees of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Coordinates {
    /// Offset over the largest offset: -1..1.
    Linear,
    /// That times 8, then sign · log₂(|x| + 1) / 3.
    Norm8Log,
}

/// What becomes of the MLP's (or the table's) numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BiasOutput {
    /// They are the bias.
    Plain,
    /// The bias is 16 · sigmoid of them.
    Sigmoid,
}

/// A Swin transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwinConfig {
    /// Image height and width, in pixels.
    #[schemars(with = "[usize; 2]", inner(range(min = 1)))]
    pub img_size: (usize, usize),
    /// Side of a square patch, in pixels.
    #[schemars(range(min = 1, max = MOST_PATCH))]
    pub patch_size: usize,
    /// Channels of the image.
    #[schemars(range(min = 1, max = MOST_CHANNELS))]
    pub in_chans: usize,
    /// Token width of the first stage; every later stage doubles it.
    #[schemars(range(min = 1, max = MOST_WIDTH))]
    pub embed_dim: usize,
    /// Blocks of each stage.
    #[schemars(inner(range(min = 1, max = MOST)))]
    pub depths: Vec<usize>,
    /// Attention heads of each stage.
    #[schemars(inner(range(min = 1)))]
    pub num_heads: Vec<usize>,
    /// Side of a window, in tokens. A map not larger than that is one window.
    #[schemars(range(min = 1, max = MOST))]
    pub window_size: usize,
    /// Hidden width of the MLP over its input's.
    #[schemars(range(max = MOST_RATIO), extend("exclusiveMinimum" = 0.0))]
    pub mlp_ratio: f64,
    /// Where the norms stand.
    pub version: SwinVersion,
    /// How scores are made.
    pub attention: SwinAttention,
    /// Where the position bias comes from.
    pub position: SwinPosition,
    /// One position bias a stage (`layers.{s}.rel_pos_bias`) in place of one a block.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub shared_position: bool,
    /// What the position MLP sees.
    pub coordinates: Coordinates,
    /// Windows of each stage that the position MLP was pretrained with; 0, or no entry: the model's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if)]
    pub pretrained_windows: Vec<usize>,
    /// What becomes of the MLP's numbers.
    pub bias_output: BiasOutput,
    /// Hidden width of the position MLP.
    #[schemars(range(min = 1, max = MOST_HIDDEN))]
    pub rpe_hidden_dim: usize,
    /// Which projections have a bias (a key bias of its own is not among Swin's options).
    pub qkv_bias: QkvBias,
    /// A learned vector a patch (`absolute_pos_embed`).
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub absolute_position: bool,
    /// A LayerNorm after the patch embedding.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub patch_norm: bool,
    /// Stages (from 1) with a LayerNorm inside the MLP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!skip_serializing_if, inner(range(min = 1)))]
    pub mlp_norm_stages: Vec<usize>,
    /// A LayerNorm over the main branch after every so many blocks of a stage (SwinV2-G: 6); 0: none.
    #[serde(default, skip_serializing_if = "never")]
    #[schemars(!skip_serializing_if)]
    pub end_norm_interval: usize,
    /// Initial weight of the norms that end a residual branch (version 2; official: 1e-5).
    pub init_norm: f64,
    /// Epsilon of every LayerNorm.
    #[schemars(range(max = MOST_RATIO), extend("exclusiveMinimum" = 0.0))]
    pub ln_eps: f64,
    /// The stage (from 1) whose map is handed out; none: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(!skip_serializing_if, range(min = 1))]
    pub out_stage: Option<usize>,
    /// What follows the blocks: features, or mean-pool (norm, mean, head).
    pub head: Head,
    /// Classes of the head; 0 with head `features`.
    #[schemars(range(max = MOST_CLASSES))]
    pub num_classes: usize,
    /// Drop path of the last block; linear from 0 at the first.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub drop_path_rate: f64,
}

fn never(interval: &usize) -> bool {
    *interval == 0
}

/// Swin-T at 224 pixels: an encoder of features.
impl Default for SwinConfig {
    fn default() -> Self {
        SwinConfig {
            img_size: (224, 224),
            patch_size: 4,
            in_chans: 3,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: 7,
            mlp_ratio: 4.0,
            version: SwinVersion::V1,
            attention: SwinAttention::Scaled,
            position: SwinPosition::Table,
            shared_position: false,
            coordinates: Coordinates::Norm8Log,
            pretrained_windows: vec![],
            bias_output: BiasOutput::Plain,
            rpe_hidden_dim: 512,
            qkv_bias: QkvBias::Full,
            absolute_position: false,
            patch_norm: true,
            mlp_norm_stages: vec![],
            end_norm_interval: 0,
            init_norm: 1.0,
            ln_eps: 1e-5,
            out_stage: None,
            head: Head::Features,
            num_classes: 0,
            drop_path_rate: 0.0,
        }
    }
}

/// Most patches of an image: the windows of the first stage are a list of them.
const MOST_PATCHES: usize = 1 << 20;
/// Most blocks of a stage, and most tokens of a window.
const MOST: usize = 1024;
/// Widest tokens of the first stage.
const MOST_WIDTH: usize = 1 << 13;
/// Widest position MLP.
const MOST_HIDDEN: usize = 1 << 16;

impl SwinConfig {
    /// Swin-T of version 2 as the official distillation code has it.
    pub fn version_2() -> SwinConfig {
        SwinConfig {
            version: SwinVersion::V2,
            attention: SwinAttention::Cosine,
            position: SwinPosition::Mlp,
            bias_output: BiasOutput::Sigmoid,
            qkv_bias: QkvBias::Qv,
            init_norm: 1e-5,
            ..SwinConfig::default()
        }
    }

    /// Is it Swin v1 or v2 as published, but for sizes (and not a mixture of their options)?
    pub fn is_published(&self) -> bool {
        let base = if self.version == SwinVersion::V2 { SwinConfig::version_2() } else { SwinConfig::default() };
        let options = |c: &SwinConfig| {
            let position = (c.position, c.shared_position, c.coordinates, c.bias_output, c.absolute_position);
            (c.attention, position, c.qkv_bias, c.patch_norm, c.mlp_norm_stages.clone(), c.end_norm_interval)
        };
        options(self) == options(&base)
    }

    /// Patches down and across: the first stage's map.
    pub fn patches(&self) -> (usize, usize) {
        (self.img_size.0 / self.patch_size.max(1), self.img_size.1 / self.patch_size.max(1))
    }

    /// The map of a stage (from 0), in tokens.
    pub fn map_of(&self, stage: usize) -> (usize, usize) {
        let (h, w) = self.patches();
        (h >> stage, w >> stage)
    }

    /// The token width of a stage (from 0).
    pub fn width_of(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// The side of the windows of a map.
    pub fn window_of(&self, map: (usize, usize)) -> usize {
        self.window_size.min(map.0).min(map.1)
    }

    /// The stage (from 1) whose map is handed out.
    pub fn out_stage(&self) -> usize {
        self.out_stage.unwrap_or(self.depths.len())
    }

    /// Pixels that a side of the image must be a multiple of.
    pub fn stride(&self) -> usize {
        self.patch_size << (self.depths.len() - 1)
    }

    /// Drop path rate of block `i`, counted over the stages: linear from 0 to `drop_path_rate`.
    pub fn drop_path(&self, i: usize) -> f64 {
        let depth: usize = self.depths.iter().sum();
        if depth < 2 { self.drop_path_rate } else { self.drop_path_rate * i as f64 / (depth - 1) as f64 }
    }

    /// Refuses what cannot be built; the message names the key.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |key: &'static str, why: String| Err(ModelError::Config { key, why });
        check_patches(self.img_size, self.patch_size)?;
        let (h, w) = self.patches();
        if h.saturating_mul(w) > MOST_PATCHES {
            return refuse("img_size", format!("{h} x {w} patches are more than {MOST_PATCHES}"));
        }
        let stages = self.depths.len();
        check_range("depths", stages, 8)?;
        if self.num_heads.len() != stages {
            return refuse("num_heads", format!("{} entries for {stages} stages of depths", self.num_heads.len()));
        }
        check_range("in_chans", self.in_chans, MOST_CHANNELS)?;
        check_range("embed_dim", self.embed_dim, MOST_WIDTH)?;
        check_range("window_size", self.window_size, MOST)?;
        check_range("rpe_hidden_dim", self.rpe_hidden_dim, MOST_HIDDEN)?;
        if let Some(n) = self.depths.iter().find(|n| **n == 0 || **n > MOST) {
            return refuse("depths", format!("{n} is not from 1 to {MOST}"));
        }
        for s in 0..stages {
            let (heads, width) = (self.num_heads[s], self.width_of(s));
            if heads == 0 || !width.is_multiple_of(heads) {
                return refuse("num_heads", format!("{heads} heads do not divide the width {width} of stage {}", s + 1));
            }
            self.check_map(s)?;
        }
        for (key, value) in [("mlp_ratio", self.mlp_ratio), ("ln_eps", self.ln_eps)] {
            if !(value.is_finite() && value > 0.0 && value <= MOST_RATIO) {
                return refuse(key, format!("{value} is not above 0 and at most {MOST_RATIO}"));
            }
        }
        if self.embed_dim as f64 * self.mlp_ratio < 1.0 {
            return refuse("mlp_ratio", format!("{} leaves no hidden unit", self.mlp_ratio));
        }
        if !self.init_norm.is_finite() {
            return refuse("init_norm", format!("{} is not a number", self.init_norm));
        }
        if self.qkv_bias == QkvBias::Qkv {
            return refuse("qkv_bias", "`qkv` is not among Swin's options: full, qv or none".into());
        }
        if self.shared_position && self.position == SwinPosition::Table {
            return refuse("shared_position", "only a position MLP can be shared by a stage: set position = \"mlp\"".into());
        }
        if self.pretrained_windows.len() > stages || self.pretrained_windows.contains(&1) {
            return refuse("pretrained_windows", format!("{:?} are not windows of {stages} stages", self.pretrained_windows));
        }
        if let Some(s) = self.mlp_norm_stages.iter().find(|s| **s == 0 || **s > stages) {
            return refuse("mlp_norm_stages", format!("there is no stage {s}: they count from 1 to {stages}"));
        }
        if self.out_stage() == 0 || self.out_stage() > stages {
            return refuse("out_stage", format!("there is no stage {}: they count from 1 to {stages}", self.out_stage()));
        }
        if self.head == Head::Cls {
            return refuse("head", "a Swin has no CLS token: features or mean-pool".into());
        }
        if (self.head == Head::Features) != (self.num_classes == 0) || self.num_classes > MOST_CLASSES {
            return refuse("num_classes", format!("{} classes do not go with head {:?}", self.num_classes, self.head));
        }
        if self.head == Head::MeanPool && self.out_stage() != stages {
            return refuse("out_stage", "a classifier reads the last stage".into());
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            return refuse("drop_path_rate", format!("{} is not in 0..1", self.drop_path_rate));
        }
        Ok(())
    }

    /// The map of a stage exists, and its windows tile it.
    fn check_map(&self, s: usize) -> Result<(), ModelError> {
        let ((h, w), (map_h, map_w)) = (self.patches(), self.map_of(s));
        if map_h << s != h || map_w << s != w || map_h == 0 || map_w == 0 {
            let why = format!("a grid of {h} x {w} patches cannot be halved {s} times");
            return Err(ModelError::Config { key: "img_size", why });
        }
        self.windows(s, (map_h, map_w)).map(|_| ())
    }

    /// The windows of a stage's (from 0) even and odd blocks over a map: plain, and shifted by half their side unless one is the map.
    ///
    /// # Errors
    /// Windows that do not tile the map.
    pub fn windows(&self, s: usize, map: (usize, usize)) -> Result<[Windows; 2], ModelError> {
        let side = self.window_of(map);
        let shift = if side < map.0.min(map.1) { self.window_size / 2 } else { 0 };
        let of = |shift| match Windows::new(map, side, shift) {
            Err(fd_compute::Error::Argument { why, .. }) => {
                Err(ModelError::Config { key: "window_size", why: format!("stage {}: {why}", s + 1) })
            }
            other => Ok(other?),
        };
        Ok([of(0)?, of(shift)?])
    }
}
