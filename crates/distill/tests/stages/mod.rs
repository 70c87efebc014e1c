//! What tests of stages share: a folder that goes when they end, and nobody who listens.

use std::path::PathBuf;

use fd_distill::graph::{Listener, NodeId};
use fd_distill::train::StepReport;

/// An empty folder.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fd-stages-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Silent;

impl Listener for Silent {
    fn begins(&self, _: NodeId) {}
    fn resumes(&self, _: NodeId, _: usize) {}
    fn step(&self, _: NodeId, _: &StepReport) {}
    fn ends(&self, _: NodeId, _: &[(String, f64)]) {}
}
