//! Checkpoints: named tensors in safetensors files, read strictly and written under official names.

use std::collections::BTreeMap;
use std::path::Path;

use fd_compute::Params;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::ModelError;

/// One tensor of a checkpoint, in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub data: Vec<f32>,
}

/// Named tensors and the metadata of their file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Where they came from, for messages.
    pub source: String,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads a safetensors file; f64, f32, f16 and bf16 become f32.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let source = path.display().to_string();
        let fail = |why: String| ModelError::File { file: source.clone(), why };
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(format!("not a valid safetensors file: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| fail(format!("not a valid safetensors file: {e}")))?;
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let data = floats(&view).ok_or_else(|| ModelError::DType {
                file: source.clone(),
                tensor: name.to_string(),
                found: format!("{:?}", view.dtype()),
            })?;
            tensors.insert(name.to_string(), Tensor { shape: view.shape().to_vec(), data });
        }
        Ok(Checkpoint { source, tensors, metadata })
    }

    /// The parameters whose names start with `prefix`, without it.
    pub fn of(params: &Params, prefix: &str) -> Self {
        let layout = params.layout();
        let named = layout.iter().filter_map(|p| layout.name(p).strip_prefix(prefix).map(|name| (name, p)));
        let tensor = |p| Tensor { shape: layout.shape(p).to_vec(), data: params.to_f64(p).into_iter().map(|v| v as f32).collect() };
        let tensors = named.map(|(name, p)| (name.to_string(), tensor(p))).collect();
        Checkpoint { source: "memory".into(), tensors, metadata: BTreeMap::new() }
    }

    /// Serialises to the bytes of a safetensors file, the same for the same tensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let fail = |why: String| ModelError::File { file: self.source.clone(), why };
        let bytes: Vec<(&String, &Tensor, Vec<u8>)> =
            self.tensors.iter().map(|(n, t)| (n, t, t.data.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
        let mut views = vec![];
        for (name, tensor, data) in &bytes {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).map_err(|e| fail(format!("{name}: {e}")))?;
            views.push((name.as_str(), view));
        }
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone().into_iter().collect());
        safetensors::serialize(views, metadata).map_err(|e| fail(e.to_string()))
    }

    /// Writes a safetensors file: to a temporary name beside it, synced, then renamed, so that a file of this name is always whole.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let fail = |e: std::io::Error| ModelError::File { file: path.display().to_string(), why: format!("cannot be written: {e}") };
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let bytes = self.to_bytes()?;
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            std::io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            fail(e)
        })
    }

    /// Loads every parameter whose name starts with `prefix`. Strict: nothing may be missing, left over or of another shape, and then
    /// nothing is changed.
    pub fn load(&self, params: &mut Params, prefix: &str) -> Result<(), ModelError> {
        let layout = params.layout().clone();
        let file = || self.source.clone();
        for (name, tensor) in &self.tensors {
            let Some(p) = layout.find(&format!("{prefix}{name}")) else {
                return Err(ModelError::Unexpected { file: file(), tensor: name.clone() });
            };
            let expected = layout.shape(p).to_vec();
            if expected != tensor.shape {
                return Err(ModelError::Shape { file: file(), tensor: name.clone(), expected, found: tensor.shape.clone() });
            }
        }
        for p in layout.iter() {
            if let Some(name) = layout.name(p).strip_prefix(prefix)
                && !self.tensors.contains_key(name)
            {
                return Err(ModelError::Missing { file: file(), tensor: name.to_string() });
            }
        }
        for (name, tensor) in &self.tensors {
            let p = layout.find(&format!("{prefix}{name}")).expect("checked above");
            params.set(p, &tensor.data.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// The paper's step from distillation to fine-tuning: the shared relative position table becomes one table a block (section 3.2).
    /// Without a shared table nothing changes.
    pub fn shared_table_to_blocks(&mut self, depth: usize) {
        if let Some(table) = self.tensors.remove("rel_pos_bias.relative_position_bias_table") {
            for i in 0..depth {
                self.tensors.insert(format!("blocks.{i}.attn.relative_position_bias_table"), table.clone());
            }
        }
    }
}

/// Any float type as f32; none for other types.
fn floats(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    let read = |size: usize, f: &dyn Fn(&[u8]) -> f32| Some(data.chunks_exact(size).map(f).collect());
    match view.dtype() {
        Dtype::F32 => read(4, &|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F64 => read(8, &|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
        Dtype::F16 => read(2, &|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Dtype::BF16 => read(2, &|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        _ => None,
    }
}
