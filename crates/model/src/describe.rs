//! A model in words, and what a file of ours says about the model in it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::MOST_CHANNELS;
use crate::{Activation, Checkpoint, ModelConfig, ModelError, QkvBias, SwinVersion};

/// Key of a file's metadata: the architecture, in JSON.
const MODEL: &str = "model";
/// Key of a file's metadata: the channels' statistics, in JSON.
const NORMALISE: &str = "normalise";

/// Mean and standard deviation of an image's channels, on a scale of 0 to 1: a model is good for images normalised as in its training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// One mean a channel.
    pub mean: Vec<f32>,
    /// One standard deviation a channel.
    #[schemars(transform = each_above_zero)]
    pub std: Vec<f32>,
}

fn each_above_zero(schema: &mut schemars::Schema) {
    if let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut) {
        items.insert("exclusiveMinimum".into(), 0.0.into());
    }
}

impl Statistics {
    /// ImageNet's.
    pub fn imagenet() -> Statistics {
        Statistics { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// CLIP's.
    pub fn clip() -> Statistics {
        Statistics { mean: vec![0.481_454_66, 0.457_827_5, 0.408_210_73], std: vec![0.268_629_54, 0.261_302_6, 0.275_777_1] }
    }

    /// What models of this kind are usually trained with: CLIP's for CLIP's, ImageNet's for others; a half and a quarter for images that
    /// are not of three channels.
    pub fn usual(model: &ModelConfig) -> Statistics {
        match model {
            other if other.in_chans() != 3 => {
                let channels = other.in_chans().min(MOST_CHANNELS);
                Statistics { mean: vec![0.5; channels], std: vec![0.25; channels] }
            }
            ModelConfig::Vit(c) if c.pre_norm => Statistics::clip(),
            _ => Statistics::imagenet(),
        }
    }
}

impl Checkpoint {
    /// The same with its model's description in the metadata, by which [`Import`](crate::Import) knows it again.
    ///
    /// # Errors
    /// A description that JSON cannot say (a number that is not finite).
    pub fn described(mut self, model: &ModelConfig, normalise: Option<&Statistics>) -> Result<Checkpoint, ModelError> {
        let fail = |e: serde_json::Error| ModelError::Config { key: "model", why: format!("cannot be described: {e}") };
        self.metadata.insert(MODEL.into(), serde_json::to_string(model).map_err(fail)?);
        if let Some(normalise) = normalise {
            self.metadata.insert(NORMALISE.into(), serde_json::to_string(normalise).map_err(fail)?);
        }
        Ok(self)
    }
}

/// What a file's metadata say of its model.
pub(crate) fn stated(notes: &BTreeMap<String, String>) -> (Option<ModelConfig>, Option<Statistics>) {
    let model = notes.get(MODEL).and_then(|text| serde_json::from_str(text).ok());
    (model, notes.get(NORMALISE).and_then(|text| serde_json::from_str(text).ok()))
}

/// One line: the family, sizes, what is special.
pub fn summary(model: &ModelConfig) -> String {
    let (h, w) = model.img_size();
    match model {
        ModelConfig::Vit(c) => {
            let mut parts = vec![
                format!("ViT of {} blocks of width {}", c.depth, c.embed_dim),
                format!("{} heads", c.num_heads),
                format!("patches of {}", c.patch_size),
                format!("{h} x {w} pixels"),
            ];
            let position = serde_json::to_value(c.position).ok();
            parts.extend(position.and_then(|p| p.as_str().map(|p| format!("positions {p}"))));
            let mut option = |so: bool, text: &str| parts.extend(so.then(|| text.to_string()));
            option(!c.cls_token, "no CLS token");
            option(c.reg_tokens > 0, &format!("{} registers", c.reg_tokens));
            option(c.layer_scale.is_some(), "LayerScale");
            option(c.qkv_bias == QkvBias::Qv, "query and value biases");
            option(c.pre_norm, "a norm before the blocks");
            option(c.activation == Activation::QuickGelu, "QuickGELU");
            option(c.proj_dim.is_some(), &format!("a projection to {}", c.proj_dim.unwrap_or(0)));
            option(c.num_classes > 0, &format!("{} classes", c.num_classes));
            parts.join(", ")
        }
        ModelConfig::Swin(c) => {
            let version = if c.version == SwinVersion::V2 { "Swin v2" } else { "Swin v1" };
            let classes = if c.num_classes > 0 { format!(", {} classes", c.num_classes) } else { String::new() };
            format!(
                "{version} of {:?} blocks of width {}, {:?} heads, windows of {}, patches of {}, {h} x {w} pixels{classes}",
                c.depths, c.embed_dim, c.num_heads, c.window_size, c.patch_size
            )
        }
    }
}

/// Keys that weights do not depend on, or that say where training starts.
const NOT_OF_WEIGHTS: [&str; 4] = ["drop_path_rate", "layer_scale", "init_norm", "out_stage"];

/// Where two descriptions differ: (key, in the first, in the second), values in JSON.
pub fn differences(first: &ModelConfig, second: &ModelConfig) -> Vec<(String, String, String)> {
    let table = |model: &ModelConfig| match serde_json::to_value(model) {
        Ok(Value::Object(table)) => table,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (table(first), table(second));
    if first.kind() != second.kind() {
        return vec![("kind".into(), first.kind().into(), second.kind().into())];
    }
    let text = |value: Option<&Value>| value.map_or("not set".into(), Value::to_string);
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differs = |key: &&String| {
        let presence = key.as_str() == "layer_scale" && set(a.get(*key)) != set(b.get(*key));
        presence || !NOT_OF_WEIGHTS.contains(&key.as_str()) && a.get(*key) != b.get(*key)
    };
    keys.into_iter().filter(differs).map(|key| (key.clone(), text(a.get(key)), text(b.get(key)))).collect()
}

fn set(value: Option<&Value>) -> bool {
    value.is_some_and(|v| !v.is_null())
}
