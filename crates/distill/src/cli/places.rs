//! `--data` and `--teachers`: where data sets and teachers lie.

use std::path::PathBuf;

use clap::Args;
use fd_distill::places::Places;

/// Places that a configuration names by relative paths.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Where data lie: a configuration's imagenet/train is DIR/train; once for each name
    #[arg(long = "data", value_name = "NAME=DIR", value_parser = place)]
    data: Vec<(String, PathBuf)>,
    /// The folder of teachers' weight files that the configuration names by relative paths
    #[arg(long, value_name = "DIR")]
    teachers: Option<PathBuf>,
}

impl PlaceArgs {
    /// What the commands need.
    pub fn places(&self) -> Places {
        Places { data: self.data.clone(), teachers: self.teachers.clone() }
    }
}

fn place(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.into(), folder.into())),
        _ => Err("expected NAME=DIR, such as imagenet=/data/imagenet".into()),
    }
}
