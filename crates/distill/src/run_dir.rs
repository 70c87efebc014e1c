//! The run directory: resolved configuration, where and how it ran, metrics, results; every file is there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use fd_compute::Device;
use serde::Serialize;

use crate::Error;

/// A directory that is known to be writable.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

/// What `meta.json` says beside what the process knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Where the run computes.
    pub device: Device,
    /// Its seeds.
    pub seeds: &'a [u64],
}

#[derive(Serialize)]
struct MetaFile<'a> {
    version: &'static str,
    git_revision: Option<String>,
    command_line: Vec<String>,
    device: String,
    simd: &'static str,
    threads: usize,
    seeds: &'a [u64],
}

/// One line of `metrics.csv`; what does not apply stays empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Metrics<'a> {
    /// What is being trained or evaluated.
    pub stage: &'a str,
    /// Its seed.
    pub seed: u64,
    /// Optimiser steps done.
    pub step: usize,
    /// Epochs done.
    pub epoch: f64,
    /// Loss.
    pub loss: Option<f64>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Throughput.
    pub images_per_second: Option<f64>,
    /// Top-1 accuracy, in percent.
    pub accuracy: Option<f64>,
}

impl RunDir {
    /// Makes the directory, its parents too, and proves at once that files can be written there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made or written; nothing is left behind then.
    pub fn create(path: impl Into<PathBuf>) -> Result<RunDir, Error> {
        let run = RunDir { path: path.into() };
        if run.path.is_file() {
            return Err(Error::File { path: run.path, why: "is a file, expected a directory".into() });
        }
        let missing: Vec<PathBuf> =
            run.path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_path_buf).collect();
        let made = fs::create_dir_all(&run.path)
            .map_err(|e| Error::File { path: run.path.clone(), why: format!("cannot make the run directory: {e}") })
            .and_then(|()| run.probe());
        if made.is_err() {
            // Innermost first; a directory that is not empty, or never came to be, stays as it is.
            missing.iter().for_each(|new| _ = fs::remove_dir(new));
        }
        made.map(|()| run)
    }

    fn probe(&self) -> Result<(), Error> {
        let probe = self.path.join(format!(".probe.{}", std::process::id()));
        let written = File::create(&probe).and_then(|mut f| f.write_all(b"probe"));
        let removed = fs::remove_file(&probe);
        let refuse = |e| Error::File { path: self.path.clone(), why: format!("cannot write into the run directory: {e}") };
        written.and(removed).map_err(refuse)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it, which the caller writes. `name` is relative.
    ///
    /// # Panics
    /// When `name` leads out of the directory.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        let name = name.as_ref();
        assert!(name.components().all(|c| matches!(c, Component::Normal(_))), "{}: not a name inside a run directory", name.display());
        self.path.join(name)
    }

    /// Writes a file under a temporary name, syncs it to disk and renames it; folders in `name` are made.
    ///
    /// # Errors
    /// [`Error::File`]; an older file of that name is untouched then.
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<(), Error> {
        write_atomically(&self.file(name), |file| file.write_all(bytes))
    }

    /// Writes `config.toml`, the resolved configuration.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_config(&self, resolved: &toml::Table) -> Result<(), Error> {
        let refuse = |e: toml::ser::Error| Error::File { path: self.file("config.toml"), why: e.to_string() };
        self.write("config.toml", toml::to_string(resolved).map_err(refuse)?.as_bytes())
    }

    /// Writes `meta.json`: version, git revision of the current directory where there is one, command line, device, SIMD level,
    /// threads of the current rayon pool, seeds.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_meta(&self, meta: &Meta<'_>) -> Result<(), Error> {
        let contents = MetaFile {
            version: env!("CARGO_PKG_VERSION"),
            git_revision: git_revision(),
            command_line: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            device: meta.device.to_string(),
            simd: fd_compute::simd::level().name(),
            threads: rayon::current_num_threads(),
            seeds: meta.seeds,
        };
        let refuse = |e: serde_json::Error| Error::File { path: self.file("meta.json"), why: e.to_string() };
        let mut text = serde_json::to_string_pretty(&contents).map_err(refuse)?;
        text.push('\n');
        self.write("meta.json", text.as_bytes())
    }

    /// Starts `metrics.csv` anew.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn metrics(&self) -> Result<MetricsWriter, Error> {
        let path = self.file("metrics.csv");
        let file = File::create(&path).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        Ok(MetricsWriter { csv: csv::Writer::from_writer(file), path })
    }
}

/// Writes `metrics.csv`, flushed line by line.
#[derive(Debug)]
pub struct MetricsWriter {
    csv: csv::Writer<File>,
    path: PathBuf,
}

impl MetricsWriter {
    /// Appends a line.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn row(&mut self, metrics: &Metrics<'_>) -> Result<(), Error> {
        let written = self.csv.serialize(metrics).map_err(|e| e.to_string());
        let flushed = written.and_then(|()| self.csv.flush().map_err(|e| e.to_string()));
        flushed.map_err(|why| Error::File { path: self.path.clone(), why })
    }
}

/// Writes a file under a temporary name beside it, syncs and renames it; parent folders are made.
pub(crate) fn write_atomically(path: &Path, contents: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(name);
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&temporary)?;
        contents(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The new name is on disk once the folder is; not every file system lets a folder be synced.
        let _ = File::open(folder).and_then(|f| f.sync_all());
        Ok(())
    };
    write().map_err(|e: std::io::Error| {
        let _ = fs::remove_file(&temporary);
        Error::File { path: path.to_path_buf(), why: format!("cannot be written: {e}") }
    })
}

/// Commit checked out in the current directory, `-dirty` after it when files differ; none without git or a repository.
fn git_revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string()).filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fd-run-dir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_written_whole_and_replaced() {
        let root = scratch("write");
        let run = RunDir::create(root.join("runs/a")).unwrap();
        assert!(names(run.path()).is_empty(), "the probe is gone");
        run.write("b.txt", b"one").unwrap();
        run.write("b.txt", b"two").unwrap();
        run.write("figures/c.svg", b"<svg/>").unwrap();
        run.write_config(&toml::from_str("a = 1\n[b]\nc = 2.5\n").unwrap()).unwrap();
        run.write_meta(&Meta { device: Device::Cpu, seeds: &[0, u64::MAX] }).unwrap();
        assert_eq!(names(run.path()), ["b.txt", "config.toml", "figures", "meta.json"]);
        assert_eq!(fs::read(run.file("b.txt")).unwrap(), b"two");
        assert_eq!(fs::read_to_string(run.file("config.toml")).unwrap(), "a = 1\n\n[b]\nc = 2.5\n");
        let meta: serde_json::Value = serde_json::from_slice(&fs::read(run.file("meta.json")).unwrap()).unwrap();
        assert_eq!((meta["device"].as_str(), meta["seeds"][1].as_u64()), (Some("cpu"), Some(u64::MAX)));
        assert_eq!(meta["simd"].as_str(), Some(fd_compute::simd::level().name()));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn metrics_are_on_disk_line_by_line() {
        let root = scratch("metrics");
        let run = RunDir::create(&root).unwrap();
        let mut metrics = run.metrics().unwrap();
        metrics.row(&Metrics { stage: "distil, seed", step: 5, loss: Some(1e-5), lr: Some(0.5), ..Metrics::default() }).unwrap();
        let text = fs::read_to_string(run.file("metrics.csv")).unwrap();
        let expected = "stage,seed,step,epoch,loss,lr,grad_norm,images_per_second,accuracy\n\"distil, seed\",0,5,0.0,0.00001,0.5,,,\n";
        assert_eq!(text, expected);
        metrics.row(&Metrics { stage: "probe", accuracy: Some(81.25), ..Metrics::default() }).unwrap();
        assert!(fs::read_to_string(run.file("metrics.csv")).unwrap().ends_with("\nprobe,0,0,0.0,,,,,81.25\n"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once() {
        let root = scratch("refused");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("file"), b"x").unwrap();
        for path in [root.join("file"), root.join("file/below"), root.join("file/a/b"), PathBuf::from("/proc/fd-run/x")] {
            let e = RunDir::create(&path).unwrap_err().to_string();
            assert!(e.starts_with(&path.display().to_string()) && !e.contains('\n'), "{e}");
        }
        assert_eq!(names(&root), ["file"]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    #[should_panic(expected = "not a name inside a run directory")]
    fn names_stay_inside() {
        RunDir { path: "x".into() }.file("../y");
    }
}
