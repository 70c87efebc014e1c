//! The command line: `distill`. Exit codes: 0; 1 when a check failed; 2 for a user's mistake, with one line on standard error;
//! 130 and 143 after SIGINT and SIGTERM.

mod cli;
mod commands;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fd_compute::Device;
use fd_distill::arguments::{end, one_line};
use fd_distill::{Error, interrupt};

use cli::{Cli, Command, Tables};
use commands::Outcome;

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
    match run(&cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(e) => match e.downcast_ref() {
            Some(Error::Interrupted { signal, .. }) => end(&format!("{e:#}"), signal.exit_code()),
            _ => end(&format!("error: {e:#}"), 2),
        },
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    cli.machine.set_up()?;
    let device = if cli.command.computes() { cli.machine.device()? } else { Device::CPU };
    // Inside the pool: a plan's run allocates nothing only when it is called from one of the pool's own threads.
    rayon::scope(|_| dispatch(cli, device))
}

fn dispatch(cli: &Cli, device: Device) -> anyhow::Result<Outcome> {
    let out = &mut commands::Output::new();
    // What has nothing to save may be stopped as any program is.
    let resumes = match &cli.command {
        Command::Table(args) => !args.dry_run(),
        Command::Run(args) => !args.dry_run(),
        Command::Sweep(args) => !args.dry_run(),
        Command::Features(_) | Command::Knn(_) => true,
        _ => false,
    };
    if resumes {
        interrupt::install().context("SIGINT and SIGTERM cannot be caught")?;
    }
    match &cli.command {
        Command::Table(args) => match args.options(device)? {
            Tables::One(options) => commands::table(&options, out),
            Tables::Paper(options) => commands::paper(&options, out),
        },
        Command::Run(args) => commands::table(&args.options(device), out),
        Command::Sweep(args) => commands::sweep(&args.options(device), out),
        Command::Init(args) => {
            let (options, force) = args.options();
            commands::init(&options, force, out)
        }
        Command::Inspect(args) => commands::inspect(&args.options(), out),
        Command::Convert(args) => commands::convert(&args.options()?, out),
        Command::Features(args) => {
            let (asked, wanted, options) = args.options(device);
            commands::features(&asked, wanted, options, out)
        }
        Command::Knn(args) => commands::knn(&args.options(device), out),
        Command::Plan(args) => commands::plan(&args.options()?, out),
        Command::Config(args) => commands::config(&args.options(), out),
        Command::Doctor { json } => commands::doctor(*json, out),
        Command::Status { folder } => commands::status(folder, out),
        Command::Parity { folder } => commands::parity(folder, cli.machine.in_f32(device), out),
        Command::GpuCheck(args) => commands::gpu_check(&args.options(&cli.machine)?, out),
        Command::Bench(cli::Bench::FdStep(args)) => commands::fd_step(&args.options(device), out),
        Command::Bench(cli::Bench::Roofline(args)) => commands::roofline(&args.options(&cli.machine)?, out),
        Command::Bench(cli::Bench::Profile { step, json }) => commands::profile(&step.options(device), *json, out),
        Command::Bench(cli::Bench::Attention { repeats, only }) => commands::attention(*repeats, only, out),
    }
}
