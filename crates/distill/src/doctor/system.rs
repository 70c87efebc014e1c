//! Operating system, processor and memory, from `/proc`, `/etc/os-release` and the control groups.

use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::{Machine, levels};

/// The operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct System {
    /// What it calls itself, else its kind.
    pub name: String,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// The processor's architecture.
    pub arch: String,
    /// Is it Linux inside Windows?
    pub wsl: bool,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// Its model.
    pub model: Option<String>,
    /// Instruction sets that the engine has code for and the processor runs, lowest first.
    pub simd_available: Vec<&'static str>,
    /// The instruction set in force.
    pub simd: &'static str,
    /// Cores that the process may use.
    pub cores: Option<usize>,
    /// Cores' worth of time that its control group allows; none: no limit, or none to be seen.
    pub quota: Option<f64>,
    /// Threads that the engine uses.
    pub threads: usize,
}

/// Main memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All there is.
    pub total: Option<u64>,
    /// What could be had now.
    pub available: Option<u64>,
    /// What its control group allows; none: no limit, or none to be seen.
    pub limit: Option<u64>,
}

impl System {
    pub(super) fn of(machine: &Machine) -> System {
        let release = machine.files.text("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"').to_string());
        let kernel = machine.files.text("/proc/sys/kernel/osrelease").map(|text| text.trim().to_string()).filter(|k| !k.is_empty());
        let wsl = kernel.as_deref().is_some_and(|k| k.to_lowercase().contains("microsoft"));
        System { name: name.filter(|n| !n.is_empty()).unwrap_or_else(|| machine.os.clone()), kernel, arch: machine.files.arch.clone(), wsl }
    }
}

impl Cpu {
    pub(super) fn of(machine: &Machine) -> Cpu {
        let info = machine.files.text("/proc/cpuinfo").unwrap_or_default();
        let named =
            |key: &str| info.lines().filter_map(|l| l.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_string());
        let (simd_available, simd) = levels();
        let model = named("model name").or_else(|| named("Model")).filter(|m| !m.is_empty());
        Cpu { model, simd_available, simd, cores: machine.cores, quota: quota(machine), threads: machine.threads }
    }
}

impl Memory {
    pub(super) fn of(machine: &Machine) -> Memory {
        let info = machine.files.text("/proc/meminfo").unwrap_or_default();
        let bytes = |key: &str| {
            let line = info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        };
        let total = bytes("MemTotal");
        let old = machine.files.text("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        let limits = groups(machine, "memory.max").into_iter().chain(old).filter_map(|text| text.trim().parse::<u64>().ok());
        // Without a limit the old control groups state a number beyond any memory.
        let limit = limits.min().filter(|limit| total.is_none_or(|total| *limit < total));
        Memory { total, available: bytes("MemAvailable"), limit }
    }
}

/// Cores' worth of time.
fn quota(machine: &Machine) -> Option<f64> {
    let cores = |quota: &str, period: &str| {
        let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        Some(quota / period).filter(|cores| *cores > 0.0 && cores.is_finite())
    };
    let now = groups(machine, "cpu.max").into_iter().filter_map(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        cores(quota, period)
    });
    let old = |key: &str| machine.files.text(Path::new("/sys/fs/cgroup/cpu").join(key));
    let old = old("cpu.cfs_quota_us").zip(old("cpu.cfs_period_us")).and_then(|(quota, period)| cores(&quota, &period));
    now.chain(old).reduce(f64::min)
}

/// A setting of the process's control group and of all above it.
fn groups(machine: &Machine, key: &str) -> Vec<String> {
    let own = machine.files.text("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/").to_string();
    // Seen from inside a container the path may climb out of what can be seen.
    let own: PathBuf = Path::new(&own).components().filter(|c| matches!(c, Component::Normal(_))).collect();
    own.ancestors().filter_map(|group| machine.files.text(Path::new("/sys/fs/cgroup").join(group).join(key))).collect()
}
