//! The command line: `analyze`. Exit codes: 0; 2 for a user's mistake, with one line on standard error; 130 and 143 after SIGINT and
//! SIGTERM.

mod cli;
mod commands;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use fd_distill::arguments::{end, one_line};
use fd_distill::{Error, interrupt};

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.exit_code() == 0 => {
            // Help or the version, to standard output; a reader that has gone is no mistake.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => return end(&one_line(&e), 2),
    };
    let Err(e) = run(&cli) else { return ExitCode::SUCCESS };
    let below = |e: &anyhow::Error| match e.downcast_ref::<fd_analysis::Error>() {
        Some(fd_analysis::Error::Distill(Error::Interrupted { signal, .. })) => Some(*signal),
        _ => match e.downcast_ref() {
            Some(Error::Interrupted { signal, .. }) => Some(*signal),
            _ => None,
        },
    };
    match below(&e) {
        Some(signal) => end(&format!("{e:#}"), signal.exit_code()),
        None => end(&format!("error: {e:#}"), 2),
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    cli.machine.set_up()?;
    let device = cli.machine.device()?;
    interrupt::install().context("SIGINT and SIGTERM cannot be caught")?;
    // Inside the pool: a plan's run allocates nothing only when it is called from one of the pool's own threads.
    rayon::scope(|_| match &cli.command {
        Command::Attention(args) => commands::attention(args, device),
        Command::Landscape(args) => commands::landscape(&args.options(device)?),
        Command::Plots(args) => commands::plots(args, device),
        Command::Similarity(args) => commands::similarity(&args.options(device)?, &args.out(), args.force()),
    })
}
