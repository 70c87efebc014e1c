//! `distill sweep`.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;
use fd_distill::Error;
use fd_distill::config::Source;
use fd_distill::graph::{Graph, Store};
use fd_distill::run_dir::RunDir;
use fd_distill::sweep::{Point, SweepConfig, SweepResult, expand};
use fd_distill::table::{self, Builder, Cell, Column, Context, MODELS, Sources, TableConfig, TablePlan, WEIGHTS};
use fd_distill::teachers::slug;

use super::execute::{Execution, directory};
use super::{Outcome, Output, RunOptions};

/// What `distill sweep` runs.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The sweep's file.
    pub config: Source,
    /// How stages run.
    pub run: RunOptions,
}

/// Runs a table at every point of a sweep, in one graph of stages, and says what came out.
pub fn sweep(options: &SweepOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut config = SweepConfig::load(options.config.name())?;
    if let Some(seeds) = &options.run.seeds {
        config.seeds.clone_from(seeds);
    }
    let (points, base) = (expand(&config)?, config.base(table::embedded)?);
    let (mut graph, mut sources) = (Graph::default(), Sources::default());
    let mut plans: Vec<TablePlan> = vec![];
    let (mut resolved, mut of_data, mut columns) = (toml::Table::new(), (String::new(), 0), vec![]);
    for point in &points {
        let named = || format!("{} ({})", config.file.display(), point.title(&config));
        let (mut at, text) = at(&config, &base, &options.run.sets, point)?;
        options.run.places.settle_data(&mut at).and_then(|()| options.run.places.settle_teachers(&mut at)).with_context(named)?;
        let context = Arc::new(Context::with(at, options.run.device, &mut sources).with_context(named)?);
        plans.push(Builder::new(&mut graph, false).students(&context).with_context(named)?);
        resolved.insert(point.title(&config), toml::Value::Table(text));
        of_data = (context.data(), context.test.len());
        columns = config.columns.iter().map(|key| Column { key: key.clone(), title: context.config.title(key) }).collect();
    }
    let directory = directory(&options.run, &options.config, &format!("sweep-{}", config.name))?;
    let targets = plans.iter().flat_map(TablePlan::targets).collect();
    let execution = Execution { graph: &graph, targets, directory, options: &options.run };
    if options.run.dry_run {
        write!(out, "{}", execution.rehearse()?).and_then(|()| out.flush()).context("standard output")?;
        return Ok(Outcome::Done);
    }
    let (run, ran) = execution.run(&config.name, &resolved, &config.seeds)?;
    let (store, mut cells) = (execution.store(), std::collections::HashMap::<(usize, usize, usize), Cell>::new());
    for (p, plan) in plans.iter().enumerate() {
        for (t, by_column) in plan.cells().enumerate() {
            for (c, stages) in by_column.enumerate() {
                cells.insert((t, p, c), table::cell(stages, &config.columns[c], &graph, &store)?);
            }
        }
    }
    write_models(&points, &plans, &config, &graph, &store, &run)?;
    let result = SweepResult::new(&config, &points, columns, of_data, |t, p, c| cells.get(&(t, p, c)).cloned());
    for (name, text) in [("sweep.md", result.markdown()), ("sweep.tex", result.latex()), ("sweep.csv", result.csv())] {
        run.write(name, text.as_bytes())?;
    }
    run.write("sweep.json", &serde_json::to_vec_pretty(&result).context("sweep.json")?)?;
    for end in ["svg", "png"] {
        result.figure(&run.file(format!("sweep.{end}")))?;
        result.differences_figure(&run.file(format!("differences.{end}")))?;
    }
    writeln!(out, "{}", result.markdown()).context("standard output")?;
    writeln!(out, "{} stages ran, {} were there already. Written to {}", ran.ran, ran.cached, run.path().display())
        .and_then(|()| out.flush())
        .context("standard output")?;
    Ok(Outcome::Done)
}

/// Links the points' models below `weights/` and lists them; a point's title stands for the row.
fn write_models(
    points: &[Point],
    plans: &[TablePlan],
    config: &SweepConfig,
    graph: &Graph,
    store: &Store,
    run: &RunDir,
) -> anyhow::Result<()> {
    let mut listed = vec![];
    for (i, (point, plan)) in points.iter().zip(plans).enumerate() {
        let title = point.title(config);
        for (mut model, id) in plan.models() {
            model.file = model.file.replacen("weights/", &format!("weights/{i}-{}-", slug(&title)), 1);
            model.row.clone_from(&title);
            run.link(&model.file, &store.dir(graph.node(id)).join(WEIGHTS))?;
            listed.push(model);
        }
    }
    Ok(run.write(MODELS, &serde_json::to_vec_pretty(&listed).context(MODELS)?)?)
}

/// The table at a point, cut down to the sweep's teachers, columns and seeds.
fn at(config: &SweepConfig, base: &Source, sets: &[String], point: &Point) -> anyhow::Result<(TableConfig, toml::Table)> {
    let (mut at, _) = config.resolve::<TableConfig>(base, sets, point)?;
    let refuse = |why: String| Error::Config { file: config.file.clone(), why };
    if let Some(name) = config.teachers.iter().find(|name| at.teachers.iter().all(|t| t.name != **name)) {
        let there: Vec<String> = at.teachers.iter().map(|t| format!("`{}`", t.name)).collect();
        return Err(
            refuse(format!("key `teachers`: no teacher `{name}` in {}; there is {}", base.name().display(), there.join(", "))).into()
        );
    }
    let of = |name: &String| at.teachers.iter().find(|t| t.name == *name).cloned();
    at.teachers = config.teachers.iter().filter_map(of).collect();
    (at.columns, at.seeds) = (config.columns.clone(), config.seeds.clone());
    at.paper.clear();
    at.gains.clear();
    let mut text = toml::Table::try_from(&at).context("the resolved configuration")?;
    // Seeds may be added to a sweep.
    text.remove("seeds");
    Ok((at, text))
}
