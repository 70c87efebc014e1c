//! The one error type of the crate. Every message is a single line that names what was read, what was expected and what was found.

use std::fmt::{Debug, Display};
use std::path::Path;

/// What can go wrong between a file on disk and a batch of floats. `file` is a path, or the name of a source held in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{file}: cannot be read: {reason}")]
    Read {
        /// The file or folder.
        file: String,
        /// What the operating system answered.
        reason: String,
    },
    /// An IDX file opens with the wrong four bytes.
    #[error("{file}: wrong magic number: expected {expected:#010x}, found {found:#010x}")]
    Magic {
        /// The file.
        file: String,
        /// The magic number of the wanted kind of file.
        expected: u32,
        /// The first four bytes, big-endian.
        found: u32,
    },
    /// A file ends before its header, or what its header announces, does.
    #[error("{file}: truncated: expected {expected} bytes, found {found}")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes (after decompression) that have to be there.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A file goes on after what its header announces.
    #[error("{file}: trailing bytes: expected {expected} bytes, found more")]
    Trailing {
        /// The file.
        file: String,
        /// Bytes (after decompression) the header accounts for.
        expected: u64,
    },
    /// A gzip stream does not decompress or fails its checksum.
    #[error("{file}: corrupt gzip stream: {reason}")]
    Gzip {
        /// The file.
        file: String,
        /// What the decompressor says.
        reason: String,
    },
    /// A header announces impossible dimensions.
    #[error("{file}: impossible dimensions: expected at least 1 x 1 pixels and an addressable size, found {found}")]
    Dimensions {
        /// The file.
        file: String,
        /// The dimensions as written.
        found: String,
    },
    /// A label is not below the number of classes.
    #[error("{file}: label {index} out of range: expected less than {expected}, found {found}")]
    Label {
        /// The file or source.
        file: String,
        /// Position of the label.
        index: usize,
        /// The number of classes.
        expected: usize,
        /// The label.
        found: u32,
    },
    /// The label file does not go with the image file.
    #[error("{file}: expected {expected} labels (one an image of {images}), found {found}")]
    Count {
        /// The label file.
        file: String,
        /// The image file.
        images: String,
        /// The number of images.
        expected: usize,
        /// The number of labels.
        found: usize,
    },
    /// There is no image where at least one is needed.
    #[error("{file}: expected at least one image, found none")]
    Empty {
        /// The folder or source.
        file: String,
    },
    /// A folder has images both beside and inside sub-folders, so it is neither flat nor one folder a class.
    #[error("{file}: expected images or class folders, found both ({image} beside {folder})")]
    Layout {
        /// The root folder.
        file: String,
        /// An image directly in it.
        image: String,
        /// A sub-folder of it.
        folder: String,
    },
    /// The bytes of an image do not decode.
    #[error("{file}: undecodable image: {reason}")]
    Decode {
        /// The image.
        file: String,
        /// What the decoder says.
        reason: String,
    },
    /// An image decodes to something this crate does not handle.
    #[error("{file}: unsupported image: expected {expected}, found {found}")]
    Unsupported {
        /// The image or source.
        file: String,
        /// What is handled.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// An image, a source and an augmentation disagree about the number of channels.
    #[error("{file}: mixed channel counts: expected {expected}, found {found}")]
    Channels {
        /// The source or stage.
        file: String,
        /// Channels wanted.
        expected: usize,
        /// Channels delivered.
        found: usize,
    },
    /// An index is past the end of a source.
    #[error("{file}: no sample {found}: expected an index less than {expected}")]
    Index {
        /// The source.
        file: String,
        /// The length of the source.
        expected: usize,
        /// The index asked for.
        found: usize,
    },
    /// Labels are needed and the source has none.
    #[error("{file}: expected a labelled source, found no label for sample {index}")]
    Unlabelled {
        /// The source.
        file: String,
        /// The sample without a label.
        index: usize,
    },
    /// A class has fewer samples than a balanced subset needs.
    #[error("{file}: class {class}: expected at least {expected} samples, found {found}")]
    TooFew {
        /// The source.
        file: String,
        /// The class.
        class: usize,
        /// Samples wanted of each class.
        expected: usize,
        /// Samples there are.
        found: usize,
    },
    /// A setting has a value outside of its range.
    #[error("{key}: expected {expected}, found {found}")]
    Config {
        /// The key of the setting.
        key: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A buffer does not have the length its shape says, or a region does not lie inside its image.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The buffer or region.
        what: &'static str,
        /// Its expected length or bound.
        expected: usize,
        /// Its actual length or bound.
        found: usize,
    },
    /// A loader thread could not start or died.
    #[error("loader thread lost: {reason}")]
    Worker {
        /// The operating system's answer or the panic's message.
        reason: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, DataError>;

/// `text` with line breaks and other control characters replaced, so that a message stays on one line.
pub(crate) fn one_line(text: impl Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A path as messages show it.
pub(crate) fn shown(path: &Path) -> String {
    one_line(path.display())
}

/// The error of a file the operating system refuses.
pub(crate) fn unreadable(path: &Path, error: std::io::Error) -> DataError {
    DataError::Read { file: shown(path), reason: one_line(error) }
}

/// Refuses a setting unless `ok`.
pub(crate) fn check_setting(ok: bool, key: &'static str, expected: &'static str, found: impl Debug) -> Result<()> {
    if ok { Ok(()) } else { Err(DataError::Config { key, expected, found: one_line(format!("{found:?}")) }) }
}

/// Refuses a length unless it is the expected one.
pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(DataError::Shape { what, expected, found }) }
}
