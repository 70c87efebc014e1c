//! What can be wrong with a run: one line that names the file, key or directory.

use std::path::{Path, PathBuf};

use crate::interrupt::Signal;

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
    /// Training that left the finite numbers more often than its recipe allows.
    #[error(
        "{stage}: {skipped} steps without a finite loss and gradient, the last at step {step} (loss {loss}, gradient norm {grad_norm}, \
         images {images}): lower the learning rate or clip the gradient harder"
    )]
    Diverged {
        /// Which stage.
        stage: String,
        /// The step.
        step: usize,
        /// Steps without finite numbers, this one included.
        skipped: usize,
        /// Its loss.
        loss: f64,
        /// Its gradient's norm before clipping.
        grad_norm: f64,
        /// The first indices of its batch.
        images: String,
    },
    /// Stopped by a signal. What is done is not lost where there are checkpoints.
    #[error("interrupted by {signal}{}", checkpoints.as_deref().map(continuation).unwrap_or_default())]
    Interrupted {
        /// Which signal.
        signal: Signal,
        /// The run directory whose checkpoints the same command continues from.
        checkpoints: Option<PathBuf>,
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

fn continuation(run: &Path) -> String {
    format!(": checkpoints are in {}; the same command continues", run.display())
}
