//! `distill table`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use fd_distill::config::{self, Source};
use fd_distill::graph::{Graph, Store};
use fd_distill::run_dir::{RunDir, git_revision};
use fd_distill::table::{Builder, Context, MODELS, MadeModel, PROJECTOR, Sources, TableConfig, TablePlan, TableResult, WEIGHTS};
use fd_distill::teachers::{self, Shipped};
use fd_distill::{curves, sha256_hex, status};

use super::execute::{Execution, directory};
use super::{Outcome, Output, RunOptions};

/// What `distill table` runs.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// The configuration.
    pub config: Source,
    /// How stages run.
    pub run: RunOptions,
    /// Only these of its teachers; empty: all.
    pub only: Vec<String>,
    /// A teacher's weights in place of the configuration's teachers.
    pub teacher: Option<PathBuf>,
    /// The model in that file.
    pub key: Option<String>,
    /// Interpolate its positions to the model's grid and windows.
    pub interpolate: bool,
    /// Train teachers even where the binary has them.
    pub pretrain: bool,
    /// Write the teachers and their manifest into this folder.
    pub ship: Option<PathBuf>,
}

/// Runs a table into its run directory and prints it. Everything is checked before the directory is made.
pub fn table(options: &TableOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let ready = Ready::new(options, &mut Sources::default())?;
    if options.run.dry_run {
        write!(out, "{}", ready.execution().rehearse()?).and_then(|()| out.flush()).context("standard output")?;
        return Ok(Outcome::Done);
    }
    Ok(ready.run(out)?.0)
}

/// A table of which everything has been read and checked, and nothing has run.
pub struct Ready<'a> {
    options: &'a TableOptions,
    resolved: toml::Table,
    directory: PathBuf,
    context: Arc<Context>,
    graph: Graph,
    plan: TablePlan,
}

impl<'a> Ready<'a> {
    /// Reads configuration, data and teachers.
    pub fn new(options: &'a TableOptions, sources: &mut Sources) -> anyhow::Result<Ready<'a>> {
        let named = || options.config.name().display().to_string();
        let (mut config, mut resolved) = config::load::<TableConfig>(&options.config, &options.run.sets)?;
        if let Some(seeds) = &options.run.seeds {
            config.seeds.clone_from(seeds);
            // The rest stays as it was written: a number that went through f32 would not look the same.
            let seeds = toml::Value::try_from(seeds).context("seeds")?;
            resolved.insert("seeds".into(), seeds);
        }
        if !options.only.is_empty() {
            config.keep_teachers(&options.only).with_context(|| format!("{}: --only", named()))?;
            resolved = toml::Table::try_from(&config).context("the resolved configuration")?;
        }
        if let Some(path) = &options.teacher {
            config.teachers.truncate(1);
            for teacher in &mut config.teachers {
                (teacher.name, teacher.weights) = ("given teacher".into(), Some(path.clone()));
                teacher.interpolate |= options.interpolate;
                teacher.key = options.key.clone().or_else(|| teacher.key.take());
            }
            config.paper.clear();
            config.gains.clear();
            config.ensembles.clear();
            resolved = toml::Table::try_from(&config).context("the resolved configuration")?;
        }
        options.run.places.settle_data(&mut config).with_context(named)?;
        if options.teacher.is_none() {
            options.run.places.settle_teachers(&mut config).with_context(named)?;
        }
        let directory = directory(&options.run, &options.config, &config.name)?;
        let context = Arc::new(Context::with(config, options.run.device, sources).with_context(named)?);
        let mut graph = Graph::default();
        let plan = Builder::new(&mut graph, options.pretrain).table(&context).with_context(named)?;
        Ok(Ready { options, resolved, directory, context, graph, plan })
    }

    fn execution(&self) -> Execution<'_> {
        let (targets, directory) = (self.plan.targets(), self.directory.clone());
        Execution { graph: &self.graph, targets, directory, options: &self.options.run }
    }

    /// Runs and prints it; a table without columns has no result.
    pub fn run(&self, out: &mut Output) -> anyhow::Result<(Outcome, Option<TableResult>)> {
        let Ready { options, resolved, context, graph, plan, .. } = self;
        let execution = self.execution();
        let (run, ran) = execution.run(&context.config.name, resolved, &context.config.seeds)?;
        let store = execution.store();
        let models = plan.models();
        for (model, id) in &models {
            let stage = store.dir(graph.node(*id));
            run.link(&model.file, &stage.join(WEIGHTS))?;
            let projector = stage.join(PROJECTOR);
            if projector.exists() {
                run.link(format!("{}-projector.safetensors", model.file.trim_end_matches(".safetensors")), &projector)?;
            }
        }
        let listed: Vec<&MadeModel> = models.iter().map(|(model, _)| model).collect();
        run.write(MODELS, &serde_json::to_vec_pretty(&listed).context(MODELS)?)?;
        if context.config.columns.is_empty() {
            curves::curves(run.path(), &status::RunPlan::read(run.path())?)?;
            writeln!(out, "{} stages ran, {} were there already. Weights:", ran.ran, ran.cached).context("standard output")?;
            for model in listed {
                writeln!(out, "  {}", run.path().join(&model.file).display()).context("standard output")?;
            }
            let outcome = teachers_of(options, plan, graph, &store, out)?;
            out.flush().context("standard output")?;
            return Ok((outcome, None));
        }
        let result = plan.result(graph, &store)?;
        write(&run, &result)?;
        curves::curves(run.path(), &status::RunPlan::read(run.path())?)?;
        writeln!(out, "{}", result.markdown()).context("standard output")?;
        let outcome = teachers_of(options, plan, graph, &store, out)?;
        writeln!(out, "{} stages ran, {} were there already. Written to {}", ran.ran, ran.cached, run.path().display())
            .and_then(|()| out.flush())
            .context("standard output")?;
        Ok((outcome, Some(result)))
    }
}

/// The pages and figures of a finished table.
fn write(run: &RunDir, result: &TableResult) -> anyhow::Result<()> {
    for (name, text) in [("table.md", result.markdown()), ("table.tex", result.latex()), ("table.csv", result.csv())] {
        run.write(name, text.as_bytes())?;
    }
    run.write("differences.csv", result.comparisons_csv().as_bytes())?;
    run.write("table.json", &serde_json::to_vec_pretty(result).context("table.json")?)?;
    for end in ["svg", "png"] {
        result.figure(&run.file(format!("table.{end}")))?;
        result.differences_figure(&run.file(format!("differences.{end}")))?;
    }
    Ok(())
}

/// Compares remade teachers with the shipped ones, and ships teachers if asked to.
fn teachers_of(options: &TableOptions, plan: &TablePlan, graph: &Graph, store: &Store, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Done;
    if options.pretrain {
        for (name, entry, id) in &plan.shipped {
            let sha = sha256_hex(&store.read(graph.node(*id), WEIGHTS)?);
            let simd = options.run.device.arithmetic();
            if sha == entry.sha256 {
                writeln!(out, "{name}: remade, equal to the shipped teacher (SHA-256 {sha}, {simd})")?;
            } else {
                writeln!(
                    out,
                    "{name}: remade at {simd}, SHA-256 {sha}: NOT the shipped teacher's {}, made at {}",
                    entry.sha256, entry.simd
                )?;
                outcome = Outcome::CheckFailed;
            }
        }
    }
    if let Some(folder) = &options.ship {
        let entry = |(name, id): &(String, _)| -> anyhow::Result<(String, Vec<u8>, Shipped)> {
            let node = graph.node(*id);
            let bytes = store.read(node, WEIGHTS)?;
            let entry = Shipped {
                key: node.key.as_str().into(),
                sha256: sha256_hex(&bytes),
                simd: options.run.device.arithmetic(),
                commit: git_revision().unwrap_or_else(|| "unknown".into()),
                command: "cargo xtask reproduce-table --pretrain --seeds 1".into(),
            };
            Ok((name.clone(), bytes, entry))
        };
        let entries = plan.teachers.iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
        teachers::ship(folder, &entries)?;
    }
    Ok(outcome)
}
