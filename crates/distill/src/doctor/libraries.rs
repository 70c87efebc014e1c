//! Which of the libraries are there that code for NVIDIA's GPUs would use, where, and in which version.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::search::Folder;
use super::{Machine, elf};

/// A library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// What it is called.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it is, in the order in which it is looked for.
    pub found: Vec<Found>,
    /// What looks like it and cannot be used: a path and why.
    pub unusable: Vec<String>,
    /// What to do; none: nothing.
    pub advice: Option<String>,
}

/// A place where a library is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Its version, from the name of the file that it is in the end.
    pub version: Option<String>,
    /// Who says that it is there: a variable, the dynamic loader's configuration, a Python environment, or nobody (`system`).
    pub by: &'static str,
}

/// A library to look for.
struct Wanted {
    name: &'static str,
    purpose: &'static str,
    /// Its file's name without a version.
    stem: &'static str,
    /// The one version that counts.
    version: Option<&'static str>,
    missing: &'static str,
}

const WANTED: [Wanted; 4] = [
    Wanted {
        name: "libcuda",
        purpose: "the driver's interface",
        stem: "libcuda.so",
        version: Some("1"),
        missing: "comes with NVIDIA's driver; into a container with `--gpus all` (NVIDIA Container Toolkit)",
    },
    Wanted {
        name: "NVRTC",
        purpose: "compiles kernels",
        stem: "libnvrtc.so",
        version: None,
        missing: "`pip install nvidia-cuda-nvrtc-cu12`, or set CUDA_HOME to a CUDA toolkit",
    },
    Wanted {
        name: "cuBLASLt",
        purpose: "matrix products",
        stem: "libcublasLt.so",
        version: None,
        missing: "`pip install nvidia-cublas-cu12`, or set CUDA_HOME to a CUDA toolkit",
    },
    Wanted {
        name: "NCCL",
        purpose: "several GPUs",
        stem: "libnccl.so",
        version: None,
        missing: "`pip install nvidia-nccl-cu12`, for several GPUs only",
    },
];

/// Looks for all of them.
pub(super) fn libraries(machine: &Machine, folders: &[Folder]) -> Vec<Library> {
    let listed: Vec<(&Folder, Vec<PathBuf>)> = folders.iter().map(|f| (f, machine.entries(&f.path).unwrap_or_default())).collect();
    WANTED.iter().map(|wanted| wanted.look(machine, &listed)).collect()
}

/// The folders that are there and cannot be looked into.
pub(super) fn closed(machine: &Machine, folders: &[Folder]) -> Vec<String> {
    let closed = |f: &Folder| Some(format!("{} ({}): {}", f.path.display(), f.by, machine.entries(&f.path).err()?));
    folders.iter().filter_map(closed).collect()
}

impl Wanted {
    fn look(&self, machine: &Machine, folders: &[(&Folder, Vec<PathBuf>)]) -> Library {
        let (mut found, mut unusable) = (vec![], vec![]);
        for (folder, entries) in folders {
            let mut files: Vec<&PathBuf> = entries.iter().filter(|path| self.is_it(path)).collect();
            // The newest of a folder's files stands for them: the others are links to it, or older.
            files.sort_by_key(|path| Reverse(self.order(machine, path)));
            let faults: Vec<Option<String>> = files.iter().map(|path| fault(machine, path)).collect();
            let usable = files.iter().zip(&faults).find(|(_, fault)| fault.is_none());
            match usable {
                Some((path, _)) => found.push(Found { path: path.to_path_buf(), version: self.version(machine, path), by: folder.by }),
                None => unusable.extend(files.iter().zip(faults).filter_map(|(path, why)| Some(format!("{}: {}", path.display(), why?)))),
            }
        }
        let advice = found.is_empty().then(|| self.missing.to_string());
        Library { name: self.name, purpose: self.purpose, found, unusable, advice }
    }

    fn is_it(&self, path: &Path) -> bool {
        let version = path.file_name().and_then(|name| self.version_in(&name.to_string_lossy()));
        version.is_some_and(|version| self.version.is_none_or(|wanted| wanted == version))
    }

    /// What follows the stem: empty, or digits and dots.
    fn version_in(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(self.stem)?;
        let version = rest.strip_prefix('.').unwrap_or(rest);
        let numbers = version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        (rest.is_empty() || rest.starts_with('.') && numbers).then(|| version.to_string())
    }

    fn version(&self, machine: &Machine, path: &Path) -> Option<String> {
        let real = machine.at(path).canonicalize().ok()?;
        self.version_in(&real.file_name()?.to_string_lossy()).filter(|version| !version.is_empty())
    }

    fn order(&self, machine: &Machine, path: &Path) -> (Vec<u64>, Reverse<PathBuf>) {
        let version = self.version(machine, path).unwrap_or_default();
        (version.split('.').map(|n| n.parse().unwrap_or(0)).collect(), Reverse(path.to_path_buf()))
    }
}

fn fault(machine: &Machine, path: &Path) -> Option<String> {
    match machine.at(path).canonicalize() {
        Ok(real) => elf::fault(&real, &machine.arch),
        Err(_) if machine.at(path).is_symlink() => Some("a link to nothing".into()),
        Err(e) => Some(format!("cannot be read: {e}")),
    }
}
