//! Which weights a model has: their official names and shapes.

use std::collections::BTreeMap;

use crate::{Head, ModelError, Position, QkvBias, VitConfig};

/// Named in errors: these weights come from memory.
const SOURCE: &str = "weights of the reference";

/// Rows of a relative position bias table: one for each offset between two patches, and three for CLS.
pub(super) fn table_rows(config: &VitConfig) -> usize {
    let (h, w) = config.grid();
    (2 * h - 1) * (2 * w - 1) + if config.cls_token { 3 } else { 0 }
}

/// Every weight of the model of `config` by its official name, with its shape as in the official state dict: linear layers are
/// [out, in], the patch embedding is a convolution [C, c, p, p]. `config` has passed [`VitConfig::check`].
pub fn shapes(config: &VitConfig) -> BTreeMap<String, Vec<usize>> {
    let (width, hidden, p) = (config.embed_dim, config.hidden_dim(), config.patch_size);
    let table = vec![table_rows(config), config.num_heads];
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>| shapes.insert(name, shape);

    if config.cls_token {
        add("cls_token".into(), vec![1, 1, width]);
    }
    if config.position.absolute() {
        add("pos_embed".into(), vec![1, config.tokens(), width]);
    }
    if config.position.shared() {
        add("rel_pos_bias.relative_position_bias_table".into(), table.clone());
    }
    add("patch_embed.proj.weight".into(), vec![width, config.in_chans, p, p]);
    add("patch_embed.proj.bias".into(), vec![width]);

    for i in 0..config.depth {
        let mut add = |name: &str, shape: Vec<usize>| add(format!("blocks.{i}.{name}"), shape);
        for norm in ["norm1", "norm2"] {
            add(&format!("{norm}.weight"), vec![width]);
            add(&format!("{norm}.bias"), vec![width]);
        }
        add("attn.qkv.weight", vec![3 * width, width]);
        let biases: &[&str] = match config.qkv_bias {
            QkvBias::Full => &["qkv.bias"],
            QkvBias::Qv => &["q_bias", "v_bias"],
            QkvBias::Qkv => &["q_bias", "k_bias", "v_bias"],
            QkvBias::None => &[],
        };
        for bias in biases {
            add(&format!("attn.{bias}"), vec![if *bias == "qkv.bias" { 3 * width } else { width }]);
        }
        if config.position.relative() {
            add("attn.relative_position_bias_table", table.clone());
        }
        for (layer, outputs, inputs) in [("attn.proj", width, width), ("mlp.fc1", hidden, width), ("mlp.fc2", width, hidden)] {
            add(&format!("{layer}.weight"), vec![outputs, inputs]);
            add(&format!("{layer}.bias"), vec![outputs]);
        }
        if config.layer_scale.is_some() {
            add("gamma_1", vec![width]);
            add("gamma_2", vec![width]);
        }
    }

    let norm = if config.head == Head::MeanPool { "fc_norm" } else { "norm" };
    add(format!("{norm}.weight"), vec![width]);
    add(format!("{norm}.bias"), vec![width]);
    if config.head != Head::Features {
        add("head.weight".into(), vec![config.num_classes, width]);
        add("head.bias".into(), vec![config.num_classes]);
    }
    shapes
}

/// Refuses what is not exactly the model's: a tensor too few, one too many (a weight that nobody reads is a model that is not the
/// one meant), one of another shape. `source` is named in the message.
///
/// # Errors
/// A configuration that cannot be built; [`ModelError::Missing`], [`ModelError::Shape`], [`ModelError::Unexpected`].
pub fn check_shapes(config: &VitConfig, source: &str, found: &BTreeMap<String, Vec<usize>>) -> Result<(), ModelError> {
    config.check()?;
    let beyond = [
        ("reg_tokens", config.reg_tokens > 0),
        ("pre_norm", config.pre_norm),
        ("patch_bias", !config.patch_bias),
        ("proj_dim", config.proj_dim.is_some()),
        ("position", config.position == Position::SinCos),
    ];
    if let Some((key, _)) = beyond.into_iter().find(|(_, has)| *has) {
        return Err(ModelError::Config { key, why: "the reference in dfdx is without it".into() });
    }
    let expected = shapes(config);
    for (name, shape) in &expected {
        let Some(found) = found.get(name) else {
            return Err(ModelError::Missing { file: source.into(), tensor: name.clone() });
        };
        if found != shape {
            return Err(ModelError::Shape { file: source.into(), tensor: name.clone(), expected: shape.clone(), found: found.clone() });
        }
    }
    match found.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(ModelError::Unexpected { file: source.into(), tensor: name.clone() }),
        None => Ok(()),
    }
}

/// [`check_shapes`] for weights in memory, whose values must also be as many as their shape says.
pub(super) fn check(config: &VitConfig, weights: &BTreeMap<String, (Vec<usize>, Vec<f64>)>) -> Result<(), ModelError> {
    check_shapes(config, SOURCE, &weights.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect())?;
    match weights.iter().find(|(_, (shape, values))| shape.iter().product::<usize>() != values.len()) {
        Some((name, (shape, values))) => {
            let why = format!("tensor `{name}` of shape {shape:?} comes with {} values", values.len());
            Err(ModelError::File { file: SOURCE.into(), why })
        }
        None => Ok(()),
    }
}
