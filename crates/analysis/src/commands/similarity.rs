//! `analyze similarity`.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context as _;
use fd_analysis::similarity::{self, SimilarityOptions};
use fd_distill::progress::Progress;

/// Compares layers, writes tables and figures, and says where.
pub fn similarity(options: &SimilarityOptions, out: &Path, force: bool) -> anyhow::Result<()> {
    similarity::refuse_existing(out, force)?;
    let mut progress = Progress::new(1.0);
    let report = similarity::similarity(options, &mut progress)?;
    let paths = similarity::write(&report, out)?;
    let text: String = paths.iter().map(|p| format!("{}\n", p.display())).collect();
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has gone is no mistake.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("standard output"),
        _ => Ok(()),
    }
}
