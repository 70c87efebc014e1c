//! Golden vectors: weights, inputs, intermediates and gradients of small instances of the official classes, each computed once in
//! float64 by PyTorch. A case is `<case>.safetensors` with, beside it, `<case>.json`, which says how the class was built. Nothing
//! about a case is assumed: sizes and options are read from those keyword arguments and then held against the tensors.
//!
//! Tensor names: `w.` a weight (`w.encoder.` and `w.feature_model.` where a case has a student and a teacher), `in.` an input,
//! `out.` an intermediate, `g.` the gradient of `loss`, `buf.` a constant.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::reference::check_shapes;
use crate::{Activation, Head, ModelError, Position, QkvBias, VitConfig};

/// Name → (shape, values in row-major order), as [`crate::reference::Reference::new`] takes it.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Which model of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The only one: built from `kwargs`, weights under `w.`.
    Model,
    /// Of a distillation: built from `student`, weights under `w.encoder.`.
    Student,
    /// Of a distillation: built from `teacher`, weights under `w.feature_model.`.
    Teacher,
}

impl Part {
    /// Where the case's JSON says how the model was built.
    pub fn key(self) -> &'static str {
        match self {
            Part::Model => "kwargs",
            Part::Student => "student",
            Part::Teacher => "teacher",
        }
    }

    /// What stands before the official names of the model's weights.
    pub fn prefix(self) -> &'static str {
        match self {
            Part::Model => "w.",
            Part::Student => "w.encoder.",
            Part::Teacher => "w.feature_model.",
        }
    }
}

/// One case, read.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Its name, without an ending.
    pub case: String,
    /// What the case's JSON says.
    pub json: Value,
    /// Every tensor by its name in the file. Indices and float32 values are exact in f64.
    pub tensors: Tensors,
}

impl Golden {
    /// Reads `<folder>/<case>.json` and `<folder>/<case>.safetensors`.
    ///
    /// # Errors
    /// A file that cannot be read or is not what its name says; a tensor that is neither f32, f64 nor i64.
    pub fn read(folder: &Path, case: &str) -> Result<Self, ModelError> {
        let file = folder.join(format!("{case}.json"));
        let json: Value = serde_json::from_slice(&read(&file)?).map_err(|e| refuse(file.display(), e))?;
        let file = folder.join(format!("{case}.safetensors"));
        let bytes = read(&file)?;
        let file = file.display().to_string();
        let mut tensors = Tensors::new();
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(|e| refuse(&file, e))?.tensors() {
            let values = match view.dtype() {
                Dtype::F32 => numbers(view.data(), |b| f64::from(f32::from_le_bytes(b))),
                Dtype::F64 => numbers(view.data(), f64::from_le_bytes),
                Dtype::I64 => numbers(view.data(), |b| i64::from_le_bytes(b) as f64),
                other => return Err(ModelError::DType { file, tensor: name, found: format!("{other:?}") }),
            };
            tensors.insert(name, (view.shape().to_vec(), values));
        }
        Ok(Self { case: case.to_owned(), json, tensors })
    }

    /// A tensor's values.
    ///
    /// # Errors
    /// [`ModelError::Missing`].
    pub fn values(&self, tensor: &str) -> Result<&[f64], ModelError> {
        match self.tensors.get(tensor) {
            Some((_, values)) => Ok(values),
            None => Err(ModelError::Missing { file: self.case.clone(), tensor: tensor.to_owned() }),
        }
    }

    /// What is called `<prefix><name>`, by `name`.
    pub fn below(&self, prefix: &str) -> Tensors {
        let strip = |(name, tensor): (&String, &(_, _))| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The model's weights by their official names.
    pub fn weights(&self, part: Part) -> Tensors {
        self.below(part.prefix())
    }

    /// The model's configuration: [`config_from_kwargs`].
    ///
    /// # Errors
    /// Those of [`config_from_kwargs`].
    pub fn config(&self, part: Part) -> Result<VitConfig, ModelError> {
        config_from_kwargs(&self.json, part, &self.tensors)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|e| refuse(path.display(), e))
}

fn refuse(file: impl std::fmt::Display, why: impl std::fmt::Display) -> ModelError {
    ModelError::File { file: file.to_string(), why: why.to_string() }
}

/// `SafeTensors` has checked that the bytes are a whole number of values.
fn numbers<const BYTES: usize>(data: &[u8], number: impl Fn([u8; BYTES]) -> f64) -> Vec<f64> {
    data.as_chunks::<BYTES>().0.iter().map(|&bytes| number(bytes)).collect()
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

/// An image's side, or its height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Square(usize),
    Rectangle(usize, usize),
}

impl Size {
    fn sides(self) -> (usize, usize) {
        match self {
            Size::Square(side) => (side, side),
            Size::Rectangle(height, width) => (height, width),
        }
    }
}

/// The configuration of a golden case's plain ViT, from the keyword arguments in its JSON.
///
/// A student is the official class for distillation, a teacher the DINO / DeiT class; for [`Part::Model`] the JSON's `cls` tells.
/// The result is held against the names and shapes of the model's tensors, so that no option goes unnoticed.
///
/// # Errors
/// A class that is not one of these; a keyword argument that is not known, named; arguments that [`VitConfig`] cannot say; tensors
/// that are not those of the model described.
pub fn config_from_kwargs(json: &Value, part: Part, tensors: &Tensors) -> Result<VitConfig, ModelError> {
    let case = json["case"].as_str().unwrap_or("golden case");
    let class = json["cls"].as_str().unwrap_or_default();
    let of_class = |name| part == Part::Model && class.contains(name);
    let mut config = if part == Part::Teacher || of_class("WarpperVisionTransformer") {
        teacher(kwargs(case, json, part)?)
    } else if part == Part::Student || of_class("VisionTransformerForFD") {
        student(case, kwargs(case, json, part)?, false)?
    } else if of_class("models.vision_transformer.VisionTransformer") {
        student(case, kwargs(case, json, part)?, true)?
    } else {
        return Err(refuse(case, format!("`cls` is {class:?}, not one of the plain vision transformers")));
    };

    if let Some(eps) = json.get("ln_eps") {
        config.ln_eps = eps.as_f64().ok_or_else(|| refuse(case, format!("`ln_eps` is {eps}, expected a number")))?;
    }
    config.activation = match json.get("gelu").map(|gelu| gelu.as_str().unwrap_or_default()) {
        None | Some("erf") => Activation::Gelu,
        Some(quick) if quick.starts_with("quick") => Activation::QuickGelu,
        Some(other) => return Err(refuse(case, format!("`gelu` is {other:?}, expected \"erf\" or \"quick\""))),
    };

    let shape = |(name, (shape, _)): (&String, &(Vec<usize>, _))| Some((name.strip_prefix(part.prefix())?.to_owned(), shape.clone()));
    check_shapes(&config, case, &tensors.iter().filter_map(shape).collect())?;
    Ok(config)
}

fn kwargs<K: DeserializeOwned>(case: &str, json: &Value, part: Part) -> Result<K, ModelError> {
    let given = json.get(part.key()).ok_or_else(|| refuse(case, format!("`{}` is missing", part.key())))?;
    K::deserialize(given).map_err(|e| refuse(case, format!("`{}`: {e}", part.key())))
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
        activation: Activation::Gelu,
        ln_eps: 1e-6,
        head,
        num_classes,
        drop_path_rate: k.drop_path_rate,
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
        position: Position::Absolute,
        qkv_bias: if k.qkv_bias { QkvBias::Full } else { QkvBias::None },
        layer_scale: None,
        cls_token: true,
        activation: Activation::Gelu,
        ln_eps: 1e-6,
        head: if k.num_classes == 0 { Head::Features } else { Head::Cls },
        num_classes: k.num_classes,
        drop_path_rate: k.drop_path_rate,
    }
}
