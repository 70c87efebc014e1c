//! What can be wrong with a run: one line that names the file, key or directory.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be used.
    #[error("{file}: {why}", file = file.display())]
    Config {
        /// The file, or what stands in for it (`--set`).
        file: PathBuf,
        /// The key and what is wrong with it.
        why: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A file or directory that cannot be read or written.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// Training that left the finite numbers.
    #[error("{stage}: the loss is {loss} at step {step}: lower the learning rate or clip the gradient harder")]
    Diverged {
        /// Which stage.
        stage: String,
        /// The step.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// Of the data.
    #[error(transparent)]
    Data(#[from] fd_data::DataError),
    /// Of a model or its checkpoint.
    #[error(transparent)]
    Model(#[from] fd_model::ModelError),
    /// Of a plan.
    #[error(transparent)]
    Compute(#[from] fd_compute::Error),
}
