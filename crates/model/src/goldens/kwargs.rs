//! From the official classes' keyword arguments to our configurations.

use std::collections::BTreeMap;

use fd_compute::Layout;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Part, Tensors, refuse, swin_kwargs};
use crate::names::{Foreign, Naming};
use crate::presets::clip_options;
use crate::{Activation, Head, Model, ModelConfig, ModelError, Position, QkvBias, VitConfig};

/// A golden case's model: what it is, and what its file calls the parameters.
#[derive(Clone, Debug)]
pub struct GoldenModel {
    /// The architecture.
    pub config: ModelConfig,
    /// Whose names the weights have, behind `prefix`.
    pub naming: Naming,
    /// What stands before the names of the weights.
    pub prefix: String,
}

/// The official ViT's keyword arguments with the official defaults, both for distillation and for fine-tuning.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StudentKwargs {
    img_size: Size,
    patch_size: usize,
    in_chans: usize,
    num_classes: Option<usize>,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    with_k_bias: bool,
    drop_path_rate: f64,
    init_values: Option<f64>,
    use_abs_pos_emb: bool,
    use_rel_pos_bias: bool,
    use_shared_rel_pos_bias: bool,
    use_mean_pooling: Option<bool>,
    with_cls_token: bool,
}

impl Default for StudentKwargs {
    fn default() -> Self {
        Self {
            img_size: Size::Square(224),
            patch_size: 16,
            in_chans: 3,
            num_classes: None,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            qkv_bias: false,
            with_k_bias: false,
            drop_path_rate: 0.0,
            init_values: None,
            use_abs_pos_emb: true,
            use_rel_pos_bias: false,
            use_shared_rel_pos_bias: false,
            use_mean_pooling: None,
            with_cls_token: true,
        }
    }
}

/// The keyword arguments of the DINO and DeiT teachers' class, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TeacherKwargs {
    img_size: Size,
    patch_size: usize,
    in_chans: usize,
    num_classes: usize,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    drop_path_rate: f64,
}

impl Default for TeacherKwargs {
    fn default() -> Self {
        Self {
            img_size: Size::Square(224),
            patch_size: 16,
            in_chans: 3,
            num_classes: 1000,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            qkv_bias: true,
            drop_path_rate: 0.0,
        }
    }
}

/// The keyword arguments of CLIP's visual transformer, all of which it needs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClipKwargs {
    input_resolution: Size,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    output_dim: usize,
}

/// An image's side, or its height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Square(usize),
    Rectangle(usize, usize),
}

impl Size {
    pub fn sides(self) -> (usize, usize) {
        match self {
            Size::Square(side) => (side, side),
            Size::Rectangle(height, width) => (height, width),
        }
    }
}

/// The configuration of a golden case's model, from the keyword arguments in its JSON.
///
/// The class is named by the JSON's `cls`; of a distillation (`FD(PRED_FEAT=..)`) the teacher's family is what `PRED_FEAT` says, the
/// student's what its arguments say. The result is held against the names and shapes of the model's tensors, so that no option goes
/// unnoticed.
///
/// # Errors
/// A class that is not one of these; a keyword argument that is not known, named; arguments that our configurations cannot say; tensors
/// that are not those of the model described.
pub fn config_from_kwargs(json: &Value, part: Part, tensors: &Tensors) -> Result<GoldenModel, ModelError> {
    let case = json["case"].as_str().unwrap_or("golden case");
    let mut model = GoldenModel { config: read(case, json, part)?, naming: Naming::Official, prefix: part.prefix().to_owned() };
    if matches!(family(case, json, part)?, Family::ClipVisual) {
        model.naming = Naming::Clip;
        // A teacher is the whole of CLIP, of which we have the visual half.
        model.prefix += if part == Part::Teacher { "visual." } else { "" };
    }
    let eps = json.get("ln_eps").map(|eps| eps.as_f64().ok_or_else(|| refuse(case, format!("`ln_eps` is {eps}, expected a number"))));
    let eps = eps.transpose()?;
    match &mut model.config {
        ModelConfig::Vit(c) => {
            c.ln_eps = eps.unwrap_or(c.ln_eps);
            c.activation = activation(case, json, c.activation)?;
        }
        ModelConfig::Swin(c) => {
            c.ln_eps = eps.unwrap_or(c.ln_eps);
            if activation(case, json, Activation::Gelu)? != Activation::Gelu {
                return Err(refuse(case, "`gelu`: a Swin has the exact one"));
            }
        }
    }
    model.check_shapes(case, part, tensors)?;
    Ok(model)
}

/// Which official class.
enum Family {
    VitForFd,
    VitClassifier,
    Teacher,
    ClipVisual,
    SwinV1,
    SwinV2,
}

fn family(case: &str, json: &Value, part: Part) -> Result<Family, ModelError> {
    let class = json["cls"].as_str().unwrap_or_default();
    let swin = json[part.key()].get("depths").is_some();
    match part {
        Part::Student => Ok(if swin { Family::SwinV2 } else { Family::VitForFd }),
        Part::Teacher if swin => Ok(Family::SwinV1),
        Part::Teacher if json[part.key()].get("input_resolution").is_some() => Ok(Family::ClipVisual),
        Part::Teacher => Ok(Family::Teacher),
        Part::Model => match class {
            c if c.contains("WarpperVisionTransformer") => Ok(Family::Teacher),
            c if c.contains("VisionTransformerForFD") => Ok(Family::VitForFd),
            c if c.contains("models.vision_transformer.VisionTransformer") => Ok(Family::VitClassifier),
            c if c.contains("clip.model.VisionTransformer") => Ok(Family::ClipVisual),
            c if c.contains("SwinV2ForFD") || c.contains("SwinTransformerV2") => Ok(Family::SwinV2),
            c if c.contains("SwinTransformer") => Ok(Family::SwinV1),
            _ => Err(refuse(case, format!("`cls` is {class:?}, not one of the transformers we have"))),
        },
    }
}

fn read(case: &str, json: &Value, part: Part) -> Result<ModelConfig, ModelError> {
    Ok(match family(case, json, part)? {
        Family::VitForFd => student(case, kwargs(case, json, part)?, false)?.into(),
        Family::VitClassifier => student(case, kwargs(case, json, part)?, true)?.into(),
        Family::Teacher => teacher(kwargs(case, json, part)?).into(),
        Family::ClipVisual => clip(kwargs(case, json, part)?).into(),
        Family::SwinV1 => swin_kwargs::version_1(case, kwargs(case, json, part)?)?.into(),
        Family::SwinV2 => swin_kwargs::version_2(case, kwargs(case, json, part)?)?.into(),
    })
}

fn activation(case: &str, json: &Value, otherwise: Activation) -> Result<Activation, ModelError> {
    match json.get("gelu").map(|gelu| gelu.as_str().unwrap_or_default()) {
        None => Ok(otherwise),
        Some("erf") => Ok(Activation::Gelu),
        Some(quick) if quick.starts_with("quick") => Ok(Activation::QuickGelu),
        Some(other) => Err(refuse(case, format!("`gelu` is {other:?}, expected \"erf\" or \"quick\""))),
    }
}

fn kwargs<K: DeserializeOwned>(case: &str, json: &Value, part: Part) -> Result<K, ModelError> {
    let given = json.get(part.key()).ok_or_else(|| refuse(case, format!("`{}` is missing", part.key())))?;
    let class = json["cls"].as_str().unwrap_or_default();
    K::deserialize(given).map_err(|e| refuse(case, format!("`{}` of {class}: {e}", part.key())))
}

impl GoldenModel {
    /// What the file calls our parameter, its whole name in the place of the other code's, and how it is stored.
    ///
    /// # Errors
    /// A parameter that the other code does not have.
    pub fn foreign(&self, case: &str, name: &str) -> Result<(String, Foreign), ModelError> {
        let foreign = self.naming.of(name).ok_or_else(|| refuse(case, format!("{:?} has no `{name}`", self.naming)))?;
        Ok((format!("{}{}", self.prefix, foreign.name()), foreign))
    }

    /// The model's parameters are the file's tensors: none missing, none left, every one of the shape it should have.
    fn check_shapes(&self, case: &str, part: Part, tensors: &Tensors) -> Result<(), ModelError> {
        let mut layout = Layout::builder();
        Model::declare(&self.config, &mut layout, "")?;
        let layout = layout.finish();
        let prefix = part.prefix();
        let mut left: BTreeMap<&String, &(Vec<usize>, _)> = tensors.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
        for p in layout.iter() {
            let (name, foreign) = self.foreign(case, layout.name(p))?;
            let found = left.remove(&name);
            let tensor = name.strip_prefix(&self.prefix).unwrap_or(&name).to_owned();
            let Some((found, _)) = found else {
                return Err(ModelError::Missing { file: case.into(), tensor });
            };
            let expected = foreign.shape(layout.shape(p)).unwrap_or_default();
            if *found != expected {
                return Err(ModelError::Shape { file: case.into(), tensor, expected, found: found.clone() });
            }
        }
        // CLIP's text half lies beside the visual one.
        match left.keys().find_map(|name| name.strip_prefix(&self.prefix)) {
            Some(name) => Err(ModelError::Unexpected { file: case.into(), tensor: name.to_owned() }),
            None => Ok(()),
        }
    }
}

fn student(case: &str, k: StudentKwargs, classifier: bool) -> Result<VitConfig, ModelError> {
    let position = match (k.use_abs_pos_emb, k.use_rel_pos_bias, k.use_shared_rel_pos_bias) {
        (true, false, false) => Position::Absolute,
        (false, true, false) => Position::Relative,
        (false, false, true) => Position::SharedRelative,
        (true, true, false) => Position::AbsoluteRelative,
        (true, false, true) => Position::AbsoluteSharedRelative,
        (false, false, false) => Position::None,
        _ => return Err(refuse(case, "`use_rel_pos_bias` and `use_shared_rel_pos_bias` cannot both be true")),
    };
    let qkv_bias = match (k.qkv_bias, k.with_k_bias) {
        (true, false) => QkvBias::Qv,
        (true, true) => QkvBias::Qkv,
        (false, false) => QkvBias::None,
        // The official class then has a `k_bias` that it does not read.
        (false, true) => return Err(refuse(case, "`with_k_bias` needs `qkv_bias`")),
    };
    let (head, num_classes) = match (classifier, k.use_mean_pooling, k.num_classes) {
        (false, None | Some(false), None | Some(0)) => (Head::Features, 0),
        (false, ..) => return Err(refuse(case, "a student under distillation has no `num_classes` and no `use_mean_pooling`")),
        (true, None | Some(true), classes) => (Head::MeanPool, classes.unwrap_or(1000)),
        (true, Some(false), classes) => (Head::Cls, classes.unwrap_or(1000)),
    };
    Ok(VitConfig {
        img_size: k.img_size.sides(),
        patch_size: k.patch_size,
        in_chans: k.in_chans,
        embed_dim: k.embed_dim,
        depth: k.depth,
        num_heads: k.num_heads,
        mlp_ratio: k.mlp_ratio,
        position,
        qkv_bias,
        // The official class has no LayerScale for a value that is not positive.
        layer_scale: k.init_values.filter(|value| *value > 0.0),
        cls_token: k.with_cls_token,
        head,
        num_classes,
        drop_path_rate: k.drop_path_rate,
        ..VitConfig::default()
    })
}

fn teacher(k: TeacherKwargs) -> VitConfig {
    VitConfig {
        img_size: k.img_size.sides(),
        patch_size: k.patch_size,
        in_chans: k.in_chans,
        embed_dim: k.embed_dim,
        depth: k.depth,
        num_heads: k.num_heads,
        mlp_ratio: k.mlp_ratio,
        qkv_bias: if k.qkv_bias { QkvBias::Full } else { QkvBias::None },
        head: if k.num_classes == 0 { Head::Features } else { Head::Cls },
        num_classes: k.num_classes,
        drop_path_rate: k.drop_path_rate,
        ..VitConfig::default()
    }
}

fn clip(k: ClipKwargs) -> VitConfig {
    clip_options(VitConfig {
        img_size: k.input_resolution.sides(),
        patch_size: k.patch_size,
        embed_dim: k.width,
        depth: k.layers,
        num_heads: k.heads,
        proj_dim: Some(k.output_dim),
        ..VitConfig::default()
    })
}
