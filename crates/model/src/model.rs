//! Any encoder of images: what training, distillation and analysis work with.

use std::collections::BTreeMap;

use fd_compute::{Act, LayoutBuilder, Planner};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Checkpoint, Features, Head, ModelError, Position, QkvBias, Swin, SwinConfig, SwinVersion, Taps, Vit, VitConfig, preset};

/// The description of an encoder.
///
/// In a file it is a table of the keys of [`VitConfig`], or with `kind = "swin"` of [`SwinConfig`]. `preset = "vit-base"` fills in what
/// the table does not say (see [`preset`]).
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// A plain vision transformer.
    Vit(VitConfig),
    /// A Swin transformer.
    Swin(SwinConfig),
}

impl ModelConfig {
    /// Refuses what cannot be built; the message names the key.
    pub fn check(&self) -> Result<(), ModelError> {
        match self {
            ModelConfig::Vit(c) => c.check(),
            ModelConfig::Swin(c) => c.check(),
        }
    }

    /// Image height and width, in pixels.
    pub fn img_size(&self) -> (usize, usize) {
        match self {
            ModelConfig::Vit(c) => c.img_size,
            ModelConfig::Swin(c) => c.img_size,
        }
    }

    /// The same for images of another size.
    pub fn with_img_size(mut self, size: (usize, usize)) -> ModelConfig {
        match &mut self {
            ModelConfig::Vit(c) => c.img_size = size,
            ModelConfig::Swin(c) => c.img_size = size,
        }
        self
    }

    /// Channels of the image.
    pub fn in_chans(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.in_chans,
            ModelConfig::Swin(c) => c.in_chans,
        }
    }

    /// Pixels that a side of the image must be a multiple of.
    pub fn stride(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.patch_size,
            ModelConfig::Swin(c) => c.stride(),
        }
    }

    /// Side of a patch, in pixels.
    pub fn patch_size(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.patch_size,
            ModelConfig::Swin(c) => c.patch_size,
        }
    }

    /// Rows and columns of the feature map that is handed out.
    pub fn grid(&self) -> (usize, usize) {
        match self {
            ModelConfig::Vit(c) => c.grid(),
            ModelConfig::Swin(c) => c.map_of(c.out_stage() - 1),
        }
    }

    /// Rows and columns of the patches that the image is cut into.
    pub fn patches(&self) -> (usize, usize) {
        match self {
            ModelConfig::Vit(c) => c.grid(),
            ModelConfig::Swin(c) => c.patches(),
        }
    }

    /// Is the map's first token a CLS token?
    pub fn cls_token(&self) -> bool {
        match self {
            ModelConfig::Vit(c) => c.cls_token,
            ModelConfig::Swin(_) => false,
        }
    }

    /// Tokens of the map, the CLS token included.
    pub fn tokens(&self) -> usize {
        let (h, w) = self.grid();
        h * w + usize::from(self.cls_token())
    }

    /// Width of the map's tokens.
    pub fn width(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.embed_dim,
            ModelConfig::Swin(c) => c.width_of(c.out_stage() - 1),
        }
    }

    /// Classes of the head; 0 for an encoder of features.
    pub fn num_classes(&self) -> usize {
        match self {
            ModelConfig::Vit(c) => c.num_classes,
            ModelConfig::Swin(c) => c.num_classes,
        }
    }

    /// Do positions tie the model to images of one size?
    pub fn fixed_size(&self) -> bool {
        match self {
            ModelConfig::Vit(c) => c.position.relative() || c.position.shared(),
            // Smaller maps use a part of the position bias.
            ModelConfig::Swin(_) => false,
        }
    }

    /// The same with a drop path rate.
    pub fn with_drop_path(mut self, rate: f64) -> ModelConfig {
        match &mut self {
            ModelConfig::Vit(c) => c.drop_path_rate = rate,
            ModelConfig::Swin(c) => c.drop_path_rate = rate,
        }
        self
    }

    /// The same handing out its last map, where a Swin hands out one of an earlier stage. The weights are the same.
    pub fn whole(mut self) -> ModelConfig {
        if let ModelConfig::Swin(c) = &mut self {
            c.out_stage = None;
        }
        self
    }

    /// The classifier that pretraining trains: on the CLS token where there is one, else on the mean of the patches.
    pub fn classifier(mut self, classes: usize) -> ModelConfig {
        match &mut self {
            ModelConfig::Vit(c) => (c.head, c.num_classes) = (if c.cls_token { Head::Cls } else { Head::MeanPool }, classes),
            ModelConfig::Swin(c) => (c.head, c.num_classes, c.out_stage) = (Head::MeanPool, classes, None),
        }
        self
    }

    /// The classifier that fine-tuning trains (the paper's section 3.2): patch tokens averaged, a position bias for every block.
    pub fn fine_tuned(mut self, classes: usize) -> ModelConfig {
        match &mut self {
            ModelConfig::Vit(c) => {
                (c.head, c.num_classes, c.position, c.proj_dim) = (Head::MeanPool, classes, c.position.per_block(), None);
            }
            ModelConfig::Swin(c) => (c.head, c.num_classes, c.shared_position, c.out_stage) = (Head::MeanPool, classes, false, None),
        }
        self
    }

    /// An encoder's weights as the fine-tuned classifier of [`fine_tuned`](ModelConfig::fine_tuned) starts from them: a shared position
    /// bias is copied to every block; a ViT's final norm is dropped, since the mean of its patches gets a fresh one (a Swin keeps its).
    pub fn fine_tuning_weights(&self, mut weights: Checkpoint) -> Checkpoint {
        match self {
            ModelConfig::Vit(c) => {
                weights.shared_table_to_blocks(c.depth);
                weights.tensors.retain(|name, _| !name.starts_with("norm.") && !name.starts_with("proj."));
            }
            ModelConfig::Swin(c) => {
                let mut tensors = BTreeMap::new();
                for (name, tensor) in weights.tensors {
                    match name.split_once(".rel_pos_bias.") {
                        Some((stage, rest)) => {
                            let s = stage.strip_prefix("layers.").and_then(|s| s.parse::<usize>().ok());
                            let depth = s.and_then(|s| c.depths.get(s)).copied().unwrap_or(0);
                            tensors.extend((0..depth).map(|i| (format!("{stage}.blocks.{i}.attn.{rest}"), tensor.clone())));
                        }
                        None => drop(tensors.insert(name, tensor)),
                    }
                }
                weights.tensors = tensors;
            }
        }
        weights
    }

    /// The paper's student of a teacher like this: of a ViT one with a single relative position bias for all blocks, query and value
    /// biases and LayerScale (section 3.2), of a Swin the Swin v2 of its sizes.
    pub fn student(&self) -> ModelConfig {
        match self {
            ModelConfig::Vit(c) => ModelConfig::Vit(VitConfig {
                img_size: c.img_size,
                patch_size: c.patch_size,
                in_chans: c.in_chans,
                embed_dim: c.embed_dim,
                depth: c.depth,
                num_heads: c.num_heads,
                mlp_ratio: c.mlp_ratio,
                cls_token: c.cls_token,
                position: Position::SharedRelative,
                qkv_bias: QkvBias::Qv,
                layer_scale: Some(0.1),
                ..VitConfig::default()
            }),
            ModelConfig::Swin(c) if c.version == SwinVersion::V2 => {
                ModelConfig::Swin(SwinConfig { head: Head::Features, num_classes: 0, ..c.clone() })
            }
            ModelConfig::Swin(c) => ModelConfig::Swin(SwinConfig {
                img_size: c.img_size,
                patch_size: c.patch_size,
                in_chans: c.in_chans,
                embed_dim: c.embed_dim,
                depths: c.depths.clone(),
                num_heads: c.num_heads.clone(),
                window_size: c.window_size,
                mlp_ratio: c.mlp_ratio,
                ..SwinConfig::version_2()
            }),
        }
    }

    /// What it is called in tables and messages: `vit` or `swin`.
    pub fn kind(&self) -> &'static str {
        match self {
            ModelConfig::Vit(_) => "vit",
            ModelConfig::Swin(_) => "swin",
        }
    }
}

impl From<VitConfig> for ModelConfig {
    fn from(config: VitConfig) -> Self {
        ModelConfig::Vit(config)
    }
}

impl From<SwinConfig> for ModelConfig {
    fn from(config: SwinConfig) -> Self {
        ModelConfig::Swin(config)
    }
}

/// A Swin's table has `kind = "swin"`; a ViT's has no kind.
impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Swin<'a> {
            kind: &'static str,
            #[serde(flatten)]
            config: &'a SwinConfig,
        }
        match self {
            ModelConfig::Vit(config) => config.serialize(serializer),
            ModelConfig::Swin(config) => Swin { kind: "swin", config }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Map::<String, Value>::deserialize(deserializer)?;
        from_table(given).map_err(D::Error::custom)
    }
}

fn from_table(mut given: Map<String, Value>) -> Result<ModelConfig, String> {
    let mut table = match given.remove("preset") {
        None => Map::new(),
        Some(Value::String(name)) => {
            let base = preset(&name).map_err(|e| e.to_string())?;
            match serde_json::to_value(base).map_err(|e| e.to_string())? {
                Value::Object(table) => table,
                _ => Map::new(),
            }
        }
        Some(other) => return Err(format!("key `preset`: {other} is not a name")),
    };
    table.extend(given);
    match table.remove("kind").as_ref().map_or(Some("vit"), Value::as_str) {
        Some("vit") => read::<VitConfig>(table).map(ModelConfig::Vit),
        Some("swin") => read::<SwinConfig>(table).map(ModelConfig::Swin),
        _ => Err("key `kind`: neither \"vit\" nor \"swin\"".into()),
    }
}

/// A description from its table. What was wrong is told with the key, which the table's own reader no longer knows here: it is the one
/// whose value, put back to a default, makes the trouble go away.
fn read<T: DeserializeOwned + Serialize + Default>(table: Map<String, Value>) -> Result<T, String> {
    let parse = |table: &Map<String, Value>| T::deserialize(Value::Object(table.clone()));
    let wrong = match parse(&table) {
        Ok(config) => return Ok(config),
        Err(e) => e.to_string(),
    };
    let Ok(Value::Object(defaults)) = serde_json::to_value(T::default()) else { return Err(wrong) };
    let mends = |(key, value): (&String, &Value)| {
        let mut other = table.clone();
        other.insert(key.clone(), value.clone());
        table.contains_key(key) && parse(&other).map_or_else(|e| e.to_string() != wrong, |_| true)
    };
    let culprit = defaults.iter().find(|pair| mends(*pair)).map(|(key, _)| key);
    Err(culprit.map_or_else(|| wrong.clone(), |key| format!("key `{key}`: {wrong}")))
}

/// An encoder's parameters, ready to be put into any number of plans.
#[derive(Clone, Debug)]
pub enum Model {
    /// A plain vision transformer.
    Vit(Vit),
    /// A Swin transformer.
    Swin(Swin),
}

impl Model {
    /// Adds the model's parameters to a layout, names prefixed with `prefix` (such as `encoder.`).
    pub fn declare(config: &ModelConfig, layout: &mut LayoutBuilder, prefix: &str) -> Result<Model, ModelError> {
        Ok(match config {
            ModelConfig::Vit(c) => Model::Vit(Vit::declare(c, layout, prefix)?),
            ModelConfig::Swin(c) => Model::Swin(Swin::declare(c, layout, prefix)?),
        })
    }

    /// The description it was made from.
    pub fn config(&self) -> ModelConfig {
        match self {
            Model::Vit(m) => ModelConfig::Vit(m.config().clone()),
            Model::Swin(m) => ModelConfig::Swin(m.config().clone()),
        }
    }

    /// Numbers the drop paths from `site` on: two models in one plan need numbers of their own, or they drop the same samples.
    pub fn with_first_site(self, site: u32) -> Model {
        match self {
            Model::Vit(m) => Model::Vit(m.with_first_site(site)),
            Model::Swin(m) => Model::Swin(m.with_first_site(site)),
        }
    }

    /// Of every block, keep only what it reads, and compute the rest again in the backward pass (activation checkpointing).
    pub fn with_recompute(self, recompute: bool) -> Model {
        match self {
            Model::Vit(m) => Model::Vit(m.with_recompute(recompute)),
            Model::Swin(m) => Model::Swin(m.with_recompute(recompute)),
        }
    }

    /// Describes the forward pass of `images` [B, in_chans, H, W].
    pub fn plan(&self, p: &mut Planner, images: Act, taps: Taps) -> Result<Features, ModelError> {
        match self {
            Model::Vit(m) => m.plan(p, images, taps),
            Model::Swin(m) => m.plan(p, images, taps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_a_preset_does_not() {
        let read = |text: &str| serde_json::from_str::<ModelConfig>(text);
        let ModelConfig::Vit(vit) = read(r#"{"preset": "vit-small", "img_size": [336, 336]}"#).unwrap() else { panic!("a ViT") };
        assert_eq!((vit.img_size, vit.embed_dim), ((336, 336), 384));
        let ModelConfig::Swin(swin) = read(r#"{"preset": "swinv2-t", "window_size": 8, "img_size": [256, 256]}"#).unwrap() else {
            panic!("a Swin")
        };
        assert_eq!((swin.window_size, swin.embed_dim), (8, 96));
        for (wrong, word) in [
            (r#"{"preset": "vit-smal"}"#, "vit-small"),
            (r#"{"preset": "vit-small", "depths": [2]}"#, "depths"),
            (r#"{"preset": "swin-t", "depth": 2}"#, "depth"),
            (r#"{"kind": "resnet"}"#, "`kind`"),
            (r#"{"preset": "swin-t", "window_size": "large"}"#, "key `window_size`: invalid type"),
            (r#"{"preset": "vit-base", "position": 7}"#, "key `position`"),
            (r#"{"preset": 3}"#, "preset"),
        ] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains(word), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for config in [preset("clip-vit-b-16").unwrap(), preset("swinv2-g").unwrap(), preset("dinov2-s").unwrap()] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), config, "{text}");
        }
    }
}
