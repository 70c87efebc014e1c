//! What the subcommands do: read, run, write; the work is the library's.

use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use fd_compute::Device;
use fd_distill::bench::{self, BenchOptions};
use fd_distill::config::{self, Source};
use fd_distill::progress::Progress;
use fd_distill::run_dir::{Meta, Metrics, MetricsWriter, RunDir};
use fd_distill::table::{self, Run, Stages, TableConfig, TableResult};
use fd_distill::train::StepReport;
use fd_distill::{Error, parity as goldens};
use fd_model::Checkpoint;

/// How a command ended that was not stopped by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// A check said no.
    CheckFailed,
}

/// Standard output whose reader may leave: what is written after that goes nowhere, silently.
#[derive(Debug)]
pub struct Output {
    gone: bool,
}

impl Output {
    /// With a reader still there.
    pub fn new() -> Output {
        Output { gone: false }
    }

    fn forgive<T>(&mut self, result: std::io::Result<T>, instead: T) -> std::io::Result<T> {
        match result {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(instead)
            }
            result => result,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        self.forgive(std::io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.gone {
            return Ok(());
        }
        self.forgive(std::io::stdout().flush(), ())
    }
}

/// What `distill table` runs.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// The configuration.
    pub config: Source,
    /// Overrides `key.path=value`, in order.
    pub sets: Vec<String>,
    /// Seeds instead of the configuration's.
    pub seeds: Option<Vec<u64>>,
    /// The run directory; none: `runs/` and the table's name.
    pub out: Option<PathBuf>,
    /// A teacher's weights in place of those that the table would train.
    pub teacher: Option<PathBuf>,
    /// Where it computes.
    pub device: Device,
}

/// Runs a table into its run directory and prints it. Everything is checked before the directory is made.
pub fn table(options: &TableOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let (mut config, mut resolved) = config::load::<TableConfig>(&options.config, &options.sets)?;
    if let Some(seeds) = &options.seeds {
        config.seeds.clone_from(seeds);
        resolved.insert("seeds".into(), toml::Value::try_from(seeds).context("--seeds")?);
    }
    let stages = Stages::new(&config, options.device).with_context(|| options.config.name().display().to_string())?;
    let teacher = options.teacher.as_deref().map(Checkpoint::read).transpose()?;
    teacher.as_ref().map_or(Ok(()), |weights| stages.check_teacher(weights))?;
    let steps = table::total_steps(&stages, teacher.is_some());
    let run = RunDir::create(directory(options, &config.name)?)?;
    run.write_config(&resolved)?;
    run.write_meta(&Meta { device: options.device, seeds: &config.seeds })?;
    let mut log = Log { progress: Progress::new(steps as f64), metrics: run.metrics()?, failed: None };
    let mut save = |model: &str, seed: u64, weights: &Checkpoint| -> Result<(), Error> {
        Ok(weights.write(&run.file(format!("{model}-seed{seed}.safetensors")))?)
    };
    let mut report = |stage: &str, seed: u64, step: &StepReport| log.step(stage, seed, step);
    let result = table::run(&stages, Run { teacher: teacher.as_ref(), report: &mut report, save: &mut save })?;
    log.finish(&result)?;
    run.write("table.md", result.markdown().as_bytes())?;
    run.write("table.csv", result.csv().as_bytes())?;
    run.write("table.json", &serde_json::to_vec_pretty(&result).context("table.json")?)?;
    result.figure(&run.file("table.svg"))?;
    result.figure(&run.file("table.png"))?;
    write!(out, "{}\nWritten to {}\n", result.markdown(), run.path().display()).and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

fn directory(options: &TableOptions, name: &str) -> anyhow::Result<PathBuf> {
    let one = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let plain = one && !name.contains(char::is_control);
    match &options.out {
        Some(out) => Ok(out.clone()),
        None if plain => Ok(Path::new("runs").join(name)),
        None => {
            let why = format!("key `name`: {name:?} cannot be the name of a directory; use --out");
            Err(Error::Config { file: options.config.name().to_path_buf(), why }.into())
        }
    }
}

/// Steps of the optimiser between two lines of `metrics.csv`.
const EVERY: usize = 10;

/// Progress on standard error, metrics on disk.
struct Log {
    progress: Progress,
    metrics: MetricsWriter,
    failed: Option<Error>,
}

impl Log {
    fn step(&mut self, stage: &str, seed: u64, r: &StepReport) {
        if r.step == 1 {
            self.progress.stage(&format!("{stage}, seed {seed}"), r.steps as u64);
        }
        self.progress.step(r.step as u64, format_args!("loss {:.4}  {:.0} images/s", r.loss, r.images_per_second));
        let last = r.step == r.steps;
        if last {
            self.progress.done(format_args!("loss {:.4}, {:.0} images/s", r.loss, r.images_per_second));
        }
        if self.failed.is_none() && (r.step == 1 || last || r.step.is_multiple_of(EVERY)) {
            let (loss, lr) = (Some(r.loss), Some(r.lr));
            let (grad_norm, images_per_second) = (Some(r.grad_norm), Some(r.images_per_second));
            let (step, epoch) = (r.step, r.epoch as f64);
            let row = Metrics { stage, seed, step, epoch, loss, lr, grad_norm, images_per_second, accuracy: None };
            self.failed = self.metrics.row(&row).err();
        }
    }

    /// The accuracies, and what went wrong with an earlier line.
    fn finish(mut self, result: &TableResult) -> Result<(), Error> {
        for row in &result.rows {
            for (metric, accuracies) in [("fine-tune", &row.fine_tune), ("probe", &row.probe)] {
                let stage = format!("{metric} of {}", row.name);
                for (&accuracy, &seed) in accuracies.iter().zip(&result.seeds) {
                    self.metrics.row(&Metrics { stage: &stage, seed, accuracy: Some(accuracy), ..Metrics::default() })?;
                }
            }
        }
        self.failed.map_or(Ok(()), Err)
    }
}

/// Compares the engine with golden vectors.
pub fn parity(folder: &Path, out: &mut Output) -> anyhow::Result<Outcome> {
    let report = goldens::parity(folder, out)?;
    Ok(if report.failed > 0 { Outcome::CheckFailed } else { Outcome::Done })
}

/// Prints the benchmark's line.
pub fn fd_step(options: &BenchOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let line = bench::fd_step(options)?;
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}
