//! Where libraries may lie, in the order in which they are looked for.

use std::path::{Path, PathBuf};

use super::files::Files;

/// A folder to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub path: PathBuf,
    /// Who says so.
    pub by: &'static str,
}

/// Folders that the dynamic loader knows without being told, `ARCH` for the architecture.
const SYSTEM: [&str; 8] =
    ["/usr/lib/wsl/lib", "/usr/lib/ARCH-linux-gnu", "/lib/ARCH-linux-gnu", "/usr/lib64", "/lib64", "/usr/local/lib", "/usr/lib", "/lib"];
/// Where toolkits are installed.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/opt/cuda/lib64"];

/// The folders that are there, each once: the dynamic loader's own, then those of variables, of Python environments and of toolkits.
pub(super) fn folders(files: &Files) -> Vec<Folder> {
    let mut folders: Vec<Folder> = vec![];
    let mut seen = vec![];
    for (path, by) in named(files).into_iter().chain(environments(files)).chain(usual(files, &TOOLKITS)) {
        // Links make one folder of several names.
        let real = files.at(&path).canonicalize();
        if let Ok(real) = real
            && real.is_dir()
            && !seen.contains(&real)
        {
            seen.push(real);
            folders.push(Folder { path, by });
        }
    }
    folders
}

/// What variables name, and between them what the loader knows by itself.
fn named(files: &Files) -> Vec<(PathBuf, &'static str)> {
    let paths = |by: &'static str| files.variable(by).into_iter().flat_map(std::env::split_paths).map(move |path| (path, by));
    let home = |by: &'static str| {
        let inside = ["lib64".into(), "lib".into(), format!("targets/{}-linux/lib", files.arch)];
        files.variable(by).into_iter().flat_map(move |home| inside.clone().map(|path| (Path::new(home).join(path), by)))
    };
    let own = ["FD_NVRTC_DIR", "LD_LIBRARY_PATH"].into_iter().flat_map(paths).filter(|(path, _)| !path.as_os_str().is_empty());
    let configured = loader(files).into_iter().map(|path| (path, "ld.so.conf"));
    own.chain(configured).chain(usual(files, &SYSTEM)).chain(home("CUDA_HOME")).chain(home("CUDA_PATH")).collect()
}

fn usual(files: &Files, patterns: &[&str]) -> Vec<(PathBuf, &'static str)> {
    let paths = patterns.iter().flat_map(|pattern| files.matches(pattern.replace("ARCH", &files.arch)));
    paths.map(|path| (path, "system")).collect()
}

/// The folders of libraries inside Python environments.
fn environments(files: &Files) -> Vec<(PathBuf, &'static str)> {
    let mut folders = vec![];
    for (prefix, by) in prefixes(files) {
        for packages in ["site-packages", "dist-packages"] {
            let wheels = prefix.join("lib/python3*").join(packages).join("nvidia/*/lib");
            folders.extend(files.matches(wheels).into_iter().map(|path| (path, by)));
        }
        if by == "CONDA_PREFIX" {
            folders.push((prefix.join("lib"), by));
        }
    }
    folders
}

/// Python environments, the active ones first.
fn prefixes(files: &Files) -> Vec<(PathBuf, &'static str)> {
    let named = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|by| Some((PathBuf::from(files.variable(by)?), by)));
    let home = files.variable("HOME").map(|home| (Path::new(home).join(".local"), "~/.local"));
    let python = files.variable("PATH").into_iter().flat_map(std::env::split_paths).map(|p| p.join("python3"));
    let python = python.into_iter().find(|p| !p.as_os_str().is_empty() && files.at(p).is_file());
    // An environment's python3 is a link to the one that it was made with.
    let real = python.as_ref().and_then(|p| files.at(p).canonicalize().ok()).map(|p| files.name(&p));
    let of = |python: PathBuf| Some(python.parent()?.parent()?.to_path_buf());
    let mut paths: Vec<PathBuf> = [python, real].into_iter().flatten().filter_map(of).collect();
    if paths.iter().any(|p| p == Path::new("/usr")) {
        paths.push("/usr/local".into());
    }
    // pyenv's python3 is a script beside all versions.
    let versions: Vec<PathBuf> = paths.iter().flat_map(|p| files.matches(p.join("versions/*"))).collect();
    paths.extend(versions);
    named.chain(home).chain(paths.into_iter().map(|p| (p, "python3"))).collect()
}

/// The folders of the dynamic loader's configuration.
fn loader(files: &Files) -> Vec<PathBuf> {
    let configured = std::iter::once(PathBuf::from("/etc/ld.so.conf")).chain(files.matches("/etc/ld.so.conf.d/*.conf"));
    let texts: Vec<String> = configured.filter_map(|file| files.text(file)).collect();
    let lines = texts.iter().flat_map(|text| text.lines()).map(|l| l.split('#').next().unwrap_or_default().trim());
    lines.filter(|l| l.starts_with('/')).map(PathBuf::from).collect()
}
