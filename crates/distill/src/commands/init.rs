//! `distill init`.

use std::io::Write;

use anyhow::Context as _;
use fd_distill::Error;
use fd_distill::run_dir::write_file;
use fd_distill::starter::{StarterOptions, starter};

use super::{Outcome, Output};

/// Writes a configuration to start from.
pub fn init(options: &StarterOptions, force: bool, out: &mut Output) -> anyhow::Result<Outcome> {
    let text = starter(options)?;
    match &options.out {
        Some(path) if path.exists() && !force => {
            return Err(Error::File { path: path.clone(), why: "is there already; --force replaces it".into() }.into());
        }
        Some(path) => {
            write_file(path, text.as_bytes())?;
            writeln!(out, "written: {}; next: distill run {}", path.display(), path.display())
        }
        None => write!(out, "{text}"),
    }
    .and_then(|()| out.flush())
    .context("standard output")?;
    Ok(Outcome::Done)
}
