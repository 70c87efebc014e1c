//! Everything that can be wrong with a model or its file.

/// An error of this crate: one line that names the key, file or tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A model that cannot be built.
    #[error("model key `{key}`: {why}")]
    Config {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor the model needs is not there.
    #[error("{file}: tensor `{tensor}` is missing")]
    Missing {
        /// The checkpoint.
        file: String,
        /// The tensor's official name.
        tensor: String,
    },
    /// A tensor of the file that the model has no place for.
    #[error("{file}: tensor `{tensor}` is not part of the model")]
    Unexpected {
        /// The checkpoint.
        file: String,
        /// The tensor's name in the file.
        tensor: String,
    },
    /// A tensor of another shape.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape the model needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor whose type is not read.
    #[error("{file}: tensor `{tensor}` has type {found}, expected a float type")]
    DType {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A value that the file's type cannot hold.
    #[error("{file}: tensor `{tensor}` holds {value}, which f16 cannot: it ends at 65504")]
    Range {
        /// The file that was to be written.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// The file is no checkpoint at all.
    #[error("{file}: {why}")]
    File {
        /// The checkpoint.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file whose model is not the one that is asked for.
    #[error("{file}: {why}")]
    Misfit {
        /// The checkpoint.
        file: String,
        /// What differs, what was found, what would fit.
        why: String,
    },
    /// Numbers that no trained model has.
    #[error("{file}: tensor `{tensor}` holds {count} values that are not finite numbers")]
    NotFinite {
        /// The checkpoint.
        file: String,
        /// The tensor's name in the file.
        tensor: String,
        /// How many.
        count: usize,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Weights(#[from] fd_weights::WeightsError),
    /// Operands that do not fit in a plan.
    #[error(transparent)]
    Compute(#[from] fd_compute::Error),
}
