//! `distill plan`.

use std::io::Write;

use anyhow::Context as _;
use fd_distill::Error;
use fd_distill::config::{self, Source};
use fd_distill::price::{Fleet, Overview, Pair, PairPrice, Rate, Schedule, Side, TablePrice, Variant, overview};
use fd_distill::table::{TableConfig, thousands};
use fd_model::{ModelConfig, Position, SwinVersion};
use serde::Serialize;

use super::columns::{columns, figure, memory};
use super::{Outcome, Output};

/// What `distill plan` prices.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The subject.
    pub priced: Priced,
    /// Devices and what they do.
    pub fleet: Fleet,
    /// Print JSON.
    pub json: bool,
}

/// The subject of a price.
#[derive(Clone, Debug)]
pub enum Priced {
    /// Every architecture.
    Overview {
        /// Images a step.
        batch: usize,
        /// How long.
        schedule: Schedule,
    },
    /// An architecture's pair of student and teacher.
    Pair {
        /// The architecture.
        name: String,
        /// The teacher; none: the one that belongs to it.
        teacher: Option<String>,
        /// Side of the images; none: the published one.
        img_size: Option<usize>,
        /// Images a step and device.
        batch: usize,
        /// Micro-batches.
        accumulate: usize,
        /// How long.
        schedule: Schedule,
    },
    /// A table.
    Table {
        /// Its configuration.
        source: Source,
        /// Overrides `key.path=value`.
        sets: Vec<String>,
        /// So many images of so many classes in place of its own.
        imagined: Option<(usize, usize)>,
        /// Are data sets that are not there taken to be of their published size?
        published: bool,
    },
}

/// Prices and prints.
pub fn plan(options: &PlanOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let fleet = options.fleet;
    let text = match &options.priced {
        Priced::Overview { batch, schedule } => {
            let price = overview(*batch, *schedule, fleet)?;
            if options.json { json("overview", &price)? } else { of_all(&price) }
        }
        Priced::Pair { name, teacher, img_size, batch, accumulate, schedule } => {
            let price = Pair::new(name, teacher.as_deref(), *img_size)?.price(*batch, *accumulate, *schedule, fleet)?;
            if options.json { json("pair", &price)? } else { of_pair(&price) }
        }
        Priced::Table { source, sets, imagined, published } => {
            let (config, _) = config::load::<TableConfig>(source, sets)?;
            let priced = match imagined {
                None if *published => TablePrice::of_published(config, fleet),
                imagined => TablePrice::of(config, *imagined, fleet),
            };
            let price = priced.map_err(|e| match e {
                Error::Usage(why) if why.starts_with("data.") && imagined.is_none() => {
                    Error::Usage(format!("{why}; --images N prices it without its images"))
                }
                e => e,
            });
            let price = price.with_context(|| source.name().display().to_string())?;
            if options.json { json("table", &price)? } else { of_table(&price) }
        }
    };
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

fn json(plan: &'static str, price: &impl Serialize) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Line<'a, T> {
        plan: &'static str,
        #[serde(flatten)]
        price: &'a T,
    }
    Ok(serde_json::to_string(&Line { plan, price })?)
}

const COUNTED: &str = "Counted from the plans that would run, not measured: a multiply-add is two operations; the optimiser's own are left out. \
                       Memory is that of the f32\nthat the engine computes in.";

fn of_pair(price: &PairPrice) -> String {
    let millions = |n: usize| format!("{} M", figure(n as f64 / 1e6));
    let side = |role: &str, s: &Side| {
        let ((h, w), (rows, cols)) = (s.model.img_size(), s.grid);
        let sizes = [format!("{h} x {w}"), format!("{rows} x {cols}"), s.tokens.to_string(), s.width.to_string()];
        [vec![role.into(), millions(s.parameters)], sizes.to_vec()].concat()
    };
    let blank = || String::from("–");
    let projector = vec!["projector".into(), millions(price.projector_parameters), blank(), blank(), blank(), blank()];
    let sides = [side("student", &price.student), side("teacher", &price.teacher), projector];
    let head = ["model", "parameters", "image", "map", "tokens", "width"];
    let (student, teacher) = (&price.student, &price.teacher);
    let said =
        [String::new(), format!("  as {}: {}", student.name, described(&student.model)), format!("  {}", teacher.name), String::new()];
    let models: Vec<String> = columns(&head, &sides).into_iter().zip(said).map(|(line, said)| line + &said).collect();
    let mut notes = vec![];
    let several = price.variants.iter().any(|v| v.split.accumulate > 1);
    if several {
        let (n, micro) = (price.accumulate, price.batch / price.accumulate);
        notes.push(format!("{n} x {micro}: {n} micro-batches of {micro} images, their gradients averaged."));
    }
    notes.push(
        "recomputed: of every block of the student only its input is kept, and the rest is computed again in the backward pass.".into(),
    );
    notes.push(COUNTED.into());
    notes.push(days(&price.fleet, Some(&price.schedule), true));
    [models.join("\n"), variants(price).join("\n"), notes.join("\n")].join("\n\n")
}

fn variants(price: &PairPrice) -> Vec<String> {
    let title = |v: &Variant| {
        let how = if v.split.recompute { "recomputed" } else { "kept" };
        if v.split.accumulate > 1 { format!("{how}, {} x {}", v.split.accumulate, v.split.micro_batch) } else { how.into() }
    };
    let row = |name: &str, cell: &dyn Fn(&Variant) -> String| [vec![name.into()], price.variants.iter().map(cell).collect()].concat();
    let giga = |x: f64| figure(x / 1e9);
    let mut rows = vec![
        row("teacher forward, GFLOP an image", &|v| giga(v.step.flops_per_image.teacher_forward)),
        row("student forward, GFLOP an image", &|v| giga(v.step.flops_per_image.student_forward)),
        row("student backward, GFLOP an image", &|v| giga(v.step.flops_per_image.student_backward)),
        row("together, GFLOP an image", &|v| giga(v.step.flops_per_image.total)),
        row(&format!("together, TFLOP a step of {}", price.batch), &|v| figure(v.step.flops_per_step / 1e12)),
        row("parameters, trained", &|v| memory(v.step.bytes.trained)),
        row("parameters, frozen", &|v| memory(v.step.bytes.frozen)),
        row("gradients", &|v| memory(v.step.bytes.gradients)),
        row("optimiser moments", &|v| memory(v.step.bytes.moments)),
        row("activations", &|v| memory(v.step.bytes.activations)),
        row("memory together", &|v| memory(v.step.bytes.total)),
    ];
    if price.fleet.rate.is_some() {
        rows.push(row("days", &|v| v.days.map_or("–".into(), figure)));
    }
    let head = row("activations are", &title);
    columns(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}

/// What a model is, beside its sizes.
fn described(model: &ModelConfig) -> String {
    match model {
        ModelConfig::Vit(c) => {
            let position = match c.position {
                Position::SharedRelative => ", one relative position bias for all blocks",
                _ => "",
            };
            format!("ViT of {} blocks, patches of {}{position}", c.depth, c.patch_size)
        }
        ModelConfig::Swin(c) => {
            let version = if c.version == SwinVersion::V2 { 2 } else { 1 };
            format!("Swin v{version} of {:?} blocks, windows of {}", c.depths, c.window_size)
        }
    }
}

fn of_all(price: &Overview) -> String {
    let step = format!("TFLOP a step of {}", price.batch);
    let rate = price.fleet.rate.is_some();
    let mut head = vec!["architecture", "parameters", "tokens", "width", "GFLOP forward", "GFLOP FD", &step, "memory, batch 1", "teacher"];
    if rate {
        head.push("days");
    }
    let row = |row: &fd_distill::price::OverviewRow| {
        let a = &row.architecture;
        let mut cells = vec![
            a.name.clone(),
            format!("{} M", figure(a.parameters as f64 / 1e6)),
            a.tokens.to_string(),
            a.width.to_string(),
            figure(row.forward_flops_per_image / 1e9),
            figure(row.distillation_flops_per_image / 1e9),
            figure(row.distillation_flops_per_step / 1e12),
            memory(row.bytes_at_batch_1),
            row.teacher.clone(),
        ];
        cells.extend(row.days.map(figure));
        cells
    };
    let lines = columns(&head, &price.architectures.iter().map(row).collect::<Vec<_>>()).join("\n");
    let of = "GFLOP are for an image. FD: the student that belongs to the architecture learns from that teacher, activations kept; more of one \
              with `distill plan NAME`.";
    [lines, [of, COUNTED, &days(&price.fleet, Some(&price.schedule), false)].join("\n")].join("\n\n")
}

fn of_table(price: &TablePrice) -> String {
    [stages(price), notes(&price.fleet)].join("\n")
}

/// How the prices of tables were found.
pub(super) fn notes(fleet: &Fleet) -> String {
    [COUNTED, &days(fleet, None, false)].join("\n")
}

/// What each stage of a table costs, and all of them.
pub(super) fn stages(price: &TablePrice) -> String {
    let mut head = vec!["stage", "stages", "steps", "GFLOP a step", "TFLOP a stage", "memory"];
    if price.fleet.rate.is_some() {
        head.push("days a stage");
    }
    let rows: Vec<Vec<String>> = price
        .stages
        .iter()
        .map(|s| {
            let mut cells = vec![
                s.stage.clone(),
                s.stages.to_string(),
                thousands(s.steps),
                figure(s.flops_per_step / 1e9),
                figure(s.flops / 1e12),
                memory(s.bytes),
            ];
            cells.extend(s.days.map(figure));
            cells
        })
        .collect();
    let of = std::iter::once("of".to_string()).chain(price.stages.iter().map(|s| s.of.join("; ")));
    let lines: Vec<String> = columns(&head, &rows).into_iter().zip(of).map(|(line, of)| format!("{line}  {of}")).collect();
    let count: usize = price.stages.iter().map(|s| s.stages).sum();
    let total = format!(
        "{}: {count} stages that train, on {} images{}: {} TFLOP{}",
        price.name,
        thousands(price.images),
        if price.classes > 0 { format!(" of {} classes", price.classes) } else { String::new() },
        figure(price.flops / 1e12),
        price.days.map_or(String::new(), |days| format!(", {} days one after the other", figure(days)))
    );
    [lines.join("\n"), total].join("\n\n")
}

/// What the days are of, or how to get any.
fn days(fleet: &Fleet, schedule: Option<&Schedule>, one_model: bool) -> String {
    let devices = if fleet.devices == 1 { "1 device".into() } else { format!("{} devices", thousands(fleet.devices)) };
    let of = schedule.map_or(String::new(), |s| format!("{} images x {} epochs, ", thousands(s.images), thousands(s.epochs)));
    match fleet.rate {
        Some(Rate::Tflops(x)) => format!("Days: {of}{devices} at a sustained {x} TFLOP/s each."),
        Some(Rate::ImagesPerSecond(x)) => format!("Days: {of}{devices} at {x} images/s each."),
        // Models of different sizes do not train equally many images a second.
        None if one_model => "Days: say what a device sustains, --tflops X, or trains, --images-per-second X.".into(),
        None => "Days: say what a device sustains, --tflops X.".into(),
    }
}
