//! NVIDIA's libraries: which of them are there, where, in which version; and opening them.
//!
//! [`survey`] only looks at files. Opening takes what the survey finds, in its order, so that `distill doctor` tells what a run would
//! use. A library is opened by its path and stays open: the dynamic loader then answers whoever asks for it by name, which is how
//! cuBLASLt's bindings and NVRTC's own second library are found wherever they lie.

mod elf;
mod files;
mod open;
mod search;

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use files::Files;
pub(crate) use open::{by_name, cublas_lt, nvrtc, open};
use search::{Folder, folders};

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

/// What a machine has of NVIDIA's libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The driver's interface, NVRTC, cuBLASLt, NCCL.
    pub libraries: Vec<Library>,
    /// The folders that are there and cannot be looked into.
    pub closed: Vec<String>,
}

/// A library to look for.
pub(crate) struct Wanted {
    name: &'static str,
    purpose: &'static str,
    /// Its file's name without a version.
    stem: &'static str,
    origin: Origin,
}

/// Where a library comes from, and with it what its version means.
enum Origin {
    /// The driver; the one version that counts.
    Driver(&'static str),
    /// CUDA, with its version; the name of its Python package.
    Cuda(&'static str),
    /// A Python package for each version of CUDA, with a version of its own.
    Apart(&'static str),
}

pub(crate) const DRIVER: Wanted =
    Wanted { name: "libcuda", purpose: "the driver's interface", stem: "libcuda.so", origin: Origin::Driver("1") };
pub(crate) const NVRTC: Wanted =
    Wanted { name: "NVRTC", purpose: "compiles kernels", stem: "libnvrtc.so", origin: Origin::Cuda("nvidia-cuda-nvrtc") };
pub(crate) const CUBLAS_LT: Wanted =
    Wanted { name: "cuBLASLt", purpose: "matrix products", stem: "libcublasLt.so", origin: Origin::Cuda("nvidia-cublas") };
const NCCL: Wanted = Wanted { name: "NCCL", purpose: "several GPUs", stem: "libnccl.so", origin: Origin::Apart("nvidia-nccl") };

/// The oldest version of CUDA whose libraries are used.
pub(crate) const OLDEST_CUDA: u32 = 12;

/// Looks for all libraries. `newest_cuda` is the major version of CUDA that the driver runs, if that is known: NVRTC and cuBLASLt of a
/// newer one make what the driver refuses.
pub fn survey(files: &Files, newest_cuda: Option<u32>) -> Survey {
    let folders = folders(files);
    let closed = |f: &Folder| Some(format!("{} ({}): {}", f.path.display(), f.by, files.entries(&f.path).err()?));
    Survey {
        libraries: [DRIVER, NVRTC, CUBLAS_LT, NCCL].iter().map(|wanted| wanted.look(files, &folders, newest_cuda)).collect(),
        closed: folders.iter().filter_map(closed).collect(),
    }
}

impl Wanted {
    fn look(&self, files: &Files, folders: &[Folder], newest_cuda: Option<u32>) -> Library {
        let (mut found, mut unusable) = (vec![], vec![]);
        for folder in folders {
            let mut paths = files.entries(&folder.path).unwrap_or_default();
            paths.retain(|path| self.is_it(path));
            // The newest of a folder's files that can be used stands for them: the others are links to it, or older.
            paths.sort_by_key(|path| Reverse(self.order(files, path)));
            let fault = |path: &PathBuf| fault(files, path).or_else(|| self.unfit(self.major(files, path)?, newest_cuda));
            let faults: Vec<Option<String>> = paths.iter().map(fault).collect();
            match faults.iter().position(Option::is_none) {
                Some(i) => found.push(Found { version: self.version(files, &paths[i]), path: paths.swap_remove(i), by: folder.by }),
                None => unusable.extend(paths.iter().zip(faults).filter_map(|(path, why)| Some(format!("{}: {}", path.display(), why?)))),
            }
        }
        let advice = found.is_empty().then(|| self.advice(newest_cuda));
        Library { name: self.name, purpose: self.purpose, found, unusable, advice }
    }

    /// What to do where it is missing.
    fn advice(&self, newest_cuda: Option<u32>) -> String {
        match (&self.origin, newest_cuda) {
            (Origin::Driver(_), _) => "comes with NVIDIA's driver; into a container with `--gpus all` (NVIDIA Container Toolkit)".into(),
            (Origin::Cuda(package), Some(12)) => format!("`pip install {package}-cu12`, or set CUDA_HOME to a CUDA toolkit"),
            (Origin::Cuda(package), _) => format!("`pip install '{package}==13.*'`, or set CUDA_HOME to a CUDA toolkit"),
            (Origin::Apart(package), cuda) => format!("`pip install {package}-cu{}`, for several GPUs only", cuda.unwrap_or(13)),
        }
    }

    /// Why a version of CUDA cannot be used; none: it can.
    pub(crate) fn unfit(&self, cuda: u32, newest_cuda: Option<u32>) -> Option<String> {
        match (&self.origin, newest_cuda) {
            (Origin::Cuda(_), _) if cuda < OLDEST_CUDA => Some(format!("of CUDA {cuda}, older than {OLDEST_CUDA}")),
            (Origin::Cuda(_), Some(newest)) if cuda > newest => Some(format!("of CUDA {cuda}, and the driver runs CUDA {newest}")),
            _ => None,
        }
    }

    fn is_it(&self, path: &Path) -> bool {
        let version = path.file_name().and_then(|name| self.version_in(&name.to_string_lossy()));
        version.is_some_and(|version| !matches!(self.origin, Origin::Driver(wanted) if wanted != version))
    }

    /// What follows the stem: empty, or digits and dots.
    fn version_in(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(self.stem)?;
        let version = rest.strip_prefix('.').unwrap_or(rest);
        let numbers = version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        (rest.is_empty() || rest.starts_with('.') && numbers).then(|| version.to_string())
    }

    fn version(&self, files: &Files, path: &Path) -> Option<String> {
        let real = files.at(path).canonicalize().ok()?;
        self.version_in(&real.file_name()?.to_string_lossy()).filter(|version| !version.is_empty())
    }

    fn major(&self, files: &Files, path: &Path) -> Option<u32> {
        self.version(files, path)?.split('.').next()?.parse().ok()
    }

    fn order(&self, files: &Files, path: &Path) -> (Vec<u64>, Reverse<PathBuf>) {
        let version = self.version(files, path).unwrap_or_default();
        (version.split('.').map(|n| n.parse().unwrap_or(0)).collect(), Reverse(path.to_path_buf()))
    }
}

fn fault(files: &Files, path: &Path) -> Option<String> {
    match files.at(path).canonicalize() {
        Ok(real) => elf::fault(&real, &files.arch),
        Err(_) if files.at(path).is_symlink() => Some("a link to nothing".into()),
        Err(e) => Some(format!("cannot be read: {e}")),
    }
}
