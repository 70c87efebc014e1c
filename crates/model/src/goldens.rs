//! Golden vectors: weights, inputs, intermediates and gradients of small instances of the official classes, each computed once in
//! float64 by PyTorch. A case is `<case>.safetensors` with, beside it, `<case>.json`, which says how the class was built. Nothing
//! about a case is assumed: sizes and options are read from those keyword arguments and then held against the tensors.
//!
//! Tensor names: `w.` a weight (`w.encoder.` and `w.feature_model.` where a case has a student and a teacher), `in.` an input,
//! `out.` an intermediate, `g.` the gradient of `loss`, `buf.` a constant.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::ModelError;

mod kwargs;
mod swin_kwargs;

pub use kwargs::{GoldenModel, config_from_kwargs};

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
        let (json, tensors) = (folder.join(format!("{case}.json")), folder.join(format!("{case}.safetensors")));
        Golden::parse(case, (&json, &read(&json)?), (&tensors, &read(&tensors)?))
    }

    /// The same from what has been read: the files' names and contents.
    ///
    /// # Errors
    /// As [`Golden::read`].
    pub fn parse(case: &str, json: (&Path, &[u8]), tensors: (&Path, &[u8])) -> Result<Self, ModelError> {
        let (file, bytes) = (tensors.0.display().to_string(), tensors.1);
        let json: Value = serde_json::from_slice(json.1).map_err(|e| refuse(json.0.display(), e))?;
        let mut tensors = Tensors::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| refuse(&file, e))?.tensors() {
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
    pub fn config(&self, part: Part) -> Result<GoldenModel, ModelError> {
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
