//! A weight file, the model that is wanted of it, and how that model sees images: what the commands on weights share.

use std::path::PathBuf;

use fd_compute::{DType, Layout, Params};
use fd_model::{Allow, Checkpoint, Fit, Found, Import, Model, ModelConfig, ModelError, Statistics, preset};
use serde_json::Value;

use crate::Error;

/// Which model, and what may be different about it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The weight file.
    pub file: PathBuf,
    /// The model in it, where there are several: a part of its path.
    pub key: Option<String>,
    /// The preset that it has to be; none: what it is recognised as.
    pub model: Option<String>,
    /// Keys of the model, `key=value`: what the file does not say, or differently.
    pub sets: Vec<String>,
    /// Height and width of the images, if not the model's; positions are then interpolated.
    pub img_size: Option<(usize, usize)>,
    /// What is not refused.
    pub allow: Allow,
    /// Statistics of the channels, if not those that the file says or that such models have.
    pub normalise: Option<Statistics>,
}

/// A file that is open, with the model that is wanted of it.
#[derive(Debug)]
pub struct Opened {
    import: Import,
    at: usize,
    /// The file's path.
    pub file: PathBuf,
    /// The architecture.
    pub model: ModelConfig,
    /// How its images are normalised.
    pub normalise: Statistics,
    allow: Allow,
}

impl Asked {
    /// Opens the file and finds the model; no weights are read.
    ///
    /// # Errors
    /// A file that cannot be read, that holds no such model, or several; a model that cannot be built.
    pub fn open(&self) -> Result<Opened, Error> {
        let import = Import::open(&self.file)?;
        let found = import.choose(self.key.as_deref())?;
        let at = import.models().iter().position(|m| m.root == found.root).unwrap_or(0);
        let mut model = match &self.model {
            // A preset is one of published sizes: those of the file's positions are the file's.
            Some(name) => preset(name)?.with_img_size(found.config.img_size()),
            None => found.config.clone(),
        };
        for set in &self.sets {
            model = changed(&model, set).map_err(|why| Error::Usage(format!("--set {set}: {why}")))?;
        }
        let mut allow = self.allow.clone();
        if let Some(size) = self.img_size {
            model = model.with_img_size(size);
            allow.interpolate = true;
        }
        model.check()?;
        let normalise = self.normalise.clone().unwrap_or_else(|| found.statistics());
        for (key, n) in [("mean", normalise.mean.len()), ("std", normalise.std.len())] {
            if n != model.in_chans() {
                return Err(Error::Usage(format!("--{key}: {n} values for {} channels", model.in_chans())));
            }
        }
        Ok(Opened { at, file: self.file.clone(), model, normalise, allow, import })
    }
}

impl Opened {
    /// The file and all that is in it.
    pub fn import(&self) -> &Import {
        &self.import
    }

    /// The model as the file has it.
    pub fn found(&self) -> &Found {
        &self.import.models()[self.at]
    }

    /// Holds the file against the model.
    ///
    /// # Errors
    /// Those of [`Import::fit`].
    pub fn fit(&self) -> Result<Fit<'_>, Error> {
        Ok(self.import.fit(self.found(), &self.model, &self.allow)?)
    }

    /// The weights in memory, under our names.
    ///
    /// # Errors
    /// What does not fit, and was not allowed.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(self.fit()?.checkpoint()?)
    }

    /// The model with its weights, read tensor by tensor.
    ///
    /// # Errors
    /// What does not fit, and was not allowed.
    pub fn load(&self) -> Result<(Model, Params), Error> {
        let fit = self.fit()?;
        fit.check()?;
        let mut layout = Layout::builder();
        let model = Model::declare(&self.model, &mut layout, "")?;
        let mut params = Params::new(&layout.finish(), DType::F32);
        fit.load(&mut params, "")?;
        Ok((model, params))
    }

    /// SHA-256 of the file.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn sha256(&self) -> Result<String, Error> {
        Ok(self.import.file().sha256().map_err(ModelError::from)?)
    }
}

/// A model with one key set otherwise; the value is TOML, or else a string.
fn changed(model: &ModelConfig, set: &str) -> Result<ModelConfig, String> {
    let (key, text) = set.split_once('=').ok_or("expected `key=value`, a key of the model")?;
    let text = text.trim();
    let mut table = match serde_json::to_value(model) {
        Ok(Value::Object(table)) => table,
        Ok(_) | Err(_) => return Err("the model cannot be described".into()),
    };
    let value = toml::from_str::<toml::Table>(&format!("x = {text}")).ok().and_then(|mut t| t.remove("x"));
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_string()));
    table.insert(key.trim().to_string(), serde_json::to_value(value).map_err(|e| e.to_string())?);
    serde_json::from_value(Value::Object(table)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_model_is_set() {
        let base = preset("vit-small").unwrap();
        let ModelConfig::Vit(c) = changed(&base, "num_heads=12").unwrap() else { panic!("a ViT") };
        assert_eq!(c.num_heads, 12);
        let ModelConfig::Vit(c) = changed(&base, "position = shared-relative").unwrap() else { panic!("a ViT") };
        assert!(c.position.shared());
        for (wrong, word) in [("heads=3", "heads"), ("num_heads", "key=value"), ("num_heads=many", "num_heads")] {
            assert!(changed(&base, wrong).unwrap_err().contains(word), "{wrong}");
        }
    }
}
