//! The run directory: resolved configuration, where and how it ran, metrics, results; every file is there whole or not at all.

mod claim;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use fd_compute::Device;
use serde::Serialize;

use crate::Error;
use crate::lock::RunLock;

/// The resolved configuration's file.
const CONFIG: &str = "config.toml";

/// A directory that is known to be writable.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Of a directory that was claimed.
    lock: Option<RunLock>,
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
    dtype: &'static str,
    simd: &'static str,
    threads: usize,
    seeds: &'a [u64],
}

impl RunDir {
    /// Makes the directory, its parents too, and proves at once that files can be written there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made or written; nothing is left behind then.
    pub fn create(path: impl Into<PathBuf>) -> Result<RunDir, Error> {
        Ok(RunDir::make(path.into())?.0)
    }

    /// As [`RunDir::create`]; also which directories are new, innermost first.
    fn make(path: PathBuf) -> Result<(RunDir, Vec<PathBuf>), Error> {
        let run = RunDir { path, lock: None };
        if run.path.is_file() {
            return Err(Error::File { path: run.path, why: "is a file, expected a directory".into() });
        }
        let missing: Vec<PathBuf> =
            run.path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_path_buf).collect();
        let made = fs::create_dir_all(&run.path)
            .map_err(|e| Error::File { path: run.path.clone(), why: format!("cannot make the run directory: {e}") })
            .and_then(|()| run.probe());
        match made {
            Ok(()) => Ok((run, missing)),
            Err(e) => {
                remove_made(&missing);
                Err(e)
            }
        }
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

    /// Gives a file that lies elsewhere a second name here: a hard link, or a copy where the file system has none.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn link(&self, name: impl AsRef<Path>, source: &Path) -> Result<(), Error> {
        let path = self.file(name);
        let refuse = |e: std::io::Error| Error::File { path: path.clone(), why: format!("cannot be written: {e}") };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(refuse)?;
        let temporary = temporary(&path);
        let _ = fs::remove_file(&temporary);
        let copied = fs::hard_link(source, &temporary).or_else(|_| fs::copy(source, &temporary).map(drop));
        copied.and_then(|()| fs::rename(&temporary, &path)).map_err(refuse)?;
        // Renaming onto another name of the same file leaves both.
        let _ = fs::remove_file(&temporary);
        Ok(())
    }

    /// Writes `config.toml`, the resolved configuration.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_config(&self, resolved: &toml::Table) -> Result<(), Error> {
        let refuse = |e: toml::ser::Error| Error::File { path: self.file(CONFIG), why: e.to_string() };
        self.write(CONFIG, toml::to_string(resolved).map_err(refuse)?.as_bytes())
    }

    /// Writes `meta.json`: version, git revision of the current directory where there is one, command line, device, type, SIMD level,
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
            dtype: meta.device.dtype().name(),
            simd: fd_compute::simd::level().name(),
            threads: rayon::current_num_threads(),
            seeds: meta.seeds,
        };
        let refuse = |e: serde_json::Error| Error::File { path: self.file("meta.json"), why: e.to_string() };
        let mut text = serde_json::to_string_pretty(&contents).map_err(refuse)?;
        text.push('\n');
        self.write("meta.json", text.as_bytes())
    }
}

/// Removes directories that were made in vain, innermost first; one that is not empty, or never came to be, stays as it is.
fn remove_made(directories: &[PathBuf]) {
    directories.iter().for_each(|new| _ = fs::remove_dir(new));
}

/// The name of a file while it is being written: `.<name>.<process>.tmp` beside it. (Figures end in `.tmp.png`: their encoder wants it.)
fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|n| n.strip_suffix(".png").unwrap_or(n).strip_suffix(".tmp"));
    let process = name.strip_prefix(".probe.").or_else(|| Some(inner?.rsplit_once('.')?.1));
    process.is_some_and(|id| id.parse::<u32>().is_ok())
}

/// Removes what processes that were killed left half written in a directory, as far as that can be done. Whoever may write there calls.
pub(crate) fn remove_temporaries(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_temporary) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file under a temporary name beside it, syncs and renames it; parent folders are made.
/// Writes a whole file under a temporary name, syncs it to disk and renames it; its folders are made.
///
/// # Errors
/// [`Error::File`]; an older file of that name is untouched then.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomically(path, |file| file.write_all(bytes))
}

pub(crate) fn write_atomically(path: &Path, contents: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary(path);
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
pub fn git_revision() -> Option<String> {
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
        run.write_meta(&Meta { device: Device::CPU, seeds: &[0, u64::MAX] }).unwrap();
        assert_eq!(names(run.path()), ["b.txt", "config.toml", "figures", "meta.json"]);
        assert_eq!(fs::read(run.file("b.txt")).unwrap(), b"two");
        assert_eq!(fs::read_to_string(run.file("config.toml")).unwrap(), "a = 1\n\n[b]\nc = 2.5\n");
        let meta: serde_json::Value = serde_json::from_slice(&fs::read(run.file("meta.json")).unwrap()).unwrap();
        assert_eq!((meta["device"].as_str(), meta["seeds"][1].as_u64()), (Some("cpu"), Some(u64::MAX)));
        assert_eq!(meta["simd"].as_str(), Some(fd_compute::simd::level().name()));
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
        RunDir { path: "x".into(), lock: None }.file("../y");
    }
}
