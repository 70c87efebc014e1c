//! Writes weight files byte by byte: pickles out of a small tree of values, and the containers around them.
// Each test uses its part of it.
#![allow(dead_code, unused_imports)]

pub mod containers;
pub mod pickle;

pub use containers::{Stored, Zip, legacy, safetensors, torch_script, torch_zip};
pub use pickle::{Py, TensorSpec, pickled};

use fd_weights::WeightFile;

/// Opens bytes called `f`.
pub fn open(bytes: Vec<u8>) -> WeightFile {
    WeightFile::from_bytes("f", bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// The message of bytes, called `f`, that are refused.
pub fn refused(bytes: Vec<u8>) -> String {
    let message = WeightFile::from_bytes("f", bytes).expect_err("a refusal").to_string();
    assert!(!message.contains('\n'), "{message}");
    assert!(message.starts_with("f: "), "{message}");
    message
}

/// Little-endian bytes of 32-bit floats.
pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
