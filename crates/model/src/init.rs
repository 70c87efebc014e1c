//! Initial values.

use fd_compute::{Params, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::swin::SwinVersion;
use crate::{ModelConfig, sin_cos};

/// How parameters start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// The official distillation code's: normal of standard deviation 0.02 cut at ±0.02, `attn.proj` and `mlp.fc2` of block i divided by
    /// √(2(i+1)); relative tables zero. A Swin's weights are not cut, its tables are normal too, and version 1 is not scaled down.
    Official,
    /// Xavier uniform weights, absolute positions from half the two-dimensional sine and cosine table: for small models, whose weights
    /// a standard deviation of 0.02 would drown.
    Xavier,
}

/// Sets all parameters of a layout whose names start with `prefix`. A parameter's values depend on (seed, its name) only.
pub fn initialise(params: &mut Params, prefix: &str, config: &ModelConfig, init: Init, seed: u64) {
    let layout = params.layout().clone();
    for p in layout.iter() {
        if let Some(name) = layout.name(p).strip_prefix(prefix) {
            let values = initial_values(layout.shape(p), name, config, init, seed);
            params.set(p, &values);
        }
    }
}

fn initial_values(shape: &[usize], name: &str, config: &ModelConfig, init: Init, seed: u64) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let mut stream = Stream::named(seed, name);
    if let Some(value) = fixed(shape, name, config) {
        return vec![value; n];
    }
    match (init, name) {
        (Init::Xavier, "pos_embed" | "absolute_pos_embed") => {
            let (grid, c) = (config.patches(), shape[shape.len() - 1]);
            let lead = n - grid.0 * grid.1 * c;
            let table = sin_cos(grid, c);
            std::iter::repeat_n(0.0, lead).chain(table.into_iter().map(|v| 0.5 * v)).collect()
        }
        (Init::Xavier, _)
            if !matches!(name, "cls_token" | "reg_token" | "mask_token") && !name.ends_with("relative_position_bias_table") =>
        {
            let (out, inputs) = (shape[0], shape[1..].iter().product::<usize>());
            let limit = (6.0 / (out + inputs) as f64).sqrt();
            (0..n).map(|_| (2.0 * stream.uniform() - 1.0) * limit).collect()
        }
        _ => {
            let depth_scale = residual_block(name, config).map_or(1.0, |i| (2.0 * (i as f64 + 1.0)).sqrt().recip());
            // The official ViT cuts at one standard deviation, the official Swin a hundred standard deviations out: never.
            let limit = if let ModelConfig::Vit(_) = config { 1.0 } else { f64::INFINITY };
            (0..n).map(|_| 0.02 * stream.truncated_normal(limit) * depth_scale).collect()
        }
    }
}

/// The value of a parameter that starts as a constant: norms, biases, scales, a ViT's relative tables.
fn fixed(shape: &[usize], name: &str, config: &ModelConfig) -> Option<f64> {
    let table = name.ends_with("relative_position_bias_table");
    match config {
        ModelConfig::Vit(c) if name.ends_with("gamma_1") || name.ends_with("gamma_2") => Some(c.layer_scale.unwrap_or(1.0)),
        ModelConfig::Vit(_) if table => Some(0.0),
        ModelConfig::Swin(_) if name.ends_with("logit_scale") => Some(10f64.ln()),
        ModelConfig::Swin(c) if ends_branch(name) && c.version == SwinVersion::V2 => Some(c.init_norm),
        _ if shape.len() == 1 => Some(if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 }),
        _ => None,
    }
}

fn ends_branch(name: &str) -> bool {
    name.ends_with("norm1.weight") || name.ends_with("norm2.weight")
}

/// The block whose residual branch this weight closes, where the official code scales it down; a Swin counts over its stages.
fn residual_block(name: &str, config: &ModelConfig) -> Option<usize> {
    let (before, name) = match config {
        ModelConfig::Vit(_) => (0, name),
        ModelConfig::Swin(c) if c.version == SwinVersion::V2 => {
            let (stage, rest) = name.strip_prefix("layers.")?.split_once('.')?;
            (c.depths.iter().take(stage.parse().ok()?).sum(), rest)
        }
        ModelConfig::Swin(_) => return None,
    };
    let (index, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let index: usize = index.parse().ok()?;
    matches!(rest, "attn.proj.weight" | "mlp.fc2.weight").then_some(before + index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Position, QkvBias, SwinConfig, VitConfig};
    use fd_compute::{DType, Layout};

    fn started(config: ModelConfig) -> impl Fn(&str) -> Vec<f64> {
        let mut layout = Layout::builder();
        Model::declare(&config, &mut layout, "").unwrap();
        let layout = layout.finish();
        let mut params = Params::new(&layout, DType::F32);
        initialise(&mut params, "", &config, Init::Official, 3);
        move |name: &str| params.to_f64(layout.find(name).unwrap())
    }

    fn std(v: &[f64]) -> f64 {
        (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64).sqrt()
    }

    #[test]
    fn official_statistics() {
        let config = VitConfig {
            img_size: (16, 16),
            patch_size: 4,
            embed_dim: 64,
            depth: 3,
            num_heads: 2,
            position: Position::SharedRelative,
            qkv_bias: QkvBias::Qv,
            layer_scale: Some(0.1),
            ..VitConfig::default()
        };
        let of = started(config.into());
        // A standard normal cut at ±1 has standard deviation 0.5396.
        let qkv = of("blocks.2.attn.qkv.weight");
        assert!((std(&qkv) / 0.02 - 0.5396).abs() < 0.01 && qkv.iter().all(|x| x.abs() <= 0.02));
        assert!((std(&of("blocks.2.mlp.fc2.weight")) * 6f64.sqrt() / 0.02 - 0.5396).abs() < 0.01);
        assert!(of("blocks.1.gamma_2").iter().all(|&g| (g - 0.1).abs() < 1e-8));
        assert!(of("norm.weight").iter().all(|&w| w == 1.0) && of("norm.bias").iter().all(|&b| b == 0.0));
        assert_ne!(of("blocks.0.attn.qkv.weight"), of("blocks.1.attn.qkv.weight"));
    }

    #[test]
    fn official_statistics_of_swins() {
        let small = |base: SwinConfig| SwinConfig {
            img_size: (32, 32),
            embed_dim: 64,
            depths: vec![2, 2],
            num_heads: vec![2, 4],
            window_size: 4,
            ..base
        };
        let of = started(small(SwinConfig::version_2()).into());
        let qkv = of("layers.0.blocks.1.attn.qkv.weight");
        assert!((std(&qkv) / 0.02 - 1.0).abs() < 0.02 && qkv.iter().any(|x| x.abs() > 0.05));
        // The fourth block of all.
        assert!((std(&of("layers.1.blocks.1.mlp.fc2.weight")) * 8f64.sqrt() / 0.02 - 1.0).abs() < 0.02);
        assert!(of("layers.0.blocks.0.norm1.weight").iter().all(|w| (w - 1e-5).abs() < 1e-11));
        assert!(of("layers.0.downsample.norm.weight").iter().chain(&of("norm.weight")).all(|w| *w == 1.0));
        assert!(of("layers.0.blocks.0.attn.logit_scale").iter().all(|t| (t - 10f64.ln()).abs() < 1e-6));
        let of = started(small(SwinConfig::default()).into());
        assert!((std(&of("layers.1.blocks.1.mlp.fc2.weight")) / 0.02 - 1.0).abs() < 0.02);
        assert!((std(&of("layers.0.blocks.0.attn.relative_position_bias_table")) / 0.02 - 1.0).abs() < 0.2);
        assert!(of("layers.0.blocks.0.norm1.weight").iter().all(|w| *w == 1.0));
    }
}
