//! `distill config`.

use std::path::PathBuf;

use clap::Args;
use fd_distill::config::Source;

use super::preset::{TablePreset, names, preset};
use crate::commands::ConfigOptions;

/// `distill config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Only what this names, such as distil.recipe or teachers.DINO.model
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// The configuration that comes with the binary whose values are shown
    #[arg(long, value_name = "NAME", value_parser = one, default_value = "main", conflicts_with = "config")]
    preset: Source,
    /// A configuration file instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl ConfigArgs {
    /// What the command needs.
    pub fn options(&self) -> ConfigOptions {
        let source = self.config.clone().map_or_else(|| self.preset.clone(), Source::File);
        ConfigOptions { source, prefix: self.prefix.clone(), json: self.json }
    }
}

/// A preset that is one table.
fn one(text: &str) -> Result<Source, String> {
    match preset(text)? {
        TablePreset::One(source) => Ok(source),
        TablePreset::Paper => Err(format!("is several tables; there are {}", names())),
    }
}
