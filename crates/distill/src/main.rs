//! The command line: `distill`. Exit codes: 0; 1 when a check failed; 2 for a user's mistake, with one line on standard error;
//! 130 and 143 after SIGINT and SIGTERM.

mod cli;
mod commands;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use fd_compute::simd;
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
        Err(e) => return refuse(&cli::one_line(&e)),
    };
    match run(&cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(e) => match e.downcast_ref() {
            Some(Error::Interrupted { signal, .. }) => end(&format!("{e:#}"), signal.exit_code()),
            _ => refuse(&format!("error: {e:#}")),
        },
    }
}

fn refuse(message: &str) -> ExitCode {
    end(message, 2)
}

/// Says why, in one line.
fn end(message: &str, code: u8) -> ExitCode {
    let line: Vec<&str> = message.split(char::is_control).map(str::trim).filter(|s| !s.is_empty()).collect();
    let _ = writeln!(std::io::stderr(), "{}", line.join(" "));
    ExitCode::from(code)
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    log(cli.verbose);
    cli.device.check()?;
    if let Some(level) = cli.simd
        && !simd::force(level)
    {
        let here: Vec<&str> = simd::Level::available().into_iter().map(simd::Level::name).collect();
        bail!("--simd {}: this machine has {}", level.name(), here.join(", "));
    }
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.threads {
        pool = pool.num_threads(threads);
    }
    pool.build_global().context("--threads: the thread pool cannot be made")?;
    // Inside the pool: a plan's run allocates nothing only when it is called from one of the pool's own threads.
    rayon::scope(|_| dispatch(cli))
}

fn dispatch(cli: &Cli) -> anyhow::Result<Outcome> {
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
        Command::Table(args) => match args.options(cli.device)? {
            Tables::One(options) => commands::table(&options, out),
            Tables::Paper(options) => commands::paper(&options, out),
        },
        Command::Run(args) => commands::table(&args.options(cli.device), out),
        Command::Sweep(args) => commands::sweep(&args.options(cli.device), out),
        Command::Init(args) => {
            let (options, force) = args.options();
            commands::init(&options, force, out)
        }
        Command::Inspect(args) => commands::inspect(&args.options(), out),
        Command::Convert(args) => commands::convert(&args.options(), out),
        Command::Features(args) => {
            let (asked, wanted, options) = args.options(cli.device);
            commands::features(&asked, wanted, options, out)
        }
        Command::Knn(args) => commands::knn(&args.options(cli.device), out),
        Command::Plan(args) => commands::plan(&args.options()?, out),
        Command::Config(args) => commands::config(&args.options(), out),
        Command::Doctor { json } => commands::doctor(*json, out),
        Command::Status { folder } => commands::status(folder, out),
        Command::Parity { folder } => commands::parity(folder, out),
        Command::Bench(cli::Bench::FdStep(args)) => commands::fd_step(&args.options(cli.device), out),
        Command::Bench(cli::Bench::Attention { repeats, only }) => commands::attention(*repeats, only, out),
    }
}

/// Messages go to standard error: warnings, more with `-v`, or what `RUST_LOG` says.
fn log(verbose: u8) {
    let level = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let _ = tracing_subscriber::fmt().log_internal_errors(false).with_writer(std::io::stderr).with_env_filter(filter).try_init();
}
