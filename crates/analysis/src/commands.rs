//! The commands, one a file: what each is told, and what it does with the library.

mod attention;
mod landscape;
mod plots;
mod similarity;

pub use attention::{AttentionArgs, attention};
pub use landscape::landscape;
pub use plots::{PlotsArgs, run as plots};
pub use similarity::similarity;

use std::io::{ErrorKind, Write};

use anyhow::Context as _;

/// Writes to standard output, whose reader may leave.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}
