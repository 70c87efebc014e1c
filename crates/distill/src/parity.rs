//! Our engine against golden vectors: any folder of cases in the format of `goldens/`, told apart by what their JSON says.
//!
//! A case is `<case>.json` with, mostly, `<case>.safetensors` beside it (see [`fd_model::goldens`]). Its kind, sizes and options are
//! read from there, never from file names. It is run in f32, and every tensor of it is either an input or compared; one that is
//! neither counts as a failure. The tolerance is ten times what PyTorch's own f32 does (`f32_dev` in the JSON), at least 5e-6, of the
//! error max|x - ref| / max(max|ref|, 1e-4). A case whose class or options we do not have is *unknown*, with the reason.

mod checks;
mod distillation;
mod encoder;
mod interpolation;
mod kind;
mod losses;
mod objectives;
mod optimiser;
mod schedules;
mod swin;
mod training;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use fd_compute::{DType, Device};
use fd_model::ModelError;
use fd_model::goldens::{Golden, Tensors};
use serde_json::Value;

use crate::Error;
use checks::Checks;
pub use checks::Row;
use kind::Kind;

/// How many cases came out how, and each of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases of which everything was compared and within its tolerance.
    pub passed: usize,
    /// Cases of which something was not.
    pub failed: usize,
    /// Cases that this crate cannot run.
    pub unknown: usize,
    /// The cases, in the order of their names.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its file's name without an ending.
    pub name: String,
    /// What came out.
    pub verdict: Verdict,
    /// What was compared, in groups of tensors.
    pub rows: Vec<Row>,
}

/// What came out of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All compared, all within tolerance.
    Passed,
    /// What is wrong, one line each.
    Failed(Vec<String>),
    /// Why it cannot be run.
    Unknown(String),
}

/// Why a case ends early.
#[derive(Debug)]
enum Stop {
    /// It has something that we do not have.
    Unknown(String),
    /// It contradicts itself or our engine.
    Failed(String),
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::File { why, .. } => Stop::Unknown(why),
            ModelError::Config { .. } => Stop::Unknown(error.to_string()),
            other => Stop::Failed(other.to_string()),
        }
    }
}

impl From<fd_compute::Error> for Stop {
    fn from(error: fd_compute::Error) -> Self {
        Stop::Failed(error.to_string())
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Model(e) => e.into(),
            other => Stop::Failed(other.to_string()),
        }
    }
}

/// Runs every case of a folder on a device, in f32, and prints a line for each group of tensors.
///
/// # Errors
/// A device that runs in another type; a folder without cases; a file that cannot be read or is not what its name says, named; an output that cannot be written.
pub fn parity(folder: &Path, device: Device, out: &mut impl Write) -> Result<Report, Error> {
    if device.dtype() != DType::F32 {
        return Err(Error::Usage(format!("parity compares in f32, not in {}", device.dtype().name())));
    }
    let mut report = Report::default();
    for (name, is_folder) in names(folder)? {
        let case = if is_folder {
            let why = "a folder, not a case: image preprocessing is fd-data's own test".to_owned();
            Case { name, verdict: Verdict::Unknown(why), rows: vec![] }
        } else {
            run(folder, name, device)?
        };
        print(&case, out).map_err(|e| Error::Usage(format!("the report cannot be written: {e}")))?;
        match case.verdict {
            Verdict::Passed => report.passed += 1,
            Verdict::Failed(_) => report.failed += 1,
            Verdict::Unknown(_) => report.unknown += 1,
        }
        report.cases.push(case);
    }
    writeln!(out, "{} passed, {} failed, {} unknown", report.passed, report.failed, report.unknown)
        .map_err(|e| Error::Usage(format!("the report cannot be written: {e}")))?;
    Ok(report)
}

/// Cases and folders by name: (name, is it a folder?).
fn names(folder: &Path) -> Result<BTreeSet<(String, bool)>, Error> {
    let fail = |e: std::io::Error| Error::File { path: folder.to_path_buf(), why: e.to_string() };
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let is_case = path.extension().is_some_and(|e| e == "json" || e == "safetensors");
        if let (true, Some(stem)) = (is_case || path.is_dir(), path.file_stem()) {
            found.insert((stem.to_string_lossy().into_owned(), path.is_dir()));
        }
    }
    if found.is_empty() {
        return Err(Error::File { path: folder.to_path_buf(), why: "no golden cases (<case>.json, <case>.safetensors) in it".into() });
    }
    Ok(found)
}

fn run(folder: &Path, name: String, device: Device) -> Result<Case, Error> {
    let (json, tensors) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.safetensors")));
    if !json.exists() {
        let verdict = Verdict::Failed(vec![format!("{} has no {name}.json beside it", tensors.display())]);
        return Ok(Case { name, verdict, rows: vec![] });
    }
    let fail = |why: String| Error::File { path: json.clone(), why };
    let bytes = std::fs::read(&json).map_err(|e| fail(e.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
    let kind = kind::of(&value);
    let golden = match &kind {
        // A schedule is numbers in the JSON alone, and what we cannot run need not have tensors.
        Ok(Kind::Schedules) | Err(_) if !tensors.exists() => Golden { case: name.clone(), json: value, tensors: Tensors::new() },
        _ => match Golden::read(folder, &name) {
            Err(e @ ModelError::DType { .. }) => {
                return Ok(Case { name, verdict: Verdict::Unknown(e.to_string()), rows: vec![] });
            }
            golden => golden?,
        },
    };
    Ok(compare(&golden, kind, device))
}

/// Compares one case that has been read with what a device computes in f32.
pub fn compare_golden(golden: &Golden, device: Device) -> Case {
    compare(golden, kind::of(&golden.json), device)
}

fn compare(golden: &Golden, kind: Result<Kind, Stop>, device: Device) -> Case {
    let mut checks = Checks::new(golden, device);
    let run = |kind| match kind {
        Kind::Encoder => encoder::run(&mut checks),
        Kind::Distillation => distillation::run(&mut checks),
        Kind::Training => training::run(&mut checks),
        Kind::Objectives => objectives::run(&mut checks),
        Kind::Optimiser => optimiser::run(&mut checks),
        Kind::Schedules => schedules::run(&mut checks),
        Kind::Interpolation => interpolation::run(&mut checks),
    };
    let result = kind.and_then(run);
    let name = golden.case.clone();
    match result {
        Err(Stop::Unknown(why)) => Case { name, verdict: Verdict::Unknown(why), rows: vec![] },
        result => {
            let (rows, mut failures) = checks.finish(result.is_ok());
            if let Err(Stop::Failed(why)) = result {
                failures.insert(0, why);
            }
            let verdict = if failures.is_empty() { Verdict::Passed } else { Verdict::Failed(failures) };
            Case { name, verdict, rows }
        }
    }
}

fn print(case: &Case, out: &mut impl Write) -> std::io::Result<()> {
    if let Verdict::Unknown(why) = &case.verdict {
        return writeln!(out, "{}: unknown: {why}", case.name);
    }
    writeln!(out, "{}", case.name)?;
    for row in &case.rows {
        writeln!(out, "  {row}")?;
    }
    let Verdict::Failed(failures) = &case.verdict else { return writeln!(out, "  PASS") };
    for failure in failures {
        writeln!(out, "  {failure}")?;
    }
    writeln!(out, "  FAIL")
}
