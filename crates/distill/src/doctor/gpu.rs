//! NVIDIA's driver, its devices and the libraries beside it. No library is loaded and no device opened.

use std::path::{Path, PathBuf};

use fd_compute::cuda::libraries::{self, Library};
use serde::Serialize;

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
    /// What is not there of the things without which everything is computed on the processor.
    pub missing: Vec<&'static str>,
    /// Variables and folders that lead nowhere.
    pub notes: Vec<String>,
}

impl Gpu {
    pub(super) fn of(machine: &Machine) -> Gpu {
        let text = machine.files.text("/proc/driver/nvidia/version");
        let driver = text.as_deref().map(|text| version(text).unwrap_or_else(|| "unknown".into()));
        let number = |p: &PathBuf| p.file_name()?.to_str()?.strip_prefix("nvidia")?.parse::<u32>().ok();
        let mut devices = machine.files.matches("/dev/nvidia*");
        devices.retain(|p| number(p).is_some());
        // Linux inside Windows has the driver of Windows behind one device.
        devices.extend(machine.files.matches("/dev/dxg"));
        let files = machine.files.matches("/proc/driver/nvidia/gpus/*/information");
        let models = files.into_iter().filter_map(|file| model(&machine.files.text(file)?)).collect();
        let newest = driver.as_deref().and_then(newest_cuda);
        let old =
            newest.filter(|cuda| *cuda < 12).map(|_| "the driver is older than 525, the first for CUDA 12: install a newer one".into());
        let advice = old.or_else(|| advice(machine, driver.is_some(), devices.is_empty()));
        let survey = libraries::survey(&machine.files, newest);
        let notes = unset(machine).into_iter().chain(survey.closed).collect();
        let needed = survey.libraries.iter().filter(|l| ["libcuda", "NVRTC", "cuBLASLt"].contains(&l.name) && l.found.is_empty());
        let missing = devices.is_empty().then_some("device").into_iter().chain(needed.map(|l| l.name)).collect();
        Gpu { driver, models, devices, advice, libraries: survey.libraries, missing, notes }
    }
}

/// The first number with a dot of the driver's own words.
fn version(text: &str) -> Option<String> {
    let number = |word: &&str| word.contains('.') && word.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    text.lines().next()?.split_whitespace().find(number).map(String::from)
}

/// The major version of CUDA that a driver runs, as far as that is known of its branch: none of a branch newer than the last one listed.
fn newest_cuda(driver: &str) -> Option<u32> {
    match driver.split('.').next()?.parse::<u32>().ok()? {
        580.. => None,
        525.. => Some(12),
        _ => Some(11),
    }
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
        let folder = machine.files.at(path).is_dir();
        (!folder).then(|| format!("{name}: {}: no such folder", path.display()))
    };
    let homes = ["FD_NVRTC_DIR", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"].into_iter();
    let homes = homes.filter_map(|name| missing(name, Path::new(machine.files.variable(name)?)));
    let paths = machine.files.variable("LD_LIBRARY_PATH").into_iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty());
    homes.chain(paths.filter_map(|p| missing("LD_LIBRARY_PATH", &p))).collect()
}
