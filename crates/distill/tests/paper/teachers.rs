//! Weight files as the teachers' authors released them: their containers, their names, and what lies beside the encoder.

use std::collections::BTreeMap;

use fd_compute::{DType, Layout, Params};
use fd_model::{Checkpoint, Init, Model, ModelConfig, initialise};

use crate::support::pickle::dict;
use crate::support::{Py, TensorSpec, f32s, torch_script, torch_zip};

/// Tensors of a file, and the storages that they lie in.
#[derive(Default)]
struct Pickled {
    storages: Vec<(String, Vec<u8>)>,
}

impl Pickled {
    fn tensor(&mut self, shape: &[usize], class: &'static str, bytes: Vec<u8>) -> Py {
        let key = self.storages.len().to_string();
        self.storages.push((key.clone(), bytes));
        let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        TensorSpec::new(&key, class, &shape).into()
    }

    fn floats(&mut self, shape: &[usize], values: &[f32]) -> Py {
        self.tensor(shape, "FloatStorage", f32s(values))
    }

    fn halves(&mut self, shape: &[usize], values: &[f32]) -> Py {
        self.tensor(shape, "HalfStorage", values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect())
    }

    /// Constant values, of what the encoder does not need.
    fn beside(&mut self, shape: &[usize]) -> Py {
        self.floats(shape, &vec![0.25; shape.iter().product()])
    }

    fn state(&mut self, weights: &Checkpoint, prefix: &str) -> Vec<(String, Py)> {
        weights.tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), self.floats(&t.shape, &t.data))).collect()
    }

    fn stored(&self) -> Vec<(&str, Vec<u8>)> {
        self.storages.iter().map(|(key, bytes)| (key.as_str(), bytes.clone())).collect()
    }
}

/// A model's initial values in the names of its authors.
fn official(model: &ModelConfig) -> Checkpoint {
    let mut layout = Layout::builder();
    Model::declare(model, &mut layout, "").unwrap();
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "", model, Init::Xavier, 7);
    fd_model::export(Checkpoint::of(&params, ""), model, None, fd_model::names::Style::Official).unwrap().weights
}

fn ordered(items: Vec<(String, Py)>) -> Py {
    Py::OrderedDict(items.into_iter().map(|(name, value)| (Py::Str(name), value)).collect())
}

/// The bytes of a row's teacher.
pub fn release(row: &str, model: &ModelConfig) -> Vec<u8> {
    let (weights, mut file) = (official(model), Pickled::default());
    let value = match row {
        // The backbone's state dict and nothing else.
        "dino-b" => ordered(file.state(&weights, "")),
        "deit-b" => {
            let mut state = file.state(&weights, "");
            state.extend([("head.weight".into(), file.beside(&[1000, 16])), ("head.bias".into(), file.beside(&[1000]))]);
            dict([("model", ordered(state))])
        }
        "mae-b" | "swinv2-g" => dict([("model", ordered(file.state(&weights, "")))]),
        "esvit-swin-b" => esvit(&weights, &mut file),
        _ => return clip(&weights, &mut file),
    };
    torch_zip(&value, &file.stored()).bytes()
}

/// A training's checkpoint: student and teacher, each with its heads over views and over regions, and indices that are computed.
fn esvit(weights: &Checkpoint, file: &mut Pickled) -> Py {
    let mut part = || {
        let mut state = file.state(weights, "module.");
        for head in ["head", "head_dense"] {
            state.push((format!("module.{head}.mlp.0.weight"), file.beside(&[32, 64])));
            state.push((format!("module.{head}.last_layer.weight_v"), file.beside(&[48, 32])));
        }
        let index = file.tensor(&[2, 2], "LongStorage", (0..4i64).flat_map(i64::to_le_bytes).collect());
        state.push(("module.layers.0.blocks.0.attn.relative_position_index".into(), index));
        ordered(state)
    };
    let (student, teacher) = (part(), part());
    dict([("student", student), ("teacher", teacher), ("epoch", 300.into())])
}

/// OpenAI's archive: a program's modules, both encoders, matrices in half precision.
fn clip(weights: &Checkpoint, file: &mut Pickled) -> Vec<u8> {
    let mut root = Modules::default();
    for (name, t) in &weights.tensors {
        let value = if t.shape.len() > 1 { file.halves(&t.shape, &t.data) } else { file.floats(&t.shape, &t.data) };
        root.insert(&format!("visual.{name}"), value);
    }
    let text = [("token_embedding.weight", vec![49, 16]), ("transformer.resblocks.0.ln_1.weight", vec![16]), ("logit_scale", vec![])];
    for (name, shape) in text {
        root.insert(name, file.beside(&shape));
    }
    torch_script(&root.value(), &file.stored()).bytes()
}

/// Modules within modules.
#[derive(Default)]
struct Modules {
    tensors: BTreeMap<String, Py>,
    below: BTreeMap<String, Modules>,
}

impl Modules {
    fn insert(&mut self, name: &str, value: Py) {
        match name.split_once('.') {
            Some((module, rest)) => self.below.entry(module.into()).or_default().insert(rest, value),
            None => drop(self.tensors.insert(name.into(), value)),
        }
    }

    fn value(&self) -> Py {
        let tensors = self.tensors.iter().map(|(name, value)| (Py::Str(name.clone()), value.clone()));
        let below = self.below.iter().map(|(name, module)| (Py::Str(name.clone()), module.value()));
        Py::Object("__torch__.clip.model", "Module", Box::new(Py::Dict(tensors.chain(below).collect())))
    }
}
