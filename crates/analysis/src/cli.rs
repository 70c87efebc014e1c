//! What can be said on the command line.

mod landscape;
mod similarity;

use clap::{Parser, Subcommand};
use fd_distill::arguments::MachineArgs;

use self::landscape::LandscapeArgs;
use self::similarity::SimilarityArgs;
use crate::commands::{AttentionArgs, PlotsArgs};

/// Analyses of trained vision transformers.
#[derive(Debug, Parser)]
#[command(name = "analyze", version, arg_required_else_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The analyses.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attention distance, entropy and similarity of heads, averaged maps and their patterns
    Attention(Box<AttentionArgs>),
    /// Loss and accuracy around fine-tuned models, and how sharp the minima are; goes on where it was stopped
    Landscape(Box<LandscapeArgs>),
    /// Every figure of the paper for a finished table, and a page that shows them and says which of its observations hold
    Plots(PlotsArgs),
    /// How alike the layers of several models are (linear CKA), their effective rank, the scale of their tokens, a probe a layer
    Similarity(Box<SimilarityArgs>),
}

/// `LABEL=VALUE`.
fn labelled(text: &str) -> Result<(String, String), String> {
    let (label, value) = text.split_once('=').ok_or("expected LABEL=VALUE")?;
    if label.trim().is_empty() || value.is_empty() {
        return Err("expected LABEL=VALUE".into());
    }
    Ok((label.trim().into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_stand_before_the_first_sign() {
        assert_eq!(labelled("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(labelled("a").is_err() && labelled("=b").is_err() && labelled("a=").is_err());
    }
}
