//! The keyword arguments of the official Swins.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::kwargs::Size;
use super::refuse;
use crate::{BiasOutput, Coordinates, Head, ModelError, QkvBias, SwinAttention, SwinConfig, SwinPosition, SwinVersion};

/// The keyword arguments of both Swins, with their defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SwinKwargs {
    img_size: Size,
    patch_size: usize,
    in_chans: usize,
    num_classes: usize,
    embed_dim: usize,
    depths: Vec<usize>,
    num_heads: Vec<usize>,
    window_size: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    drop_path_rate: f64,
    ape: bool,
    patch_norm: bool,
    // Version 2.
    use_shared_rel_pos_bias: bool,
    relative_coords_table_type: String,
    rpe_hidden_dim: usize,
    rpe_output_type: String,
    attn_type: String,
    endnorm_interval: i64,
    use_mlp_norm_layers: Vec<usize>,
    init_values: f64,
    #[serde(rename = "init_std")]
    _init_std: Option<IgnoredAny>,
    #[serde(rename = "fix_init")]
    _fix_init: Option<IgnoredAny>,
    #[serde(rename = "rpe_wd")]
    _rpe_wd: Option<IgnoredAny>,
    #[serde(rename = "use_checkpoint")]
    _use_checkpoint: Option<IgnoredAny>,
}

impl Default for SwinKwargs {
    fn default() -> Self {
        Self {
            img_size: Size::Square(224),
            patch_size: 4,
            in_chans: 3,
            num_classes: 1000,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
            drop_path_rate: 0.1,
            ape: false,
            patch_norm: true,
            use_shared_rel_pos_bias: false,
            relative_coords_table_type: "norm8_log".into(),
            rpe_hidden_dim: 512,
            rpe_output_type: "sigmoid".into(),
            attn_type: "cosine_mh".into(),
            endnorm_interval: -1,
            use_mlp_norm_layers: vec![],
            init_values: 1e-5,
            _init_std: None,
            _fix_init: None,
            _rpe_wd: None,
            _use_checkpoint: None,
        }
    }
}

fn sized(k: &SwinKwargs, base: SwinConfig) -> SwinConfig {
    SwinConfig {
        img_size: k.img_size.sides(),
        patch_size: k.patch_size,
        in_chans: k.in_chans,
        embed_dim: k.embed_dim,
        depths: k.depths.clone(),
        num_heads: k.num_heads.clone(),
        window_size: k.window_size,
        mlp_ratio: k.mlp_ratio,
        absolute_position: k.ape,
        patch_norm: k.patch_norm,
        head: if k.num_classes == 0 { Head::Features } else { Head::MeanPool },
        num_classes: k.num_classes,
        drop_path_rate: k.drop_path_rate,
        ..base
    }
}

/// The configuration of a Swin v1.
pub(super) fn version_1(case: &str, k: SwinKwargs) -> Result<SwinConfig, ModelError> {
    if k.use_shared_rel_pos_bias || k.endnorm_interval > 0 || !k.use_mlp_norm_layers.is_empty() {
        return Err(refuse(case, "an option of Swin v2 in the arguments of Swin v1"));
    }
    let qkv_bias = if k.qkv_bias { QkvBias::Full } else { QkvBias::None };
    Ok(SwinConfig { qkv_bias, ..sized(&k, SwinConfig::default()) })
}

/// The configuration of a Swin v2.
pub(super) fn version_2(case: &str, k: SwinKwargs) -> Result<SwinConfig, ModelError> {
    let unknown = |key: &str, value: &str| refuse(case, format!("`{key}` is {value:?}"));
    let mut config = SwinConfig {
        version: SwinVersion::V2,
        qkv_bias: if k.qkv_bias { QkvBias::Qv } else { QkvBias::None },
        shared_position: k.use_shared_rel_pos_bias,
        rpe_hidden_dim: k.rpe_hidden_dim,
        init_norm: k.init_values,
        end_norm_interval: usize::try_from(k.endnorm_interval).unwrap_or(0),
        mlp_norm_stages: k.use_mlp_norm_layers.iter().map(|s| s + 1).collect(),
        ..sized(&k, SwinConfig::version_2())
    };
    config.attention = match k.attn_type.as_str() {
        "cosine_mh" => SwinAttention::Cosine,
        "normal" => SwinAttention::Scaled,
        other => return Err(unknown("attn_type", other)),
    };
    config.bias_output = match k.rpe_output_type.as_str() {
        "sigmoid" => BiasOutput::Sigmoid,
        "normal" => BiasOutput::Plain,
        other => return Err(unknown("rpe_output_type", other)),
    };
    match k.relative_coords_table_type.as_str() {
        "norm8_log" => {}
        "linear" => config.coordinates = Coordinates::Linear,
        "none" => config.position = SwinPosition::Table,
        // Offsets measured by the window of the pretraining: sides of 12 and 6 (16 and 8) at the image size that is named first.
        text => {
            let (from, _) = text
                .strip_prefix("norm8_log_")
                .and_then(|t| t.split_once("to"))
                .ok_or_else(|| unknown("relative_coords_table_type", text))?;
            let pretrained: usize = match from {
                "192" => 12,
                "256" => 16,
                _ => return Err(unknown("relative_coords_table_type", text)),
            };
            let stages = 0..config.depths.len();
            let whole = config.window_size;
            config.pretrained_windows = stages
                .map(|s| match config.window_of(config.map_of(s)) {
                    side if side == whole => Ok(pretrained),
                    side if 2 * side == whole => Ok(pretrained / 2),
                    side => Err(refuse(case, format!("`{text}` says nothing of windows of {side}"))),
                })
                .collect::<Result<_, _>>()?;
        }
    }
    Ok(config)
}
