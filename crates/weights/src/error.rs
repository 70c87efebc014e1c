//! The one error type of the crate. Every message is a single line that names the file and, where there is one, the culprit in it.

use std::fmt::Display;

use crate::Dtype;

/// Why a weight file, or a tensor of it, was refused. `file` is its path, or the name of bytes held in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system does not let the file be read.
    #[error("{file}: cannot be read: {reason}")]
    Read {
        /// The file.
        file: String,
        /// What the operating system answered.
        reason: String,
    },
    /// Something in the file points past its end.
    #[error("{file}: truncated: {len} bytes at {offset} are needed, the file has {held}")]
    Truncated {
        /// The file.
        file: String,
        /// Where the bytes should be.
        offset: u64,
        /// How many there should be.
        len: u64,
        /// The length of the file.
        held: u64,
    },
    /// The file is of no kind that is known here.
    #[error("{file}: not a weight file: expected safetensors, a PyTorch archive or pickle, or TorchScript, found {found}")]
    Unrecognised {
        /// The file.
        file: String,
        /// What its first bytes look like.
        found: String,
    },
    /// The header of a safetensors file is wrong.
    #[error("{file}: not a valid safetensors file: {why}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The directory of a zip archive, or an entry of it, is wrong.
    #[error("{file}: not a valid PyTorch archive: {why}")]
    Archive {
        /// The file.
        file: String,
        /// What is wrong, with the name of the entry.
        why: String,
    },
    /// A legacy file is wrong outside of its pickles.
    #[error("{file}: not a valid PyTorch pickle stream: {why}")]
    Legacy {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A pickle cannot be followed.
    #[error("{file}: its pickle cannot be read: {why} (byte {at} of the pickle)")]
    Pickle {
        /// The file.
        file: String,
        /// How far the machine got.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// A pickle wants something that no state dict needs.
    #[error("{file}: its pickle asks for `{name}`, which is not part of a state dict; nothing was run{hint}")]
    Forbidden {
        /// The file.
        file: String,
        /// The full name of what it asks for.
        name: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// A pickle holds a kind of tensor that is not read here.
    #[error("{file}: its pickle holds {what} (`{name}`), which cannot be read")]
    Unsupported {
        /// The file.
        file: String,
        /// The kind.
        what: &'static str,
        /// The full name of what makes it.
        name: String,
    },
    /// What the file holds cannot be given names.
    #[error("{file}: {why}")]
    Names {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor's description does not fit its data.
    #[error("{file}: tensor `{tensor}`: {why}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// There is no tensor of that name.
    #[error("{file}: holds no tensor `{tensor}`")]
    Missing {
        /// The file.
        file: String,
        /// The name asked for.
        tensor: String,
    },
    /// A tensor is not of the type that was asked for.
    #[error("{file}: tensor `{tensor}`: expected floats, found {found}")]
    NotFloat {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
    },
}

/// The crate's result.
pub(crate) type Result<T> = std::result::Result<T, WeightsError>;

/// `text` with control characters replaced, so that a message stays on one line.
pub(crate) fn one_line(text: impl Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name out of a file as messages show it: on one line and of bearable length.
pub(crate) fn named(name: &str) -> String {
    const LONGEST: usize = 200;
    let short: String = name.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if name.chars().nth(LONGEST).is_some() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_short_and_on_one_line() {
        assert_eq!(named("a\nb\u{7}c"), "a b c");
        assert_eq!(named(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(named(&"x".repeat(201)), "x".repeat(200) + "…");
        assert_eq!(one_line("two\r\nlines"), "two  lines");
    }
}
