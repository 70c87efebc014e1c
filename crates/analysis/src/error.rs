//! What can be wrong with an analysis: one line that names the model, layer or file.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that do not go together, or that nothing corresponds to.
    #[error("{0}")]
    Usage(String),
    /// A layer that a model does not have, or that computes no attention.
    #[error("{model}: layer {layer} has no attention: {why}")]
    Layer {
        /// The model's label.
        model: String,
        /// The layer, from 0.
        layer: usize,
        /// Which there are.
        why: String,
    },
    /// Numbers that are not finite came out.
    #[error(
        "{model}: the attention of layer {layer}, head {head}, is not finite: the weights, or what they make of these images, are broken"
    )]
    NotFinite {
        /// The model's label.
        model: String,
        /// The layer, from 0.
        layer: usize,
        /// The head, from 0.
        head: usize,
    },
    /// Of files, weights, data, plans.
    #[error(transparent)]
    Distill(#[from] fd_distill::Error),
    /// The same, of one of several models.
    #[error("{model}: {error}")]
    Of {
        /// The model's label.
        model: String,
        /// What is wrong with it.
        error: fd_distill::Error,
    },
}

macro_rules! from_below {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(e: $error) -> Error {
                Error::Distill(e.into())
            }
        })*
    };
}

from_below!(fd_data::DataError, fd_model::ModelError, fd_compute::Error);
