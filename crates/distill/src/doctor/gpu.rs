//! NVIDIA's driver, its devices and the libraries beside it. No library is loaded and no device opened.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::libraries::{Library, closed, libraries};
use super::search::folders;
use super::{Machine, System};

/// The side of the GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// The kernel driver's version.
    pub driver: Option<String>,
    /// The GPUs that the driver names.
    pub models: Vec<String>,
    /// Device files of GPUs.
    pub devices: Vec<PathBuf>,
    /// What to do about driver and devices; none: nothing.
    pub advice: Option<String>,
    /// The libraries.
    pub libraries: Vec<Library>,
    /// Variables and folders that lead nowhere.
    pub notes: Vec<String>,
}

impl Gpu {
    pub(super) fn of(machine: &Machine) -> Gpu {
        let text = machine.text("/proc/driver/nvidia/version");
        let driver = text.as_deref().map(|text| version(text).unwrap_or_else(|| "unknown".into()));
        let number = |p: &PathBuf| p.file_name()?.to_str()?.strip_prefix("nvidia")?.parse::<u32>().ok();
        let mut devices = machine.matches("/dev/nvidia*");
        devices.retain(|p| number(p).is_some());
        // Linux inside Windows has the driver of Windows behind one device.
        devices.extend(machine.matches("/dev/dxg"));
        let files = machine.matches("/proc/driver/nvidia/gpus/*/information");
        let models = files.into_iter().filter_map(|file| model(&machine.text(file)?)).collect();
        let advice = advice(machine, driver.is_some(), devices.is_empty());
        let folders = folders(machine);
        let notes = unset(machine).into_iter().chain(closed(machine, &folders)).collect();
        Gpu { driver, models, devices, advice, libraries: libraries(machine, &folders), notes }
    }
}

/// The first number with a dot of the driver's own words.
fn version(text: &str) -> Option<String> {
    let number = |word: &&str| word.contains('.') && word.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    text.lines().next()?.split_whitespace().find(number).map(String::from)
}

fn model(information: &str) -> Option<String> {
    let model = information.lines().find_map(|l| l.strip_prefix("Model:"))?.trim();
    (!model.is_empty()).then(|| model.to_string())
}

fn advice(machine: &Machine, driver: bool, no_devices: bool) -> Option<String> {
    let wsl = System::of(machine).wsl;
    let text = match (driver, no_devices) {
        (_, true) if wsl => "install NVIDIA's driver in Windows (not here), then `wsl --shutdown`",
        (true, true) => "the driver is loaded but no device is here: start the container with `--gpus all`",
        (false, true) => "no NVIDIA GPU, or no driver: install it, or start the container with `--gpus all` (NVIDIA Container Toolkit)",
        (false, false) if !wsl => "device files without a driver: load it with `modprobe nvidia`",
        _ => return None,
    };
    Some(text.into())
}

/// Variables that name a folder which is not there.
fn unset(machine: &Machine) -> Vec<String> {
    let missing = |name: &str, path: &Path| {
        let folder = machine.at(path).is_dir();
        (!folder).then(|| format!("{name}: {}: no such folder", path.display()))
    };
    let homes = ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"].into_iter();
    let homes = homes.filter_map(|name| missing(name, Path::new(machine.variable(name)?)));
    let paths = machine.variable("LD_LIBRARY_PATH").into_iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty());
    homes.chain(paths.filter_map(|p| missing("LD_LIBRARY_PATH", &p))).collect()
}
