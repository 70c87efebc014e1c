//! A GPU on trial: are its numbers those of the processor, and how fast is it? `distill gpu-check`.
//!
//! Everything it needs is in the binary, so that a machine needs nothing but a driver, NVRTC and cuBLASLt. Every section runs in a
//! process of its own (of `ops`, every operation), which writes what it finds as it finds it: a kernel that crashes or hangs costs its
//! own section, and no other. What would take longer than the time there is, is left out, and said.

mod cases;
mod child;
mod goldens;
mod kernels;
mod markdown;
mod ops;
mod record;
mod repeat;
mod report;
mod steps;
mod torch;
mod trajectory;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fd_compute::cuda::card;
use fd_compute::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::Error;
use child::Child;
use record::Record;
pub use report::{Ceilings, Check, Findings, Kernels, Line, Report, Skipped, Steps, Variant};

/// A part of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Every operation against its CPU twin.
    Ops,
    /// The same run twice, and as a graph or step by step: equal bits.
    Repeat,
    /// Numbers of the official classes.
    Goldens,
    /// Many steps beside the CPU's.
    Trajectory,
    /// What the device can do at most.
    Ceilings,
    /// Where a step's time goes.
    Kernels,
    /// Whole steps, and PyTorch's.
    Steps,
}

impl Section {
    /// All, in the order in which they run.
    pub const ALL: [Section; 7] =
        [Section::Ops, Section::Repeat, Section::Goldens, Section::Trajectory, Section::Ceilings, Section::Kernels, Section::Steps];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Section::Ops => "ops",
            Section::Repeat => "repeat",
            Section::Goldens => "goldens",
            Section::Trajectory => "trajectory",
            Section::Ceilings => "ceilings",
            Section::Kernels => "kernels",
            Section::Steps => "steps",
        }
    }
}

impl Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Section {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let names = Section::ALL.map(Section::name).join(", ");
        let unknown = || Error::Usage(format!("unknown section `{s}`: there are {names}"));
        Section::ALL.into_iter().find(|section| section.name() == s).ok_or_else(unknown)
    }
}

/// What is checked, and how.
#[derive(Clone, Debug)]
pub struct GpuCheckOptions {
    /// Which CUDA device.
    pub ordinal: usize,
    /// Where `gpu-check.json` and `gpu-check.md` go.
    pub out: PathBuf,
    /// Small shapes, for an emulated device.
    pub quick: bool,
    /// Only these sections; none: all. Where kernels or steps are, ceilings are measured, too.
    pub only: Vec<Section>,
    /// PyTorch's side of the comparison.
    pub torch: Option<PathBuf>,
    /// Time for all of it.
    pub limit: Duration,
    /// Factor on every tolerance: for tests of the check itself.
    pub tolerance_scale: f64,
    /// This process is one of a check's own.
    pub part: Option<Part>,
}

/// What one of a check's own processes does: the one section of `only`.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where its findings go.
    pub file: PathBuf,
    /// Of `ops`, the operation.
    pub op: Option<String>,
}

/// What a section's checks need to know.
struct Job<'a> {
    options: &'a GpuCheckOptions,
    end: Instant,
}

impl Job<'_> {
    fn device(&self, dtype: DType) -> Device {
        Device::cuda(self.options.ordinal, dtype)
    }

    fn quick(&self) -> bool {
        self.options.quick
    }

    /// Time that is left.
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Nothing is begun with less time than this.
const LEAST: Duration = Duration::from_secs(3);
/// An operation that takes longer hangs.
const OPERATION: Duration = Duration::from_secs(90);

/// Runs the check (or a part of it), prints a line for each finding, and at the end the page; true if everything held.
///
/// # Errors
/// A device that cannot be used; a folder that cannot be written to. What fails on the device is a finding.
pub fn gpu_check(options: &GpuCheckOptions, out: &mut impl Write) -> Result<bool, Error> {
    let job = Job { options, end: Instant::now() + options.limit };
    if let Some(part) = &options.part {
        return run_part(&job, part, out);
    }
    let start = Instant::now();
    // The device is for the processes that compute: it may be one that serves only one at a time.
    let mut report = Report::new(job.device(DType::F32).to_string(), card(options.ordinal)?, options.quick);
    // Before minutes are spent: can the results be written?
    report.write(&options.out)?;
    for section in wanted(&options.only) {
        let parts: Vec<Option<&str>> =
            if section == Section::Ops { fd_compute::ops::NAMES.iter().map(|op| Some(*op)).collect() } else { vec![None] };
        for op in parts {
            let found = delegate(&job, section, op, out)?;
            report.findings.take(found);
            report.seconds = start.elapsed().as_secs_f64();
            report.write(&options.out)?;
        }
    }
    say(out, format_args!("\n{}", markdown::page(&report)))?;
    let files = report.write(&options.out)?;
    say(out, format_args!("written: {} and {}", files[0].display(), files[1].display()))?;
    Ok(report.findings.passed())
}

/// The sections that run.
fn wanted(only: &[Section]) -> Vec<Section> {
    let compared = only.contains(&Section::Kernels) || only.contains(&Section::Steps);
    let is_wanted = |s: &Section| only.is_empty() || only.contains(s) || (*s == Section::Ceilings && compared);
    Section::ALL.into_iter().filter(is_wanted).collect()
}

/// One section, or one operation, in a process of its own.
fn delegate(job: &Job, section: Section, op: Option<&str>, out: &mut impl Write) -> Result<Findings, Error> {
    let name = op.unwrap_or(section.name());
    let left = job.left();
    if left < LEAST {
        let mut findings = Findings::default();
        let why = format!("{:.0} s are over", job.options.limit.as_secs_f64());
        say(out, format_args!("{section:<10}  {name}: left out: {why}"))?;
        findings.skipped.push(Skipped { section, what: name.into(), why });
        return Ok(findings);
    }
    let limit = if section == Section::Ops { left.min(OPERATION) } else { left + LEAST };
    let file = job.options.out.join(format!(".gpu-check.{}.{name}.json", std::process::id()));
    out.flush().map_err(|e| Error::Usage(format!("standard output: {e}")))?;
    let ended = Child::of(job.options, section, op, &file, left)?.wait(limit)?;
    let mut findings = Findings::read(&file);
    let _ = std::fs::remove_file(&file);
    if let Some(why) = ended.trouble() {
        let check = record::failure(section, name, "its process", "", &why);
        say(out, format_args!("{}", record::line(&check)))?;
        findings.checks.push(check);
    }
    Ok(findings)
}

/// What one of a check's own processes does.
fn run_part(job: &Job, part: &Part, out: &mut impl Write) -> Result<bool, Error> {
    let &[section] = job.options.only.as_slice() else { return Err(Error::Usage("gpu-check: a part is one section".into())) };
    let mut record = Record::new(section, part.file.clone(), job.options.tolerance_scale, out);
    match section {
        Section::Ops => ops::run(job, part.op.as_deref(), &mut record),
        Section::Repeat => repeat::run(job, &mut record),
        Section::Goldens => goldens::run(job, &mut record),
        Section::Trajectory => trajectory::run(job, &mut record),
        Section::Ceilings => kernels::ceilings(job, &mut record),
        Section::Kernels => kernels::run(job, &mut record),
        Section::Steps => steps::run(job, &mut record),
    }?;
    record.finish()?;
    Ok(true)
}

fn say(out: &mut impl Write, text: std::fmt::Arguments) -> Result<(), Error> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::Usage(format!("standard output: {e}")))
}
