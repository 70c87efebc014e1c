//! Weight files of any code: which models are in them, whether they are the one that is asked for, and their tensors under our names.
//!
//! Three steps, none of which guesses in silence. [`Import::open`] finds the models of a file (a self-distillation's checkpoint has
//! two) and [`recognises`](Found) each from names and shapes; what a file cannot say is listed as assumed. [`Import::fit`] holds one of
//! them against a configuration, tensor by tensor: what is missing, left over, of another shape or interpolated is a row of its
//! [`Fit`], and refused unless [`Allow`] names it. [`Fit::load`] then reads the tensors, one at a time.

mod fit;
mod health;
mod recognise;
mod roots;

use std::path::Path;

use fd_weights::WeightFile;

pub use fit::{Allow, Fit, Row};
pub use health::Health;
pub use recognise::Found;

use crate::{ModelConfig, ModelError};

/// A weight file and the models found in it.
#[derive(Debug)]
pub struct Import {
    file: WeightFile,
    models: Vec<Found>,
}

impl Import {
    /// Opens a file and looks for models in it; no tensor is read.
    ///
    /// # Errors
    /// A file that cannot be read or is no weight file.
    pub fn open(path: &Path) -> Result<Import, ModelError> {
        Ok(Import::of(WeightFile::open(path)?))
    }

    /// The same for a file that is open.
    pub fn of(file: WeightFile) -> Import {
        let models = roots::find(&file).iter().map(|root| Found::recognise(&file, root)).collect();
        Import { file, models }
    }

    /// The file.
    pub fn file(&self) -> &WeightFile {
        &self.file
    }

    /// Every model that was found, by its place in the file.
    pub fn models(&self) -> &[Found] {
        &self.models
    }

    /// The only model, or the one at `key`: a part of the path to it, such as `teacher`.
    ///
    /// # Errors
    /// No model, none at the key, or several; the message names what there is.
    pub fn choose(&self, key: Option<&str>) -> Result<&Found, ModelError> {
        let refuse = |why: String| Err(ModelError::File { file: self.file.source().to_string(), why });
        let fits = |found: &&Found| key.is_none_or(|key| found.lies_at(key));
        let list = || {
            let one = |found: &Found| format!("`{}` ({})", found.place(), found.summary());
            self.models.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        match (&self.models.iter().filter(fits).collect::<Vec<_>>()[..], key) {
            ([one], _) => Ok(one),
            ([], _) if self.models.is_empty() => {
                let mut names: Vec<&str> = self.file.entries().keys().map(String::as_str).collect();
                let n = names.len();
                names.truncate(5);
                refuse(format!("no vision transformer is recognised among its {n} tensors (the first: {})", names.join(", ")))
            }
            ([], Some(key)) => refuse(format!("holds no model at `{key}`; there is {}", list())),
            (_, None) => refuse(format!("holds {} models: {}; say which by a part of its path (key)", self.models.len(), list())),
            (several, Some(key)) => refuse(format!("`{key}` is the place of {} models; there are {}", several.len(), list())),
        }
    }

    /// Holds a model of the file against the configuration that is asked for.
    ///
    /// # Errors
    /// A configuration that cannot be built; a position table that cannot be interpolated though that was allowed.
    pub fn fit<'a>(&'a self, found: &'a Found, asked: &ModelConfig, allow: &Allow) -> Result<Fit<'a>, ModelError> {
        Fit::of(self, found, asked, allow)
    }
}
