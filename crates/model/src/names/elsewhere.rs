//! How the classes elsewhere are built that exported weights are for.

use serde_json::{Map, Value, json};

use super::Naming;
use crate::{Activation, ModelConfig, Position, QkvBias, SwinConfig, SwinVersion, VitConfig};

/// Python that builds the class and loads `file` strictly; none for code that is no package.
pub fn python(model: &ModelConfig, naming: Naming, file: &str) -> Option<String> {
    let built = match (model, naming) {
        (ModelConfig::Vit(c), Naming::Timm | Naming::Official) => timm_vit(c),
        (ModelConfig::Swin(c), Naming::TimmSwin) => timm_swin(c),
        (_, Naming::Hf | Naming::HfDinoV2 | Naming::HfClip | Naming::HfSwin) => {
            let class = huggingface_config(model, naming)?["architectures"][0].as_str()?.to_string();
            let pooler = if matches!(naming, Naming::Hf | Naming::HfSwin) { ", add_pooling_layer=False" } else { "" };
            return Some(format!("from transformers import {class}\nmodel = {class}.from_pretrained({file:?}{pooler})"));
        }
        _ => return None,
    };
    let (module, class, keywords) = built;
    let keywords = keywords.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ");
    Some(format!(
        "from functools import partial\nfrom safetensors.torch import load_file\nfrom timm.models.{module} import {class}\nimport torch.nn as nn\n\
         model = {class}({keywords})\nmodel.load_state_dict(load_file({file:?}), strict=True)"
    ))
}

type Built = (&'static str, &'static str, Vec<(&'static str, String)>);

fn pair((h, w): (usize, usize)) -> String {
    format!("({h}, {w})")
}

fn truth(so: bool) -> String {
    String::from(if so { "True" } else { "False" })
}

fn some(value: Option<f64>) -> String {
    value.map_or("None".into(), |v| v.to_string())
}

fn norm(eps: f64) -> String {
    format!("partial(nn.LayerNorm, eps={eps})")
}

fn timm_vit(c: &VitConfig) -> Built {
    let mut keywords = vec![
        ("img_size", pair(c.img_size)),
        ("patch_size", c.patch_size.to_string()),
        ("in_chans", c.in_chans.to_string()),
        ("num_classes", c.proj_dim.unwrap_or(c.num_classes).to_string()),
        ("embed_dim", c.embed_dim.to_string()),
        ("depth", c.depth.to_string()),
        ("num_heads", c.num_heads.to_string()),
        ("mlp_ratio", c.mlp_ratio.to_string()),
        ("qkv_bias", truth(c.qkv_bias != QkvBias::None)),
        ("init_values", some(c.layer_scale)),
        ("norm_layer", norm(c.ln_eps)),
        // A classifier of ours averages the patches.
        ("global_pool", if c.num_classes > 0 && c.head == crate::Head::MeanPool { "'avg'" } else { "'token'" }.into()),
    ];
    let relative = c.position.relative() || c.position.shared();
    if relative || c.qkv_bias != QkvBias::Full {
        keywords.push(("use_abs_pos_emb", truth(c.position.absolute())));
        keywords.push(("use_rel_pos_bias", truth(c.position.relative())));
        keywords.push(("use_shared_rel_pos_bias", truth(c.position.shared())));
        return ("beit", "Beit", keywords);
    }
    keywords.push(("class_token", truth(c.cls_token)));
    keywords.push(("reg_tokens", c.reg_tokens.to_string()));
    keywords.push(("no_embed_class", truth(c.reg_tokens > 0)));
    keywords.push(("pre_norm", truth(c.pre_norm)));
    if c.position == Position::None {
        keywords.push(("pos_embed", "'none'".into()));
    }
    if c.activation == Activation::QuickGelu {
        keywords.push(("act_layer", "'quick_gelu'".into()));
    }
    ("vision_transformer", "VisionTransformer", keywords)
}

fn timm_swin(c: &SwinConfig) -> Built {
    let v2 = c.version == SwinVersion::V2;
    let list = |values: &[usize]| format!("({},)", values.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
    let mut keywords = vec![
        ("img_size", pair(c.img_size)),
        ("patch_size", c.patch_size.to_string()),
        ("in_chans", c.in_chans.to_string()),
        ("num_classes", c.num_classes.to_string()),
        ("embed_dim", c.embed_dim.to_string()),
        ("depths", list(&c.depths)),
        ("num_heads", list(&c.num_heads)),
        ("window_size", c.window_size.to_string()),
        ("mlp_ratio", c.mlp_ratio.to_string()),
        ("qkv_bias", truth(c.qkv_bias != QkvBias::None)),
        ("norm_layer", norm(c.ln_eps)),
    ];
    if v2 {
        keywords.push(("pretrained_window_sizes", list(&windows_of(c))));
    }
    if v2 { ("swin_transformer_v2", "SwinTransformerV2", keywords) } else { ("swin_transformer", "SwinTransformer", keywords) }
}

/// The windows that each stage's position MLP was pretrained with; 0: its own.
fn windows_of(c: &SwinConfig) -> Vec<usize> {
    (0..c.depths.len()).map(|s| c.pretrained_windows.get(s).copied().unwrap_or(0)).collect()
}

/// The `config.json` that belongs to weights in transformers' names.
pub fn huggingface_config(model: &ModelConfig, naming: Naming) -> Option<Value> {
    let (h, w) = model.img_size();
    let image_size = if h == w { json!(h) } else { json!([h, w]) };
    let mut table = Map::new();
    let mut set = |key: &str, value: Value| drop(table.insert(key.into(), value));
    set("image_size", image_size);
    set("patch_size", json!(model.patch_size()));
    set("num_channels", json!(model.in_chans()));
    let (class, kind) = match model {
        ModelConfig::Vit(c) => {
            set("hidden_size", json!(c.embed_dim));
            set("num_hidden_layers", json!(c.depth));
            set("num_attention_heads", json!(c.num_heads));
            set("layer_norm_eps", json!(c.ln_eps));
            set("hidden_act", json!(if c.activation == Activation::QuickGelu { "quick_gelu" } else { "gelu" }));
            set("intermediate_size", json!(c.hidden_dim()));
            set("qkv_bias", json!(c.qkv_bias != QkvBias::None));
            huggingface_vit(c, naming, &mut set)?
        }
        ModelConfig::Swin(c) => {
            set("embed_dim", json!(c.embed_dim));
            set("depths", json!(c.depths));
            set("num_heads", json!(c.num_heads));
            set("window_size", json!(c.window_size));
            set("mlp_ratio", json!(c.mlp_ratio));
            set("qkv_bias", json!(c.qkv_bias != QkvBias::None));
            set("layer_norm_eps", json!(c.ln_eps));
            set("use_absolute_embeddings", json!(c.absolute_position));
            if c.version == SwinVersion::V2 {
                set("pretrained_window_sizes", json!(windows_of(c)));
            }
            if c.version == SwinVersion::V2 { ("Swinv2Model", "swinv2") } else { ("SwinModel", "swin") }
        }
    };
    table.insert("architectures".into(), json!([class]));
    table.insert("model_type".into(), json!(kind));
    table.insert("torch_dtype".into(), json!("float32"));
    Some(Value::Object(table))
}

/// The class and its keys beside those that all ViTs have.
fn huggingface_vit(c: &VitConfig, naming: Naming, set: &mut impl FnMut(&str, Value)) -> Option<(&'static str, &'static str)> {
    let relative = c.position.relative() || c.position.shared();
    Some(match naming {
        Naming::HfClip => {
            set("projection_dim", json!(c.proj_dim.unwrap_or(c.embed_dim)));
            let class = if c.proj_dim.is_some() { "CLIPVisionModelWithProjection" } else { "CLIPVisionModel" };
            (class, "clip_vision_model")
        }
        Naming::HfDinoV2 => {
            // transformers holds this one to be a whole number.
            set("mlp_ratio", if c.mlp_ratio.fract() == 0.0 { json!(c.mlp_ratio as u64) } else { json!(c.mlp_ratio) });
            set("layerscale_value", json!(c.layer_scale?));
            if c.reg_tokens == 0 {
                ("Dinov2Model", "dinov2")
            } else {
                set("num_register_tokens", json!(c.reg_tokens));
                ("Dinov2WithRegistersModel", "dinov2_with_registers")
            }
        }
        Naming::Hf if relative || c.qkv_bias != QkvBias::Full || c.layer_scale.is_some() => {
            set("use_absolute_position_embeddings", json!(c.position.absolute()));
            set("use_relative_position_bias", json!(c.position.relative()));
            set("use_shared_relative_position_bias", json!(c.position.shared()));
            set("layer_scale_init_value", json!(c.layer_scale.unwrap_or(0.0)));
            set("use_mean_pooling", json!(false));
            set("use_mask_token", json!(false));
            ("BeitModel", "beit")
        }
        Naming::Hf => ("ViTModel", "vit"),
        _ => return None,
    })
}
