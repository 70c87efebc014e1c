//! Teachers of the user's: a weight file of any code, held strictly against the model that the configuration says.

use std::path::{Path, PathBuf};

use fd_model::{Allow, Checkpoint, Fit, Import, ModelConfig, Row};

use super::config::Teacher;
use super::context::Context;
use crate::Error;
use crate::objective::Target;

/// A file that fits, and what it was when that was found out.
#[derive(Clone, Debug)]
pub struct Given {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// The model that it has to be, with a head where logits are the target.
    pub model: ModelConfig,
    /// The model in the file, where there are several.
    pub key: Option<String>,
    /// What is not refused.
    pub allow: Allow,
}

impl Given {
    /// Looks at a teacher's file: which models are in it, whether one is the teacher's, whether its numbers are numbers. Nothing of it
    /// is kept.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds something else; the message says what, and what would fit.
    pub fn look(context: &Context, teacher: &Teacher, path: &Path) -> Result<Given, Error> {
        let logits = context.config.distil.objective.target == Target::Logits;
        let model = if logits { teacher.model.clone().classifier(context.classes) } else { teacher.model.clone() };
        let allow = Allow { names: teacher.allow.clone(), interpolate: teacher.interpolate };
        let mut given = Given { path: path.into(), sha256: String::new(), model, key: teacher.key.clone(), allow };
        let import = Import::open(path)?;
        let fit = given.fit(&import).map_err(|e| hint(e, teacher.interpolate))?;
        tracing::info!("{}", fit.report().trim_end());
        for (row, _) in fit.rows() {
            if let Row::Interpolated(resized) = row {
                tracing::warn!("{}: {resized}", path.display());
            }
        }
        for tensor in fit.verify()? {
            tracing::warn!("{}: tensor `{tensor}` holds one value throughout: is this model trained?", path.display());
        }
        given.sha256 = import.file().sha256().map_err(fd_model::ModelError::from)?;
        Ok(given)
    }

    fn fit<'a>(&self, import: &'a Import) -> Result<Fit<'a>, Error> {
        let fit = import.fit(import.choose(self.key.as_deref())?, &self.model, &self.allow)?;
        fit.check()?;
        Ok(fit)
    }

    /// The weights, under our names, and the head beside them.
    ///
    /// # Errors
    /// Those of [`Given::look`]; a file that has changed since then.
    pub fn read(&self) -> Result<Checkpoint, Error> {
        let import = Import::open(&self.path)?;
        let fit = self.fit(&import)?;
        let mut weights = fit.checkpoint()?;
        weights.tensors.extend(fit.head()?);
        if import.file().sha256().map_err(fd_model::ModelError::from)? != self.sha256 {
            return Err(Error::File { path: self.path.clone(), why: "has changed since the run began".into() });
        }
        Ok(weights)
    }
}

/// A misshapen position table, with what would help.
fn hint(error: Error, interpolate: bool) -> Error {
    match error {
        Error::Model(fd_model::ModelError::Misfit { ref why, .. })
            if !interpolate && (why.contains("pos_embed") || why.contains("position_bias_table") || why.contains("position_embedding")) =>
        {
            Error::Usage(format!("{error}; `interpolate = true` (--interpolate) makes positions of another grid or window fit"))
        }
        other => other,
    }
}
