//! Opens weight files of every kind the field uses, runs nothing in them, and says exactly what is there.
//!
//! A [`WeightFile`] knows containers, names, shapes and types; it knows no model. Four containers are told apart by their content, never
//! by their extension: safetensors, the zip archive of `torch.save`, the pickle stream it wrote before version 1.6, and TorchScript
//! archives. Opening reads headers only; a tensor is decoded when it is asked for.
//!
//! # Why no memory map
//! Memory maps need `unsafe`, and a mapped file that somebody truncates kills the process. The file is read by positioned reads
//! instead, tensor by tensor: a file of 10 GB costs the memory of one tensor. Every read is checked against the length of the file
//! before memory is allocated for it, so that a forged length costs nothing.
//!
//! # What a pickle may do
//! A pickle is a program, and running it is running whatever its author wrote. The machine here builds lists, dicts, strings, numbers
//! and descriptions of tensors; a name that is not in its table (`pickle/globals.rs`) is refused at once, by its full name. Nothing is
//! imported and nothing is called.
//!
//! # Bounds
//! A pickle may have 256 MiB, 4 million objects and containers nested 100 deep, and unfold to as many values as the file has bytes (or a
//! million); a tensor may have 16 dimensions, and no more elements than the file has bytes (or 65,536), so that a stride of zero cannot
//! ask for terabytes. Whatever the bytes say, opening a file and reading a tensor of it holds no more than 1 MiB and 160 bytes for each
//! byte of the file; that is the worst that can be crafted, where an honest file takes what its names take. `tests/mutate.rs` counts it.
//!
//! Checksums inside zip archives are not verified: PyTorch can be told not to write them. [`WeightFile::sha256`] is over the whole file.

mod bytes;
mod dtype;
mod entry;
mod error;
mod file;
mod flatten;
mod legacy;
mod notes;
mod pickle;
mod safe;
mod torch_zip;
mod zip;

pub use dtype::Dtype;
pub use entry::Entry;
pub use error::WeightsError;
pub use file::{Container, WeightFile};
