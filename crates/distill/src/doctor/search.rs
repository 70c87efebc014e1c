//! Where libraries may lie, in the order in which they are looked for.

use std::path::{Path, PathBuf};

use super::Machine;

/// A folder to look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub path: PathBuf,
    /// Who says so.
    pub by: &'static str,
}

/// Folders that usually hold libraries, `ARCH` for the architecture.
const USUAL: [&str; 11] = [
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*/lib",
    "/opt/cuda/lib64",
    "/usr/lib/wsl/lib",
    "/usr/lib/ARCH-linux-gnu",
    "/lib/ARCH-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/local/lib",
    "/usr/lib",
    "/lib",
];

/// The folders that are there, each once.
pub(super) fn folders(machine: &Machine) -> Vec<Folder> {
    let mut folders: Vec<Folder> = vec![];
    let mut seen = vec![];
    let mut add = |path: PathBuf, by: &'static str| {
        // Links make one folder of several names.
        let real = machine.at(&path).canonicalize();
        if let Ok(real) = real
            && real.is_dir()
            && !seen.contains(&real)
        {
            seen.push(real);
            folders.push(Folder { path, by });
        }
    };
    for path in machine.variable("LD_LIBRARY_PATH").into_iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty()) {
        add(path, "LD_LIBRARY_PATH");
    }
    for by in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = machine.variable(by) {
            let inside = ["lib64".into(), "lib".into(), format!("targets/{}-linux/lib", machine.arch)];
            inside.iter().for_each(|path| add(Path::new(home).join(path), by));
        }
    }
    for (prefix, by) in prefixes(machine) {
        for packages in ["site-packages", "dist-packages"] {
            let wheels = prefix.join("lib/python3*").join(packages).join("nvidia/*/lib");
            machine.matches(wheels).into_iter().for_each(|path| add(path, by));
        }
        if by == "CONDA_PREFIX" {
            add(prefix.join("lib"), by);
        }
    }
    loader(machine).into_iter().for_each(|path| add(path, "ld.so.conf"));
    for pattern in USUAL {
        machine.matches(pattern.replace("ARCH", &machine.arch)).into_iter().for_each(|path| add(path, "system"));
    }
    folders
}

/// Python environments, the active ones first.
fn prefixes(machine: &Machine) -> Vec<(PathBuf, &'static str)> {
    let named = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|by| Some((PathBuf::from(machine.variable(by)?), by)));
    let home = machine.variable("HOME").map(|home| (Path::new(home).join(".local"), "~/.local"));
    let python = machine.variable("PATH").into_iter().flat_map(std::env::split_paths).map(|p| p.join("python3"));
    let python = python.into_iter().find(|p| !p.as_os_str().is_empty() && machine.at(p).is_file());
    // An environment's python3 is a link to the one that it was made with.
    let real = python.as_ref().and_then(|p| machine.at(p).canonicalize().ok()).map(|p| machine.name(&p));
    let of = |python: PathBuf| Some(python.parent()?.parent()?.to_path_buf());
    let mut paths: Vec<PathBuf> = [python, real].into_iter().flatten().filter_map(of).collect();
    if paths.iter().any(|p| p == Path::new("/usr")) {
        paths.push("/usr/local".into());
    }
    named.chain(home).chain(paths.into_iter().map(|p| (p, "python3"))).collect()
}

/// The folders of the dynamic loader's configuration.
fn loader(machine: &Machine) -> Vec<PathBuf> {
    let files = std::iter::once(PathBuf::from("/etc/ld.so.conf")).chain(machine.matches("/etc/ld.so.conf.d/*.conf"));
    let texts: Vec<String> = files.filter_map(|file| machine.text(file)).collect();
    let lines = texts.iter().flat_map(|text| text.lines()).map(|l| l.split('#').next().unwrap_or_default().trim());
    lines.filter(|l| l.starts_with('/')).map(PathBuf::from).collect()
}
