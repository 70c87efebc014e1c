//! Checkpoints: named tensors in safetensors files, read strictly and written under official names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use fd_compute::Params;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo};
use serde::Serialize;

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

/// What stands before the tensors in a safetensors file. The library's own writer keeps the metadata in the order of a hash map, which
/// is another in every process.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__", skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

impl Checkpoint {
    /// Reads a safetensors file; f64, f32, f16 and bf16 become f32.
    ///
    /// # Errors
    /// [`ModelError::File`] when it cannot be read, otherwise those of [`Checkpoint::from_bytes`].
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let source = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(&source, &bytes),
            Err(e) => Err(ModelError::File { file: source, why: format!("cannot be read: {e}") }),
        }
    }

    /// Parses the bytes of a safetensors file; `source` is what errors call it.
    ///
    /// # Errors
    /// [`ModelError::File`] for bytes that are no such file, [`ModelError::DType`] for a tensor that does not hold floats.
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self, ModelError> {
        let source = source.to_string();
        let fail = |why: String| ModelError::File { file: source.clone(), why: format!("not a valid safetensors file: {why}") };
        let (length, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let body = &bytes[size_of::<u64>() + length..];
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            let data = body.get(start..end).ok_or_else(|| fail(format!("tensor `{name}` lies beyond its end")))?;
            let Some(data) = floats(info.dtype, data) else {
                return Err(ModelError::DType { file: source, tensor: name, found: format!("{:?}", info.dtype) });
            };
            tensors.insert(name, Tensor { shape: info.shape.clone(), data });
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

    /// Serialises to the bytes of a safetensors file in f32: equal tensors and metadata give equal bytes, in every process.
    ///
    /// # Errors
    /// [`ModelError::File`] for a tensor whose values do not fill its shape, or whose name the format reserves.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![];
        self.encode(&self.source, Dtype::F32, &mut bytes).map(|()| bytes)
    }

    /// Writes the bytes of [`Checkpoint::to_bytes`] one tensor after the other, so that they are never in memory together.
    ///
    /// # Errors
    /// Those of [`Checkpoint::to_bytes`], and a writer that fails.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), ModelError> {
        self.encode(&self.source, Dtype::F32, out)
    }

    /// Writes a safetensors file in f32: to a temporary name beside it, synced, then renamed, so that a file of this name is always
    /// whole.
    ///
    /// # Errors
    /// [`ModelError::File`] when it cannot be written, and those of [`Checkpoint::to_bytes`]. An older file of that name is untouched.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        self.write_as(path, Dtype::F32)
    }

    /// As [`Checkpoint::to_bytes`], but in f16, rounded to nearest, ties to even: half the size, for weights that are passed on.
    ///
    /// # Errors
    /// Those of [`Checkpoint::to_bytes`], and [`ModelError::Range`] for a value that is not finite or rounds to more than f16's 65504.
    pub fn to_f16_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![];
        self.encode(&self.source, Dtype::F16, &mut bytes).map(|()| bytes)
    }

    /// As [`Checkpoint::write`], but in f16, rounded to nearest, ties to even: half the size, for weights that are passed on.
    ///
    /// # Errors
    /// Those of [`Checkpoint::write`], and [`ModelError::Range`] for a value that is not finite or rounds to more than f16's 65504.
    pub fn write_f16(&self, path: &Path) -> Result<(), ModelError> {
        self.write_as(path, Dtype::F16)
    }

    /// The bytes of the file that errors call `file`; `dtype` is F32 or F16.
    fn encode(&self, file: &str, dtype: Dtype, out: &mut impl Write) -> Result<(), ModelError> {
        let fail = |why: String| ModelError::File { file: file.to_string(), why };
        let (mut header, mut end) = (Header { metadata: &self.metadata, tensors: BTreeMap::new() }, 0);
        for (name, tensor) in &self.tensors {
            if name == "__metadata__" {
                return Err(fail("the name `__metadata__` is not for tensors".into()));
            }
            if tensor.shape.iter().product::<usize>() != tensor.data.len() {
                return Err(fail(format!("tensor `{name}` of shape {:?} holds {} values", tensor.shape, tensor.data.len())));
            }
            let start = end;
            end += tensor.data.len() * if dtype == Dtype::F16 { 2 } else { 4 };
            header.tensors.insert(name, TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) });
        }
        let mut header = serde_json::to_vec(&header).map_err(|e| fail(e.to_string()))?;
        // The format wants the tensors at a multiple of eight bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        let io = |e: std::io::Error| fail(format!("cannot be written: {e}"));
        out.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| out.write_all(&header)).map_err(io)?;
        let mut bytes = vec![];
        for (name, tensor) in &self.tensors {
            for values in tensor.data.chunks(1 << 16) {
                bytes.clear();
                if dtype == Dtype::F16 {
                    let range = |value| ModelError::Range { file: file.to_string(), tensor: name.clone(), value };
                    for &v in values {
                        let half = Some(f16::from_f32(v)).filter(|h| h.is_finite()).ok_or_else(|| range(v))?;
                        bytes.extend(half.to_le_bytes());
                    }
                } else {
                    values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
                }
                out.write_all(&bytes).map_err(io)?;
            }
        }
        Ok(())
    }

    fn write_as(&self, path: &Path, dtype: Dtype) -> Result<(), ModelError> {
        let (name, mut temporary) = (path.display().to_string(), path.as_os_str().to_owned());
        temporary.push(format!(".{}.tmp", std::process::id()));
        let fail = |e: std::io::Error| ModelError::File { file: name.clone(), why: format!("cannot be written: {e}") };
        let write = || {
            let mut file = std::fs::File::create(&temporary).map_err(fail)?;
            self.encode(&name, dtype, &mut file)?;
            file.sync_all().and_then(|()| std::fs::rename(&temporary, path)).map_err(fail)
        };
        let written = write();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
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
fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let read = |size: usize, f: &dyn Fn(&[u8]) -> f32| Some(data.chunks_exact(size).map(f).collect());
    match dtype {
        Dtype::F32 => read(4, &|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F64 => read(8, &|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
        Dtype::F16 => read(2, &|b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Dtype::BF16 => read(2, &|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        _ => None,
    }
}
