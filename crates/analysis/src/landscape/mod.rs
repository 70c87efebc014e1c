//! Loss and accuracy around fine-tuned models, and how sharp the minima are (paper, section 5; Li et al. 2018).
//!
//! A landscape is f(a, b) = L(θ + a d₁ + b d₂) along random, filter-normalised directions ([`direction`]), measured in f32 on a fixed
//! set of images ([`images`]) for every model with the same random numbers. Beside it stand numbers ([`sharpness`]): the mean increase
//! at a distance, and the largest eigenvalue and the trace of the Hessian ([`hessian`]), by products with vectors in double precision
//! ([`objective`]).
//!
//! ```text
//! subject (files, or a run) ─┬─> direction ─> surface ─> workers ─> journal ─> landscape.csv
//! images (subset, decoded)  ─┴─> objective ─> hessian ─> sharpness ─> journal ─> sharpness.csv      landscape.json is written last
//! ```
//!
//! Points are computed side by side and written in order ([`workers`], [`journal`]), so what an interrupted run leaves is a beginning
//! of its result. The folder belongs to one configuration, of which the weights' and the images' checksums are a part.

pub mod direction;
mod eigen;
pub mod hessian;
pub mod images;
pub mod journal;
pub mod objective;
pub mod report;
pub mod sharpness;
pub mod subject;
pub mod surface;
#[cfg(test)]
mod tests;
pub mod workers;

use std::path::PathBuf;

use fd_compute::{Device, simd};
use fd_distill::Error;
use fd_distill::progress::Progress;
use fd_distill::run_dir::{Meta, RunDir};
use fd_distill::table::fits_memory;

use self::direction::Direction;
use self::images::{Data, DataChoice, Images, Selection};
use self::journal::Journal;
use self::report::{DataEntry, ModelEntry, POINTS, REPORT, SHARPNESS};
use self::sharpness::{Block, Probe, blocks};
use self::subject::{Named, Run, RunChoice, Subject};
use self::workers::in_order;

pub use self::report::{Curvature, Landscape, LandscapeReport, Point, Settings, Sharpness};

/// What `analyze landscape` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Weight files.
    pub models: Vec<Named>,
    /// A run whose models come before them.
    pub run: Option<RunChoice>,
    /// Keys of the models in the files, `key=value`: what files do not say.
    pub sets: Vec<String>,
    /// Where images come from.
    pub data: DataChoice,
    /// Which images.
    pub selection: Selection,
    /// Grid, directions, numbers.
    pub settings: Settings,
    /// The folder to write.
    pub out: PathBuf,
    /// Replace what another configuration has left there.
    pub force: bool,
    /// Where it computes.
    pub device: Device,
}

/// Everything in memory, checked.
struct Prepared {
    report: LandscapeReport,
    subjects: Vec<Subject>,
    /// As each model sees them: its place in `images`.
    seen: Vec<usize>,
    images: Vec<Images>,
}

/// Measures, or goes on where it was stopped, and returns all of it. Everything is read and checked before the folder is made.
///
/// # Errors
/// Options, models and data that do not go together; another configuration's folder; [`Error::Interrupted`].
pub fn run(options: &Options, progress: impl FnOnce(f64) -> Progress) -> Result<Landscape, Error> {
    let prepared = prepare(options)?;
    let report = &prepared.report;
    let refuse = |why: String| Error::File { path: options.out.clone(), why };
    let identity = toml::Table::try_from(report).map_err(|e| refuse(e.to_string()))?;
    let run = RunDir::claim(&options.out, &identity, &["files"], options.force)?;
    if options.force {
        for name in [POINTS, SHARPNESS, REPORT].into_iter().flat_map(|name| [name.to_string(), format!("{name}.part")]) {
            let _ = std::fs::remove_file(run.file(name));
        }
    }
    run.write_config(&identity)?;
    run.write_meta(&Meta { device: options.device, seeds: &report.settings.seeds })?;
    measure(&prepared, options, &run, progress).map_err(|e| match e {
        Error::Interrupted { signal, .. } => Error::Interrupted { signal, checkpoints: Some(options.out.clone()) },
        e => e,
    })?;
    let mut text = serde_json::to_string_pretty(report).map_err(|e| refuse(e.to_string()))?;
    text.push('\n');
    run.write(REPORT, text.as_bytes())?;
    Landscape::read(&options.out)
}

fn prepare(options: &Options) -> Result<Prepared, Error> {
    let settings = &options.settings;
    settings.check()?;
    let run = options.run.as_ref().map(Run::open).transpose()?;
    let named: Vec<&Named> = run.iter().flat_map(|r| &r.models).chain(&options.models).collect();
    check_names(&named)?;
    let subjects = named.into_iter().map(|named| Subject::load(named, &options.sets)).collect::<Result<Vec<_>, _>>()?;
    let first = subjects.first().ok_or_else(|| Error::Usage("no model: name weight files, or a run with --run".into()))?;
    let data = Data::open(&options.data, run.as_ref(), &options.selection, first.config.in_chans(), options.device)?;
    let (mut images, mut seen, mut models): (Vec<Images>, _, _) = (vec![], vec![], vec![]);
    for (i, subject) in subjects.iter().enumerate() {
        // Models of one size and normalisation share their images.
        let alike = |s: &Subject| s.config.img_size() == subject.config.img_size() && s.normalise == subject.normalise;
        let there = subjects[..i].iter().position(alike).map(|j| seen[j]);
        data.check(subject)?;
        if there.is_none() {
            images.push(data.seen_by(subject)?);
        }
        seen.push(there.unwrap_or(images.len() - 1));
        models.push(entry(subject, settings)?);
    }
    let data = DataEntry {
        name: data.name().to_string(),
        images: data.source().len(),
        classes: data.classes,
        fingerprint: data.fingerprint()?,
        selection: options.selection.clone(),
    };
    let report = LandscapeReport {
        precision: "f32".into(),
        simd: simd::level().name().into(),
        files: subjects.iter().map(|s| s.file.display().to_string()).collect(),
        settings: settings.clone(),
        data,
        models,
    };
    Ok(Prepared { report, subjects, seen, images })
}

/// Names have to tell models apart in a table.
fn check_names(named: &[&Named]) -> Result<(), Error> {
    for (i, Named { name, .. }) in named.iter().enumerate() {
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Error::Usage(format!("{name:?} cannot be the name of a model")));
        }
        if named[..i].iter().any(|other| other.name == *name) {
            return Err(Error::Usage(format!("two models are called `{name}`: name them, NAME=FILE")));
        }
    }
    Ok(())
}

/// What the report says of a model. Its tensors are chosen here for the first time, and its curvature's memory is asked for.
fn entry(subject: &Subject, settings: &Settings) -> Result<ModelEntry, Error> {
    let layout = subject.params.layout();
    let in_model = |e: Error| Error::File { path: subject.file.clone(), why: e.to_string() };
    let count = |tensors: &direction::Tensors| -> Result<usize, Error> {
        let chosen = tensors.of(layout).map_err(in_model)?;
        Ok(chosen.into_iter().map(|p| layout.shape(p).iter().product::<usize>()).sum())
    };
    // Lanczos keeps its basis.
    let vectors = 6 + settings.hessian.iterations;
    fits_memory("--hessian-iterations", (vectors * count(&settings.hessian.tensors)? * size_of::<f64>()) as u64)?;
    Ok(ModelEntry {
        name: subject.name.clone(),
        sha256: subject.sha256.clone(),
        moved: count(&settings.tensors)?,
        normalise: subject.normalise.clone(),
        model: subject.config.clone(),
    })
}

/// Fills both tables.
fn measure(prepared: &Prepared, options: &Options, run: &RunDir, progress: impl FnOnce(f64) -> Progress) -> Result<(), Error> {
    let Prepared { report, subjects, seen, images } = prepared;
    let settings = &report.settings;
    let (grid, blocks) = (settings.grid(), blocks(settings));
    let (mut points, mut numbers) = tables(report, run)?;
    let of_points = subjects.len() * settings.seeds.len() * grid.len();
    let of_numbers = subjects.len() * blocks.iter().map(|b| b.work(settings)).sum::<usize>();
    let mut progress = progress((of_points + of_numbers) as f64);
    let probes =
        subjects.iter().zip(seen).map(|(subject, seen)| Probe { subject, images: &images[*seen], settings, device: options.device });
    let probes: Vec<Probe> = probes.collect();

    progress.begin(0, "points", of_points as u64, of_points as f64);
    progress.resume(0, points.rows().len() as u64);
    let landscapes = probes.iter().flat_map(|probe| settings.seeds.iter().map(move |seed| (probe, *seed)));
    for (i, (probe, seed)) in landscapes.enumerate() {
        fill(probe, seed, i * grid.len(), &mut points, &mut progress)?;
    }
    points.finish()?;
    progress.done(0, format_args!("{of_points} points"));

    progress.begin(1, "sharpness", of_numbers as u64, of_numbers as f64);
    let (mut behind, mut rows) = (0, 0);
    for (probe, block) in probes.iter().flat_map(|probe| blocks.iter().map(move |block| (probe, block))) {
        rows += block.quantities(settings).len();
        let name = &probe.subject.name;
        find(probe, block, rows, &mut numbers, |n| progress.step(1, (behind + n) as u64, name))?;
        behind += block.work(settings);
    }
    numbers.finish()?;
    progress.done(1, format_args!("{rows} numbers"));
    Ok(())
}

/// The tables of points and of numbers, with what an earlier run has filled in.
fn tables(report: &LandscapeReport, run: &RunDir) -> Result<(Journal, Journal), Error> {
    let settings = &report.settings;
    let (grid, blocks) = (settings.grid(), blocks(settings));
    let start = |name: &str, seed: u64| csv_fields(&[name, &seed.to_string()]);
    let (mut points, mut numbers) = (vec![], vec![]);
    for ModelEntry { name, .. } in &report.models {
        for seed in &settings.seeds {
            let start = start(name, *seed);
            points.extend(grid.iter().map(|(a, b)| format!("{start},{a},{b}")));
        }
        for q in blocks.iter().flat_map(|block| block.quantities(settings)) {
            let radius = q.radius.map_or(String::new(), |r| r.to_string());
            numbers.push(format!("{},{},{radius}", start(name, q.seed), q.name));
        }
    }
    let points = Journal::open(run.file(POINTS), "model,seed,a,b,loss,accuracy", points, 2)?;
    Ok((points, Journal::open(run.file(SHARPNESS), "model,seed,quantity,radius,value,uncertainty,samples", numbers, 3)?))
}

/// Measures the points of one landscape that are missing; the table's row `first` is its first point.
fn fill(probe: &Probe, seed: u64, first: usize, points: &mut Journal, progress: &mut Progress) -> Result<(), Error> {
    let grid = probe.settings.grid();
    let there = points.rows().len().saturating_sub(first).min(grid.len());
    if there == grid.len() {
        return Ok(());
    }
    let (recipe, weights) = (probe.recipe(seed), &probe.subject.params);
    let a = Direction::new(&recipe, weights, "a", None)?;
    let b = match probe.settings.dims {
        1 => None,
        _ => Some(Direction::new(&recipe, weights, "b", Some(&a).filter(|_| probe.settings.orthogonal))?),
    };
    let at = |surface: &mut surface::Surface, i: usize| {
        let steps: Vec<(f64, &Direction)> =
            [(grid[i].0, Some(&a)), (grid[i].1, b.as_ref())].into_iter().filter_map(|(x, d)| Some((x, d?))).collect();
        surface.at(&steps)
    };
    in_order(
        there..grid.len(),
        || probe.surface(),
        at,
        |i, measured| {
            points.push(&[measured.loss, measured.accuracy])?;
            progress.step(0, (first + i + 1) as u64, format_args!("{}, seed {seed}", probe.subject.name));
            Ok(())
        },
    )
}

/// Finds the numbers of a block, if some of its rows, which end at row `end` of the table, are missing.
fn find(probe: &Probe, block: &Block, end: usize, table: &mut Journal, each: impl FnMut(usize)) -> Result<(), Error> {
    let missing = end.saturating_sub(table.rows().len());
    if missing == 0 {
        return Ok(());
    }
    let found = probe.find(block, each)?;
    found[found.len() - missing..].iter().try_for_each(|numbers| table.push(numbers))
}

/// Fields of a CSV file, quoted where they have to be.
fn csv_fields(fields: &[&str]) -> String {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::Any(b'\n')).from_writer(vec![]);
    // Nothing can go wrong in memory.
    let _ = writer.write_record(fields);
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_string()
}
