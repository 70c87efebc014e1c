//! Initial values.

use fd_compute::{Layout, Params, Stream};
use serde::{Deserialize, Serialize};

use crate::{VitConfig, sin_cos};

/// How parameters start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// The official distillation code's: normal of standard deviation 0.02 cut at ±0.02, `attn.proj` and `mlp.fc2` of block i divided by
    /// √(2(i+1)); relative tables zero.
    Official,
    /// Xavier uniform weights, absolute positions from half the two-dimensional sine and cosine table: for small models, whose weights
    /// a standard deviation of 0.02 would drown.
    Xavier,
}

/// Sets all parameters of a layout whose names start with `prefix`. A parameter's values depend on (seed, its name) only.
pub fn initialise(params: &mut Params, prefix: &str, config: &VitConfig, init: Init, seed: u64) {
    let layout = params.layout().clone();
    for p in layout.iter() {
        if let Some(name) = layout.name(p).strip_prefix(prefix) {
            let values = initial_values(&layout, layout.shape(p), name, config, init, seed);
            params.set(p, &values);
        }
    }
}

fn initial_values(_: &Layout, shape: &[usize], name: &str, config: &VitConfig, init: Init, seed: u64) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let mut stream = Stream::named(seed, name);
    let one_dimensional = shape.len() == 1;
    if name.ends_with("gamma_1") || name.ends_with("gamma_2") {
        return vec![config.layer_scale.unwrap_or(1.0); n];
    }
    if one_dimensional || name.ends_with("relative_position_bias_table") {
        let norm = name.contains("norm") && name.ends_with("weight");
        return vec![if norm { 1.0 } else { 0.0 }; n];
    }
    let depth_scale = residual_block(name).map_or(1.0, |i| (2.0 * (i as f64 + 1.0)).sqrt().recip());
    match (init, name) {
        (Init::Xavier, "pos_embed") => {
            let lead = usize::from(config.cls_token) * config.embed_dim;
            let table = sin_cos(config.grid(), config.embed_dim);
            std::iter::repeat_n(0.0, lead).chain(table.into_iter().map(|v| 0.5 * v)).collect()
        }
        (Init::Xavier, _) if name != "cls_token" => {
            let (out, inputs) = (shape[0], shape[1..].iter().product::<usize>());
            let limit = (6.0 / (out + inputs) as f64).sqrt();
            (0..n).map(|_| (2.0 * stream.uniform() - 1.0) * limit).collect()
        }
        _ => (0..n).map(|_| 0.02 * stream.truncated_normal(1.0) * depth_scale).collect(),
    }
}

/// The block whose residual branch this weight closes.
fn residual_block(name: &str) -> Option<usize> {
    let (index, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    matches!(rest, "attn.proj.weight" | "mlp.fc2.weight").then(|| index.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Head, Position, QkvBias, Vit};
    use fd_compute::DType;

    #[test]
    fn official_statistics() {
        let config = VitConfig {
            img_size: (16, 16),
            patch_size: 4,
            in_chans: 3,
            embed_dim: 64,
            depth: 3,
            num_heads: 2,
            mlp_ratio: 4.0,
            position: Position::SharedRelative,
            qkv_bias: QkvBias::Qv,
            layer_scale: Some(0.1),
            cls_token: true,
            activation: Activation::Gelu,
            ln_eps: 1e-6,
            head: Head::Features,
            num_classes: 0,
            drop_path_rate: 0.0,
        };
        let mut layout = Layout::builder();
        Vit::declare(&config, &mut layout, "").unwrap();
        let layout = layout.finish();
        let mut params = Params::new(&layout, DType::F32);
        initialise(&mut params, "", &config, Init::Official, 3);
        let of = |name: &str| params.to_f64(layout.find(name).unwrap());
        let std = |v: &[f64]| (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64).sqrt();
        // A standard normal cut at ±1 has standard deviation 0.5396.
        let qkv = of("blocks.2.attn.qkv.weight");
        assert!((std(&qkv) / 0.02 - 0.5396).abs() < 0.01 && qkv.iter().all(|x| x.abs() <= 0.02));
        assert!((std(&of("blocks.2.mlp.fc2.weight")) * 6f64.sqrt() / 0.02 - 0.5396).abs() < 0.01);
        assert!(of("blocks.1.gamma_2").iter().all(|&g| (g - 0.1).abs() < 1e-8));
        assert!(of("norm.weight").iter().all(|&w| w == 1.0) && of("norm.bias").iter().all(|&b| b == 0.0));
        assert_ne!(of("blocks.0.attn.qkv.weight"), of("blocks.1.attn.qkv.weight"));
    }
}
