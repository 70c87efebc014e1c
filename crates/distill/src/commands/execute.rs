//! What tables and sweeps share: a graph of stages, run in a run directory with progress, or only told of.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fd_compute::Device;
use fd_distill::Error;
use fd_distill::config::Source;
use fd_distill::graph::{self, Graph, Listener, NodeId, Options, Ran, Store};
use fd_distill::places::Places;
use fd_distill::progress::{Progress, duration};
use fd_distill::run_dir::{Meta, RunDir};
use fd_distill::snapshot;
use fd_distill::status::{PlannedStage, RunPlan};
use fd_distill::train::StepReport;

use super::columns::{columns, memory};

/// Options of every command that runs stages.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Overrides `key.path=value`, in order.
    pub sets: Vec<String>,
    /// Where data and teachers lie.
    pub places: Places,
    /// Seeds instead of the configuration's.
    pub seeds: Option<Vec<u64>>,
    /// The run directory; none: `runs/` and the configuration's name.
    pub out: Option<PathBuf>,
    /// A folder of stages that several runs share; none: in the run directory.
    pub stages: Option<PathBuf>,
    /// Stages side by side; none: as many as threads for small models, one for others.
    pub jobs: Option<usize>,
    /// Time between two checkpoints of a stage.
    pub checkpoint_every: Duration,
    /// Say what would run.
    pub dry_run: bool,
    /// Replace what another configuration has left in the run directory.
    pub force: bool,
    /// Where it computes.
    pub device: Device,
}

/// A graph and where it runs.
pub struct Execution<'a> {
    /// Everything that may have to run.
    pub graph: &'a Graph,
    /// What is asked for.
    pub targets: Vec<NodeId>,
    /// The run directory.
    pub directory: PathBuf,
    /// How.
    pub options: &'a RunOptions,
}

/// Floating-point operations of a step above which stages use all threads by themselves.
const SMALL_STEP: f64 = 2e10;

impl Execution<'_> {
    /// Where the stages are kept.
    pub fn store(&self) -> Store {
        Store::new(self.options.stages.clone().unwrap_or_else(|| self.directory.join("stages")))
    }

    fn jobs(&self) -> usize {
        let threads = rayon::current_num_threads();
        let small = |id: NodeId| {
            let spec = &self.graph.node(id).spec;
            spec.flops <= SMALL_STEP * spec.steps as f64
        };
        self.options.jobs.unwrap_or(if self.graph.ids().all(small) { threads.min(8) } else { 1 })
    }

    /// Claims the run directory, writes what it runs, and runs it.
    pub fn run(&self, name: &str, resolved: &toml::Table, seeds: &[u64]) -> anyhow::Result<(RunDir, Ran)> {
        let run = RunDir::claim(&self.directory, resolved, &["seeds"], self.options.force)?;
        run.write_config(resolved)?;
        run.write_meta(&Meta { device: self.options.device, seeds })?;
        self.plan(name)?.write(&self.directory)?;
        let store = self.store();
        let needed = graph::needed(self.graph, &store, &self.targets);
        let total = needed.iter().map(|id| units(self.graph, *id)).sum();
        let follow = Follow { graph: self.graph, progress: Mutex::new(Progress::new(total)) };
        let options = Options { jobs: self.jobs(), threads: rayon::current_num_threads(), checkpoint_every: self.options.checkpoint_every };
        let ran = graph::run(self.graph, &store, &self.targets, options, &follow).map_err(|e| match e {
            Error::Interrupted { signal, .. } => Error::Interrupted { signal, checkpoints: Some(self.directory.clone()) },
            e => e,
        })?;
        Ok((run, ran))
    }

    fn plan(&self, name: &str) -> anyhow::Result<RunPlan> {
        let stage = |id| {
            let node = self.graph.node(id);
            PlannedStage { dir: node.dir(), title: node.spec.title.clone(), steps: node.spec.steps }
        };
        let store = self.options.stages.as_ref().map(std::path::absolute).transpose()?;
        Ok(RunPlan { name: name.into(), store, stages: self.graph.ids().map(stage).collect() })
    }

    /// Stages, what they would take, what is there already. Training is timed on a few steps of each kind.
    pub fn rehearse(&self) -> anyhow::Result<String> {
        let store = self.store();
        let needed = graph::needed(self.graph, &store, &self.targets);
        let (mut kinds, mut lines, mut total) = (HashMap::new(), vec![], 0.0);
        let (jobs, threads) = (self.jobs(), rayon::current_num_threads());
        // A stage gets its share of the threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads((threads / jobs).max(1)).build()?;
        for id in self.graph.ids() {
            let node = self.graph.node(id);
            let mut state = if needed.contains(&id) { "to do" } else { "not needed" }.to_string();
            let mut seconds = 0.0;
            if needed.contains(&id) {
                let kind = (node.spec.steps, node.spec.flops.to_bits(), node.spec.memory);
                seconds = match kinds.get(&kind) {
                    Some(seconds) => *seconds,
                    None => *kinds.entry(kind).or_insert(pool.install(|| node.spec.work.rehearse())?),
                };
                let steps = node.spec.steps;
                if let Some(step) = snapshot::newest_step(&store.dir(node)).filter(|_| steps > 0) {
                    state = format!("step {step} of {steps}");
                    seconds *= 1.0 - step as f64 / steps as f64;
                }
            } else if matches!(store.done(node), Ok(Some(_))) {
                state = "done".into();
            }
            total += seconds;
            let (steps, time) =
                if node.spec.steps > 0 { (node.spec.steps.to_string(), duration(seconds)) } else { ("–".into(), "–".into()) };
            lines.push(vec![node.spec.title.clone(), state, steps, time, memory(node.spec.memory)]);
        }
        let (ready, all) = (self.graph.ids().len() - needed.len(), self.graph.ids().len());
        let mut text = columns(&["stage", "state", "steps", "time", "memory"], &lines).join("\n") + "\n";
        let _ = writeln!(
            text,
            "{all} stages, {ready} of them done or not needed; about {} of training, {jobs} side by side on {threads} threads, by the time \
             of a few steps; stages are kept in {}",
            duration(total / jobs as f64),
            store.path().display()
        );
        Ok(text)
    }
}

/// Where a run goes: `--out`, or a folder below `runs/`.
pub fn directory(options: &RunOptions, config: &Source, name: &str) -> Result<PathBuf, Error> {
    let one = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let plain = one && !name.contains(char::is_control);
    match &options.out {
        Some(out) => Ok(out.clone()),
        None if plain => Ok(Path::new("runs").join(name)),
        None => {
            let why = format!("key `name`: {name:?} cannot be the name of a directory; use --out");
            Err(Error::Config { file: config.name().to_path_buf(), why })
        }
    }
}

/// Work in units of progress: an evaluation counts as a little of everything.
fn units(graph: &Graph, id: NodeId) -> f64 {
    graph.node(id).spec.flops.max(2e10)
}

/// Progress on standard error.
struct Follow<'a> {
    graph: &'a Graph,
    progress: Mutex<Progress>,
}

impl Follow<'_> {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Follow<'_> {
    fn begins(&self, id: NodeId) {
        let spec = &self.graph.node(id).spec;
        self.progress().begin(id.index(), &spec.title, spec.steps as u64, units(self.graph, id));
    }

    fn resumes(&self, id: NodeId, step: usize) {
        self.progress().resume(id.index(), step as u64);
    }

    fn step(&self, id: NodeId, r: &StepReport) {
        let message = format_args!("loss {:.4}  {:.0} images/s", r.measured.loss, r.images_per_second);
        self.progress().step(id.index(), r.step as u64, message);
    }

    fn ends(&self, id: NodeId, accuracy: &[(String, f64)]) {
        let said: Vec<String> = accuracy.iter().map(|(name, value)| format!("{name} {value:.2} %")).collect();
        let said = if said.is_empty() { "done".into() } else { said.join(", ") };
        self.progress().done(id.index(), said);
    }
}
