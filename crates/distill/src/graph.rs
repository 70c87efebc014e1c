//! Stages as a graph: every stage is named by what goes into it, done once, kept, and taken up again where it was interrupted.
//!
//! A stage's key is the SHA-256 of its resolved configuration, its data's fingerprint and its inputs' keys. What is done is reused, a
//! changed key re-runs only what depends on it. Stages that do not wait for each other may run side by side; results do not depend on
//! how many do.

mod run;
mod store;

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

pub use run::{Listener, Options, Ran, needed, run};
pub use store::{Done, Running, Store};

use crate::{Error, sha256_hex};

/// To be raised when a change of the code changes results: what was made before is then made anew.
const REVISION: u32 = 1;

/// The SHA-256, in hexadecimal digits, of all that determines a stage's results.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Key(String);

impl Key {
    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a stage does.
pub trait Work: Send + Sync {
    /// Does it, or continues it, in its directory; returns accuracies in percent by measure.
    fn run(&self, stage: &mut Running) -> Result<Vec<(String, f64)>, Error>;

    /// Seconds that it takes in all, from a measured sample of its steps.
    fn rehearse(&self) -> Result<f64, Error>;
}

/// A stage's place in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

impl NodeId {
    /// Its number in its graph.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A stage to be added.
pub struct Spec {
    /// The beginning of its directory's name: letters, digits and dashes.
    pub slug: String,
    /// What people call it.
    pub title: String,
    /// What determines its results beside its inputs: configuration, data, seed.
    pub identity: Value,
    /// The SIMD level whose results these are; none: this process's.
    pub simd: Option<String>,
    /// The stages whose results it needs.
    pub inputs: Vec<NodeId>,
    /// Optimiser steps; 0: no training.
    pub steps: usize,
    /// Floating-point operations in all, for progress.
    pub flops: f64,
    /// Bytes that it needs while it runs.
    pub memory: u64,
    /// What it does.
    pub work: Box<dyn Work>,
}

/// A stage of a graph.
pub struct Node {
    /// Its key.
    pub key: Key,
    /// What it was added as.
    pub spec: Spec,
}

impl Node {
    /// The name of its directory.
    pub fn dir(&self) -> String {
        format!("{}-{}", self.spec.slug, &self.key.0[..12])
    }
}

/// Stages and what they need of each other.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Node>,
    by_key: HashMap<Key, NodeId>,
}

impl Graph {
    /// The key of a stage: `identity` is what determines its results beside its inputs, at a SIMD level.
    pub fn key(&self, identity: &Value, inputs: &[NodeId], simd: &str) -> Key {
        let inputs: Vec<&str> = inputs.iter().map(|i| self.node(*i).key.as_str()).collect();
        let all = serde_json::json!({ "revision": REVISION, "simd": simd, "stage": identity, "inputs": inputs });
        Key(sha256_hex(all.to_string().as_bytes()))
    }

    /// Adds a stage; one with the same key is there only once.
    pub fn add(&mut self, spec: Spec) -> NodeId {
        let simd = spec.simd.as_deref().unwrap_or(fd_compute::simd::level().name());
        let key = self.key(&spec.identity, &spec.inputs, simd);
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let id = NodeId(self.nodes.len());
        self.by_key.insert(key.clone(), id);
        self.nodes.push(Node { key, spec });
        id
    }

    /// A stage.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All stages: inputs come before what needs them.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
