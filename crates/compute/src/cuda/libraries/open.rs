//! Opening the libraries that a survey finds.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use super::super::needed;
use super::{CUBLAS_LT, Files, Found, NVRTC, OLDEST_CUDA, Origin, Wanted, folders};

/// A library that stays open, and where it was.
pub(crate) struct Opened {
    pub library: ManuallyDrop<libloading::Library>,
    pub found: Found,
}

/// Opens a library: the first that can be opened of those that the survey finds, else what the loader has under its name.
/// The error is the whole reason in one line.
pub(crate) fn open(wanted: &Wanted, files: &Files, newest_cuda: Option<u32>) -> Result<Opened, String> {
    let library = wanted.look(files, &folders(files), newest_cuda);
    let mut refused = library.unusable;
    for found in library.found {
        match load(&files.at(&found.path)) {
            Ok(library) => return Ok(Opened { library, found }),
            Err(why) => refused.push(format!("{}: {why}", found.path.display())),
        }
    }
    for name in wanted.names(newest_cuda) {
        if let Ok(library) = load(Path::new(&name)) {
            return Ok(Opened { library, found: Found { path: PathBuf::from(name), version: None, by: "loader" } });
        }
    }
    let why = refused.first().map_or("was not found".into(), |first| format!("cannot be used: {first}"));
    Err(format!("{} ({}) {why}: {}", wanted.name, wanted.names(newest_cuda).join(" or "), wanted.advice(newest_cuda)))
}

/// Opens NVRTC and, beside it, the library that it opens by name when it first compiles.
pub(crate) fn nvrtc(files: &Files, newest_cuda: Option<u32>) -> Result<Opened, String> {
    let opened = open(&NVRTC, files, newest_cuda)?;
    let real = files.at(&opened.found.path).canonicalize().unwrap_or_default();
    let beside = real.parent().map(|folder| folder.join("libnvrtc-builtins.so.*"));
    for path in beside.iter().flat_map(|pattern| files.matches(pattern)) {
        // Where it cannot be opened NVRTC says so itself, when it compiles.
        let _ = load(&path);
    }
    Ok(opened)
}

/// Sees to it that cuBLASLt's bindings find their library, and says where it is. They take whatever the loader has under a list of
/// names, and only what is missing there can be chosen.
pub(crate) fn cublas_lt(files: &Files, newest_cuda: Option<u32>) -> Result<Found, String> {
    let mut found = Found { path: PathBuf::new(), version: None, by: "loader" };
    if by_name("cublasLt").is_none() {
        found = open(&CUBLAS_LT, files, newest_cuda)?.found;
    }
    let (name, library) = by_name("cublasLt").ok_or_else(|| format!("cuBLASLt: {} is not what its name says", found.path.display()))?;
    if found.path.as_os_str().is_empty() {
        found.path = PathBuf::from(&name);
    }
    // SAFETY: this is the function's type in all versions.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> usize>(b"cublasLtGetVersion\0") };
    let version = version.map_err(|_| format!("cuBLASLt: {} has no cublasLtGetVersion", found.path.display()))?;
    // SAFETY: it takes nothing and returns a constant of the library, which is open.
    let version = unsafe { version() };
    if let Some(why) = CUBLAS_LT.unfit((version / 10_000) as u32, newest_cuda) {
        return Err(format!("cuBLASLt: {}, which the loader finds first, is {why}", found.path.display()));
    }
    if let Some(missing) = needed::missing(&library, needed::CUBLAS_LT) {
        return Err(format!("cuBLASLt: {} has no {missing}", found.path.display()));
    }
    Ok(Found { version: Some(format!("{}.{}", version / 10_000, version / 100 % 100)), ..found })
}

/// What cudarc would open as a library, and under which name.
pub(crate) fn by_name(library: &str) -> Option<(String, ManuallyDrop<libloading::Library>)> {
    cudarc::get_lib_name_candidates(library).into_iter().find_map(|name| Some((name.clone(), load(Path::new(&name)).ok()?)))
}

impl Wanted {
    /// The names under which the loader may have it, newest first.
    fn names(&self, newest_cuda: Option<u32>) -> Vec<String> {
        match self.origin {
            Origin::Driver(version) => vec![format!("{}.{version}", self.stem)],
            Origin::Cuda(_) => {
                (OLDEST_CUDA..=newest_cuda.unwrap_or(13).clamp(OLDEST_CUDA, 13)).rev().map(|v| format!("{}.{v}", self.stem)).collect()
            }
            Origin::Apart(_) => vec![self.stem.into()],
        }
    }
}

/// Opens a library for as long as the process lives.
fn load(path: &Path) -> Result<ManuallyDrop<libloading::Library>, String> {
    // SAFETY: opening runs the library's initialisers. It is one of NVIDIA's by its name, from where the environment has the loader
    // look or from an installed package, which is the trust that every dynamically linked program puts there. It is never closed, so
    // no thread or exit handler of it can outlive its code.
    unsafe { libloading::Library::new(path) }.map(ManuallyDrop::new).map_err(|e| reason(&e))
}

/// The loader's own words, in one line.
fn reason(error: &libloading::Error) -> String {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = source.to_string();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
