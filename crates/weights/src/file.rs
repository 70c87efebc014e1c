//! A weight file of any kind.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::entry::Entry;
use crate::error::{WeightsError, named};
use crate::{legacy, safe, torch_zip};

/// The kind of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    /// safetensors.
    Safetensors,
    /// What `torch.save` writes since version 1.6.
    TorchZip,
    /// What `torch.save` wrote before.
    TorchLegacy,
    /// What `torch.jit.save` writes.
    TorchScript,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Container::Safetensors => "safetensors",
            Container::TorchZip => "PyTorch zip archive",
            Container::TorchLegacy => "PyTorch pickle stream (before 1.6)",
            Container::TorchScript => "TorchScript archive",
        })
    }
}

/// An opened weight file: its entries are known, their elements are read when asked for.
#[derive(Debug)]
pub struct WeightFile {
    bytes: Bytes,
    container: Container,
    entries: BTreeMap<String, Entry>,
    notes: BTreeMap<String, String>,
}

/// What a container turned out to hold.
pub(crate) struct Contents {
    pub(crate) container: Container,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) notes: BTreeMap<String, String>,
}

impl WeightFile {
    /// Opens a file of any kind; its content decides which.
    ///
    /// # Errors
    /// A file that cannot be read, is of no known kind, or whose description of its tensors does not hold together; a pickle that asks
    /// for anything that is not part of a state dict. The message names the file and the culprit.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::new(Bytes::open(path)?)
    }

    /// As [`WeightFile::open`], from bytes in memory; `source` is what errors call them.
    ///
    /// # Errors
    /// As [`WeightFile::open`].
    pub fn from_bytes(source: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Self, WeightsError> {
        Self::new(Bytes::in_memory(source, bytes.into()))
    }

    fn new(bytes: Bytes) -> Result<Self, WeightsError> {
        let Contents { container, mut entries, notes } = match kind(&bytes)? {
            Kind::Safetensors => {
                let (entries, notes) = safe::read(&bytes)?;
                Contents { container: Container::Safetensors, entries, notes }
            }
            Kind::Zip => torch_zip::read(&bytes)?,
            Kind::Pickle => legacy::read(&bytes)?,
        };
        mark_shared(&mut entries);
        Ok(WeightFile { bytes, container, entries, notes })
    }

    /// What errors call the file: its path, or the name of its bytes.
    #[must_use]
    pub fn source(&self) -> &str {
        self.bytes.source()
    }

    /// The kind of the file.
    #[must_use]
    pub fn container(&self) -> Container {
        self.container
    }

    /// The length of the file.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len()
    }

    /// The tensors by dotted name: `w` in the dict `model` in the file's dict is `model.w`; items of lists are called by their number.
    /// A file that is nothing but one tensor calls it `tensor`.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// What else the file says: the metadata of safetensors; of a pickle its numbers, strings and the like by dotted name, written as
    /// Python writes them, strings cut at 4096 characters, the first 10,000 (fewer if they would take more memory than the file).
    #[must_use]
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The elements of a float tensor in row-major order; f64 is rounded.
    ///
    /// # Errors
    /// No tensor of that name, one that does not hold floats, or a file that can no longer be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let entry = self.entry(name)?;
        if !entry.dtype.is_float() {
            return Err(WeightsError::NotFloat { file: self.source().to_owned(), tensor: named(name), found: entry.dtype });
        }
        let mut out = Vec::with_capacity(entry.elements());
        entry.stream(&self.bytes, &mut |chunk| entry.dtype.decode_f32(chunk, &mut out))?;
        Ok(out)
    }

    /// The elements of any tensor in row-major order; integers of 64 bits are exact up to 2^53 and rounded beyond, bools are 0 and 1.
    ///
    /// # Errors
    /// No tensor of that name, or a file that can no longer be read.
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>, WeightsError> {
        let entry = self.entry(name)?;
        let mut out = Vec::with_capacity(entry.elements());
        entry.stream(&self.bytes, &mut |chunk| entry.dtype.decode_f64(chunk, &mut out))?;
        Ok(out)
    }

    /// The elements of any tensor in row-major order as little-endian bytes of its own type.
    ///
    /// # Errors
    /// No tensor of that name, or a file that can no longer be read.
    pub fn read_raw(&self, name: &str) -> Result<Vec<u8>, WeightsError> {
        let entry = self.entry(name)?;
        let mut out = Vec::with_capacity(entry.elements() * entry.dtype.size());
        entry.stream(&self.bytes, &mut |chunk| out.extend_from_slice(chunk))?;
        Ok(out)
    }

    /// SHA-256 of the whole file, in lower-case hex.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256(&self) -> Result<String, WeightsError> {
        self.bytes.sha256()
    }

    fn entry(&self, name: &str) -> Result<&Entry, WeightsError> {
        let missing = || WeightsError::Missing { file: self.source().to_owned(), tensor: named(name) };
        self.entries.get(name).ok_or_else(missing)
    }
}

fn mark_shared(entries: &mut BTreeMap<String, Entry>) {
    let mut users: BTreeMap<usize, usize> = BTreeMap::new();
    for entry in entries.values() {
        *users.entry(entry.storage).or_default() += 1;
    }
    for entry in entries.values_mut() {
        entry.shared = users.get(&entry.storage).is_some_and(|&count| count > 1);
    }
}

enum Kind {
    Safetensors,
    Zip,
    Pickle,
}

/// The kind of a file by its first bytes.
fn kind(bytes: &Bytes) -> Result<Kind, WeightsError> {
    let mut start = [0; 512];
    let held = usize::try_from(bytes.len()).unwrap_or(usize::MAX).min(start.len());
    bytes.read_into(0, &mut start[..held])?;
    let start = &start[..held];
    if start.starts_with(b"PK\x03\x04") {
        return Ok(Kind::Zip);
    }
    if start.get(8) == Some(&b'{') {
        return Ok(Kind::Safetensors);
    }
    // Protocol 2 and later say so; the magic number is the first thing a stream of protocol 0 or 1 could push as well.
    if matches!(start, [0x80, 0..=5, ..]) {
        return Ok(Kind::Pickle);
    }
    let found = if start.is_empty() {
        "an empty file".into()
    } else if start.get(257..262) == Some(b"ustar") {
        "a tar archive (as PyTorch 0.1 wrote them; load and save it with a newer PyTorch)".into()
    } else if start.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer (the file itself has yet to be fetched)".into()
    } else if start.starts_with(b"<") {
        "a web page or XML".into()
    } else if start.starts_with(b"GGUF") {
        "a GGUF file".into()
    } else if start.starts_with(b"\x89HDF") {
        "an HDF5 file".into()
    } else {
        format!("bytes {}", start.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
    };
    Err(WeightsError::Unrecognised { file: bytes.source().to_owned(), found })
}
