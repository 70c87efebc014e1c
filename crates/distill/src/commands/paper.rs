//! `distill table --preset paper`: the paper's rows one after the other, and one table of them all.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use fd_distill::config;
use fd_distill::places;
use fd_distill::price::{Fleet, TablePrice};
use fd_distill::run_dir::RunDir;
use fd_distill::table::{Sources, TableConfig, paper as of_paper};

use super::columns::figure;
use super::plan::{notes, stages};
use super::table::Ready;
use super::{Outcome, Output, RunOptions, TableOptions};

/// What `distill table --preset paper` runs.
#[derive(Clone, Debug)]
pub struct PaperOptions {
    /// The rows.
    pub rows: Vec<&'static str>,
    /// How stages run; overrides may be of a row (`ROW:KEY=VALUE`).
    pub run: RunOptions,
    /// Devices, for a dry run's days.
    pub fleet: Fleet,
}

/// Runs each row into its own run directory, and writes the joined table after each. All rows are read and checked before one runs.
pub fn paper(options: &PaperOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let root = options.run.out.clone().unwrap_or_else(|| Path::new("runs").join("paper"));
    let rows = options.rows.iter().map(|row| Ok((*row, options.row(row, &root)?))).collect::<anyhow::Result<Vec<_>>>()?;
    options.check_places()?;
    if options.run.dry_run {
        return priced(options, &rows, out);
    }
    let mut sources = Sources::default();
    let ready = rows.iter().map(|(row, table)| Ok((*row, Ready::new(table, &mut sources)?))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut joined = of_paper::PaperTable::default();
    let folder = RunDir::create(&root)?;
    for (row, ready) in ready {
        let (_, result) = ready.run(out)?;
        joined.rows.extend(result.map(|result| (row.to_string(), result)));
        folder.write("table.md", joined.markdown().as_bytes())?;
        folder.write("table.csv", joined.csv().as_bytes())?;
    }
    writeln!(out, "{}\nWritten to {}", joined.markdown(), folder.file("table.md").display())
        .and_then(|()| out.flush())
        .context("standard output")?;
    Ok(Outcome::Done)
}

impl PaperOptions {
    /// A row as a table of its own. Rows share their stages: what two of them need is done once.
    fn row(&self, row: &'static str, root: &Path) -> anyhow::Result<TableOptions> {
        let config = of_paper::source(row).context("every row is embedded")?;
        let mut run = RunOptions {
            sets: of_paper::sets_of(row, &self.run.sets)?,
            out: Some(root.join(row)),
            stages: Some(self.run.stages.clone().unwrap_or_else(|| root.join("stages"))),
            ..self.run.clone()
        };
        // Other rows' data are nothing to this one.
        let names = places::names(&config::load::<TableConfig>(&config, &run.sets)?.0);
        run.places.data.retain(|(name, _)| names.contains(name));
        Ok(TableOptions { config, run, only: vec![], teacher: None, key: None, interpolate: false, pretrain: false, ship: None })
    }

    /// A name of data has to be one of some row's.
    fn check_places(&self) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        for row in of_paper::ROWS {
            let source = of_paper::source(row).context("every row is embedded")?;
            names.extend(places::names(&config::load::<TableConfig>(&source, &[])?.0));
        }
        Ok(self.run.places.check_names(&names)?)
    }
}

/// What every stage of every row would cost. Neither data nor teachers need be there.
fn priced(options: &PaperOptions, rows: &[(&'static str, TableOptions)], out: &mut Output) -> anyhow::Result<Outcome> {
    let (mut text, mut flops) = (String::new(), 0.0);
    for (row, table) in rows {
        let (mut config, _) = config::load::<TableConfig>(&table.config, &table.run.sets)?;
        if let Some(seeds) = &table.run.seeds {
            config.seeds.clone_from(seeds);
        }
        // A folder that is not there leaves the published numbers.
        let mut there = table.run.places.clone();
        there.data.retain(|(_, folder)| folder.is_dir());
        there.resolve(&mut config);
        let _ = writeln!(text, "{row}: {}", table.config.name().display());
        for teacher in &config.teachers {
            let Some(path) = &teacher.weights else { continue };
            let state = if path.exists() { "there" } else { "not there" };
            let _ = writeln!(text, "teacher {}: {}, {state}", teacher.name, path.display());
        }
        let price = TablePrice::of_published(config, options.fleet).with_context(|| table.config.name().display().to_string())?;
        flops += price.flops;
        let _ = writeln!(text, "{}\n", stages(&price));
    }
    let days = options.fleet.days(1.0, flops).map_or(String::new(), |days| format!(", {} days", figure(days)));
    let _ = writeln!(text, "All rows: {} EFLOP{days}; a stage that two rows share is in the price of both.", figure(flops / 1e18));
    writeln!(out, "{text}{}", notes(&options.fleet)).and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}
