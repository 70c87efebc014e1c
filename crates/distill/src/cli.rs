//! What can be said on the command line.

mod config;
mod gpu;
mod places;
mod plan;
mod preset;
mod weights;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fd_compute::Device;
use fd_distill::Error;
use fd_distill::arguments::{MachineArgs, at_most};
use fd_distill::bench::{BenchOptions, Preset};
use fd_distill::config::Source;

pub use self::config::ConfigArgs;
use self::gpu::{GpuCheckArgs, RooflineArgs};
use self::places::PlaceArgs;
pub use self::plan::PlanArgs;
use self::preset::{PaperArgs, TablePreset, preset};
use self::weights::{ConvertArgs, FeaturesArgs, InitArgs, InspectArgs, KnnArgs};
use crate::commands::{PaperOptions, RunOptions, SweepOptions, TableOptions};

/// Feature distillation of vision transformers.
#[derive(Debug, Parser)]
#[command(name = "distill", version, arg_required_else_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Distil teachers, evaluate before and after with controls; writes a table and figures
    Table(TableArgs),
    /// Run a configuration of your own; as `table --config FILE`
    Run(RunFileArgs),
    /// Run a table at several points of its keys; writes a table, a figure and a verdict
    Sweep(SweepArgs),
    /// Write a commented configuration that distils a teacher of yours on images of yours
    Init(InitArgs),
    /// What is in a weight file: tensors, statistics, the architecture; exit code 1 when it is broken or not what was asked for
    Inspect(InspectArgs),
    /// Write an encoder's weights in official, timm's or transformers' names
    Convert(ConvertArgs),
    /// Extract features of a folder of images to a file; goes on where it was stopped
    Features(FeaturesArgs),
    /// Nearest-neighbour accuracy of frozen features
    Knn(KnnArgs),
    /// What a distillation, or a table, would cost: FLOPs, memory, days; runs and allocates nothing of it
    Plan(Box<PlanArgs>),
    /// Every key of a table's configuration: its value, type, range, default and what it does
    Config(ConfigArgs),
    /// What this machine gives, and what to do about what is missing
    Doctor {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// How the runs below a folder stand
    Status {
        /// The folder
        #[arg(value_name = "DIR", default_value = "runs")]
        folder: PathBuf,
    },
    /// Compare our engine with a folder of golden vectors; exit code 1 when a case fails
    Parity {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Hold a GPU's numbers against the processor's and measure how fast it is; exit code 1 when a check fails
    GpuCheck(GpuCheckArgs),
    /// Measure speed; prints one line of JSON
    #[command(subcommand, arg_required_else_help = false)]
    Bench(Bench),
}

impl Command {
    /// Does it compute, and so need its device? What only reads files must not wait for one, nor take its memory. A check opens its own.
    pub fn computes(&self) -> bool {
        use Command::{Config, Convert, Doctor, GpuCheck, Init, Inspect, Plan, Status};
        let reads = matches!(self, Init(_) | Inspect(_) | Convert(_) | Plan(_) | Config(_) | Doctor { .. } | Status { .. });
        !reads && !matches!(self, GpuCheck(_) | Command::Bench(Bench::Roofline(_)))
    }
}

/// What every command that runs stages takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Seeds: a list a,b,c, or how many (N stands for 0 to N - 1); default: the configuration's
    #[arg(long, value_name = "N|A,B,…", value_parser = seeds)]
    pub seeds: Option<Seeds>,
    /// Override a key, such as distil.recipe.epochs=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    #[command(flatten)]
    places: PlaceArgs,
    /// The run directory; default: runs/ and the configuration's name
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A folder of stages to share with other runs; default: in the run directory
    #[arg(long, value_name = "DIR")]
    pub stages: Option<PathBuf>,
    /// Stages side by side, sharing the threads; default: as many as threads for small models, else 1. Results do not depend on it
    #[arg(long, value_name = "N", value_parser = at_most::<256>)]
    pub jobs: Option<usize>,
    /// Seconds between two checkpoints of a stage
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub checkpoint_every: Duration,
    /// Only say what would run, how long it takes, how much memory it needs and what is there already
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what another configuration has left in the run directory
    #[arg(long)]
    pub force: bool,
}

impl RunArgs {
    fn options(&self, device: Device) -> RunOptions {
        RunOptions {
            sets: self.sets.clone(),
            places: self.places.places(),
            seeds: self.seeds.clone().map(|s| s.0),
            out: self.out.clone(),
            stages: self.stages.clone(),
            jobs: self.jobs,
            checkpoint_every: self.checkpoint_every,
            dry_run: self.dry_run,
            force: self.force,
            device,
        }
    }
}

/// `distill table`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// A configuration that comes with the binary: main, the table at the size of a laptop; smoke, the code paths in seconds; small, more
    /// images and a larger model (a night or more, needs data of yours); paper, all rows of the paper (needs ImageNet and teachers); one
    /// of them, such as paper/dino-b
    #[arg(long, value_name = "NAME", value_parser = preset, default_value = "main", conflicts_with = "config")]
    preset: TablePreset,
    /// A configuration file instead
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
    /// Only this teacher of the configuration; may be given several times
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// A teacher of your own (safetensors or PyTorch, of the shape that the first teacher's `model` says) as the only one
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// The model in that file, where it holds several: a part of its path, such as teacher
    #[arg(long, value_name = "PATH", requires = "teacher")]
    pub key: Option<String>,
    /// Interpolate that teacher's positions to the model's grid and windows, if they are for others
    #[arg(long, requires = "teacher")]
    pub interpolate: bool,
    /// Train the teachers, too, where the binary has them; exit code 1 when other ones come out
    #[arg(long)]
    pub pretrain: bool,
    /// Write the teachers in half precision, with a manifest, into a folder (how assets/teachers is made)
    #[arg(long, value_name = "DIR", hide_short_help = true, requires = "pretrain")]
    pub ship: Option<PathBuf>,
    #[command(flatten)]
    of_paper: PaperArgs,
}

/// A list of seeds. (A plain `Vec` would be taken as an option that may be given several times.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(Vec<u64>);

/// What `distill table` does.
pub enum Tables {
    /// A table.
    One(TableOptions),
    /// The paper's rows.
    Paper(PaperOptions),
}

impl TableArgs {
    /// Is nothing to run?
    pub fn dry_run(&self) -> bool {
        self.run.dry_run
    }

    /// What the command needs.
    ///
    /// # Errors
    /// Options of one table with `--preset paper`, or the other way round.
    pub fn options(&self, device: Device) -> Result<Tables, Error> {
        let (teacher, ship) = (self.teacher.clone(), self.ship.clone());
        let run = self.run.options(device);
        let config = match (&self.config, &self.preset) {
            (Some(file), _) => Source::File(file.clone()),
            (None, TablePreset::One(source)) => source.clone(),
            (None, TablePreset::Paper) => {
                let of_one = [("--teacher", teacher.is_some()), ("--pretrain", self.pretrain), ("--only", !self.only.is_empty())];
                if let Some((option, _)) = of_one.into_iter().find(|(_, given)| *given) {
                    return Err(Error::Usage(format!("{option} goes with one table, not with --preset paper")));
                }
                return Ok(Tables::Paper(self.of_paper.options(run)));
            }
        };
        self.of_paper.refuse()?;
        let (key, interpolate) = (self.key.clone(), self.interpolate);
        Ok(Tables::One(TableOptions { config, run, only: self.only.clone(), teacher, key, interpolate, pretrain: self.pretrain, ship }))
    }
}

/// `distill run`.
#[derive(Debug, Args)]
pub struct RunFileArgs {
    /// The configuration, such as `distill init` writes
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

impl RunFileArgs {
    /// Is nothing to run?
    pub fn dry_run(&self) -> bool {
        self.run.dry_run
    }

    /// What the command needs.
    pub fn options(&self, device: Device) -> TableOptions {
        let (config, run) = (Source::File(self.file.clone()), self.run.options(device));
        TableOptions { config, run, only: vec![], teacher: None, key: None, interpolate: false, pretrain: false, ship: None }
    }
}

/// `distill sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The sweep: experiments/sweeps/*.toml
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

impl SweepArgs {
    /// Is nothing to run?
    pub fn dry_run(&self) -> bool {
        self.run.dry_run
    }

    /// What the command needs.
    pub fn options(&self, device: Device) -> SweepOptions {
        SweepOptions { config: Source::File(self.file.clone()), run: self.run.options(device) }
    }
}

/// `distill bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A whole step of feature distillation on random images
    FdStep(FdStepArgs),
    /// Where a step's time goes: every operation's time, and how near it is to what this machine does at most
    Profile {
        #[command(flatten)]
        step: FdStepArgs,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Attention alone, forward and backward: a line for each of several shapes
    Attention {
        /// Passes to measure
        #[arg(long, default_value = "10", value_parser = at_most::<1_000_000>)]
        repeats: usize,
        /// Only shapes whose name contains this
        #[arg(long, default_value = "", hide_default_value = true)]
        only: String,
    },
    /// What a step would take at least on a GPU, counted: no GPU is needed; prints a table in Markdown
    Roofline(RooflineArgs),
}

/// `distill bench fd-step`.
#[derive(Debug, Args)]
pub struct FdStepArgs {
    /// Sizes: mini, tiny, vitb, vitl or swint (Swin-T to Swin v2-T)
    #[arg(long)]
    pub preset: Preset,
    /// Images a step; default: the preset's
    #[arg(long, value_parser = at_most::<4096>)]
    pub batch: Option<usize>,
    /// Steps to measure
    #[arg(long, default_value = "10", value_parser = at_most::<1_000_000>)]
    pub steps: usize,
    /// Steps before them
    #[arg(long, default_value = "2")]
    pub warmup: u32,
    /// Compute the student's blocks again in the backward pass
    #[arg(long)]
    pub recompute: bool,
}

impl FdStepArgs {
    /// What the benchmark needs.
    pub fn options(&self, device: Device) -> BenchOptions {
        BenchOptions {
            preset: self.preset,
            batch: self.batch,
            steps: self.steps,
            warmup: self.warmup as usize,
            recompute: self.recompute,
            device,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(|| "expected a number of seconds".into())
}

/// `3` is 0, 1, 2; `0,5` is 0 and 5; `3,` is 3 alone.
fn seeds(text: &str) -> Result<Seeds, String> {
    let expected = || String::from("expected how many seeds (1 to 1000), or a list such as 0,1,2 without repetitions");
    if !text.contains(',') {
        return Ok(Seeds((0..at_most::<1000>(text).map_err(|_| expected())? as u64).collect()));
    }
    let list = text.strip_suffix(',').unwrap_or(text).split(',');
    // A configuration's integers have 63 bits.
    let seeds: Vec<u64> = list.map(|s| s.trim().parse::<u32>().map(u64::from)).collect::<Result<_, _>>().map_err(|_| expected())?;
    let repeated = seeds.iter().enumerate().any(|(i, s)| seeds[..i].contains(s));
    if repeated { Err(expected()) } else { Ok(Seeds(seeds)) }
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
    fn seeds_are_a_list_or_a_number() {
        for (text, list) in [("3", vec![0, 1, 2]), ("0,5", vec![0, 5]), ("7,", vec![7]), ("1, 2", vec![1, 2])] {
            assert_eq!(seeds(text), Ok(Seeds(list)), "{text}");
        }
        for wrong in ["", "0", ",", "1,,2", "1,1", "-1", "x", "1001", "1,99999999999"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["distill", "bench", "fd-step", "--preset", "mini", "--threads", "1", "-vv"]).unwrap();
        assert_eq!((cli.machine.threads, cli.machine.verbose, cli.machine.device), (Some(1), 2, fd_compute::DeviceChoice::Auto));
    }
}
