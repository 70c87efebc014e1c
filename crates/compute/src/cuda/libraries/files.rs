//! The files of a machine, in which libraries are looked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// More of a text is not read.
const MOST_BYTES: u64 = 1 << 20;
/// The variables that say where things are.
const VARIABLES: [&str; 8] = ["FD_NVRTC_DIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "PATH"];

/// The files of this machine, or a tree of files in their place.
#[derive(Clone, Debug)]
pub struct Files {
    /// Where the root folder is.
    pub root: PathBuf,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The processor's architecture, as Rust names it.
    pub arch: String,
}

impl Files {
    /// This machine's. What a variable holds that is not Unicode is not looked at.
    pub fn here() -> Files {
        let variable = |name: &str| Some((name.to_string(), std::env::var(name).ok().filter(|v| !v.is_empty())?));
        let variables = VARIABLES.into_iter().filter_map(variable).collect();
        Files { root: PathBuf::from("/"), variables, arch: std::env::consts::ARCH.into() }
    }

    /// Where a path of the machine is; a relative one is this process's.
    pub fn at(&self, path: &Path) -> PathBuf {
        path.strip_prefix("/").map_or_else(|_| path.to_path_buf(), |inside| self.root.join(inside))
    }

    /// What the machine calls a place.
    pub fn name(&self, place: &Path) -> PathBuf {
        place.strip_prefix(&self.root).map_or_else(|_| place.to_path_buf(), |inside| Path::new("/").join(inside))
    }

    /// What an environment variable holds.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The beginning of a text, if it can be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = vec![];
        File::open(self.at(path.as_ref())).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What lies in a folder, in order.
    pub fn entries(&self, folder: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(self.at(folder.as_ref()))?.flatten().map(|entry| self.name(&entry.path())).collect();
        paths.sort();
        Ok(paths)
    }

    /// The paths of a pattern that are there; a `*` in a part of it stands for any text.
    pub fn matches(&self, pattern: impl AsRef<Path>) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::new()];
        for part in pattern.as_ref().components() {
            paths = match part {
                Component::Normal(name) if name.to_string_lossy().contains('*') => {
                    let like = name.to_string_lossy();
                    let fits = |p: &PathBuf| p.file_name().is_some_and(|n| fits(&like, &n.to_string_lossy()));
                    paths.iter().flat_map(|p| self.entries(p).unwrap_or_default()).filter(fits).collect()
                }
                part => paths.into_iter().map(|p| p.join(part)).collect(),
            };
        }
        paths.retain(|p| self.at(p).exists());
        paths
    }
}

/// Does a name fit a pattern with one `*`?
fn fits(pattern: &str, name: &str) -> bool {
    let (start, end) = pattern.split_once('*').unwrap_or((pattern, ""));
    name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
}
