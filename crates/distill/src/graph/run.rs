//! Running a graph: what the targets need and is not done yet, several stages side by side if asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Graph, NodeId, Running, Store};
use crate::Error;
use crate::interrupt;
use crate::lock::RunLock;
use crate::run_dir::{remove_temporaries, write_atomically};
use crate::train::StepReport;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stages side by side.
    pub jobs: usize,
    /// Threads in all; each stage gets its share.
    pub threads: usize,
    /// Time between two checkpoints of a stage.
    pub checkpoint_every: Duration,
}

/// What a run hears.
pub trait Listener: Sync {
    /// A stage begins.
    fn begins(&self, id: NodeId);
    /// A stage is taken up after so many steps of an earlier run.
    fn resumes(&self, id: NodeId, step: usize);
    /// A stage has taken a step.
    fn step(&self, id: NodeId, report: &StepReport);
    /// A stage is done, with these accuracies.
    fn ends(&self, id: NodeId, accuracy: &[(String, f64)]);
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Stages that ran.
    pub ran: usize,
    /// Stages that were done before.
    pub cached: usize,
}

/// The stages that have to run for the targets: all that are not done and that a target which is not done needs.
pub fn needed(graph: &Graph, store: &Store, targets: &[NodeId]) -> BTreeSet<NodeId> {
    let (mut needed, mut seen, mut stack) = (BTreeSet::new(), BTreeSet::new(), targets.to_vec());
    while let Some(id) = stack.pop() {
        if seen.insert(id) && !matches!(store.done(graph.node(id)), Ok(Some(_))) {
            needed.insert(id);
            stack.extend(&graph.node(id).spec.inputs);
        }
    }
    needed
}

/// Runs what is needed.
///
/// # Errors
/// The first stage's that fails; stages beside it end first. [`Error::Interrupted`] after a signal, with checkpoints written.
pub fn run(graph: &Graph, store: &Store, targets: &[NodeId], options: Options, listener: &dyn Listener) -> Result<Ran, Error> {
    let waiting = needed(graph, store, targets);
    graph.ids().filter(|id| !waiting.contains(id)).try_for_each(|id| store.tidy(graph.node(id)))?;
    let jobs = options.jobs.clamp(1, waiting.len().max(1));
    let state = Mutex::new(State { waiting, running: BTreeSet::new(), ran: 0, error: None });
    let changed = Condvar::new();
    let worker = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads((options.threads / jobs).max(1)).build();
        let pool = match pool {
            Ok(pool) => pool,
            Err(e) => return lock(&state).error = Some(Error::Usage(format!("a pool of threads cannot be made: {e}"))),
        };
        while let Some(id) = next(graph, &state, &changed) {
            let _ended = Ended { id, state: &state, changed: &changed };
            let result = pool.install(|| one(graph, store, id, options.checkpoint_every, listener));
            let mut state = lock(&state);
            match result {
                Ok(ran) => state.ran += usize::from(ran),
                Err(e) => {
                    if !state.running.is_empty() && state.error.is_none() && !matches!(e, Error::Interrupted { .. }) {
                        tracing::warn!("{}: {e}; the stages beside it end first", graph.node(id).spec.title);
                    }
                    state.error.get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| _ = scope.spawn(worker)));
    let mut state = lock(&state);
    match (state.error.take(), interrupt::requested().filter(|_| !state.waiting.is_empty())) {
        (Some(e), _) => Err(e),
        (None, Some(signal)) => Err(Error::Interrupted { signal, checkpoints: None }),
        (None, None) => Ok(Ran { ran: state.ran, cached: graph.ids().len() - state.ran }),
    }
}

struct State {
    waiting: BTreeSet<NodeId>,
    running: BTreeSet<NodeId>,
    ran: usize,
    error: Option<Error>,
}

/// Takes a stage off the running ones, however it ends: who waits for it would wait for ever.
struct Ended<'a> {
    id: NodeId,
    state: &'a Mutex<State>,
    changed: &'a Condvar,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        state.running.remove(&self.id);
        if std::thread::panicking() {
            state.error.get_or_insert(Error::Usage("a stage panicked".into()));
        }
        drop(state);
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first stage whose inputs are there; waits for one while others run. None: nothing is left, or something went wrong.
fn next(graph: &Graph, state: &Mutex<State>, changed: &Condvar) -> Option<NodeId> {
    let mut guard = lock(state);
    loop {
        if guard.error.is_some() || guard.waiting.is_empty() || interrupt::requested().is_some() {
            return None;
        }
        let open = |id: &NodeId| guard.waiting.contains(id) || guard.running.contains(id);
        let ready = guard.waiting.iter().copied().find(|id| !graph.node(*id).spec.inputs.iter().any(open));
        if let Some(id) = ready {
            guard.waiting.remove(&id);
            guard.running.insert(id);
            return Some(id);
        }
        guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Runs a stage; false: another run that shares the store has done it meanwhile.
fn one(graph: &Graph, store: &Store, id: NodeId, checkpoint_every: Duration, listener: &dyn Listener) -> Result<bool, Error> {
    let node = graph.node(id);
    let dir = store.dir(node);
    std::fs::create_dir_all(&dir).map_err(|e| Error::File { path: dir.clone(), why: e.to_string() })?;
    // Another run that shares the store may be at it.
    let _lock = RunLock::wait(&dir)?;
    listener.begins(id);
    match store.done(node) {
        Ok(None) => {}
        Ok(Some(done)) => {
            listener.ends(id, &done.accuracy.into_iter().collect::<Vec<_>>());
            return Ok(false);
        }
        Err(e) => tracing::warn!("{e}; the stage runs again"),
    }
    remove_temporaries(&dir);
    describe(graph, id, &dir)?;
    let outputs = BTreeMap::new();
    let mut running = Running { graph, store, id, dir, checkpoint_every, outputs, listener, start: Instant::now() };
    let accuracy = node.spec.work.run(&mut running)?;
    listener.ends(id, &accuracy);
    running.finish(accuracy)?;
    Ok(true)
}

/// `stage.json`: what the key stands for.
fn describe(graph: &Graph, id: NodeId, dir: &std::path::Path) -> Result<(), Error> {
    let node = graph.node(id);
    let inputs: Vec<String> = node.spec.inputs.iter().map(|i| graph.node(*i).dir()).collect();
    let text = serde_json::json!({
        "title": node.spec.title, "key": node.key.as_str(), "steps": node.spec.steps, "inputs": inputs, "identity": node.spec.identity,
    });
    let text = format!("{text:#}\n");
    write_atomically(&dir.join("stage.json"), |file| std::io::Write::write_all(file, text.as_bytes()))
}
