//! What a check has found: plain data, written as JSON after every finding.

use std::path::{Path, PathBuf};

use fd_compute::cuda::Card;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::bench::Group;
use crate::run_dir::write_file;
use crate::{Error, doctor, run_dir};

/// Something that was held against something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// In which section.
    pub section: Section,
    /// What was checked: an operation, a case.
    pub name: String,
    /// In which shape or under which circumstances.
    pub case: String,
    /// The element type on the device.
    pub dtype: String,
    /// Did it hold?
    pub passed: bool,
    /// The worst error; none where it is no number.
    pub worst: Option<f64>,
    /// What may be.
    pub tolerance: f64,
    /// Where the error was worst, or why nothing could be compared.
    pub what: String,
}

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// In which section.
    pub section: Section,
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What the device can do at most: medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// A large copy on the device, bytes read and written, GB/s.
    pub copy_gb_s: f64,
    /// A square product in bf16, TFLOP/s.
    pub product_bf16_tflop_s: f64,
    /// Its side.
    pub product_bf16_side: usize,
    /// A square product in f32, TFLOP/s.
    pub product_f32_tflop_s: f64,
    /// Its side.
    pub product_f32_side: usize,
    /// From one start of a small kernel to the next, µs.
    pub launch_us: f64,
}

/// Where the time of a step goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernels {
    /// Sizes.
    pub preset: String,
    /// Images.
    pub batch: usize,
    /// Element type.
    pub dtype: String,
    /// By operation and pass, the longest first; seconds are measured.
    pub groups: Vec<Group>,
}

/// What a step takes, of ours or of PyTorch's: the line that both benchmarks print, as far as it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Whose.
    pub engine: String,
    /// Images a second.
    pub images_per_second: f64,
    /// Median of a step.
    pub step_ms: f64,
    /// The fastest step.
    pub step_ms_min: f64,
    /// Most memory of the device that the process had, MiB.
    pub peak_device_mb: u64,
    /// Counted operations over measured time.
    #[serde(default)]
    pub gflops: f64,
}

/// A variant of PyTorch's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Such as `sdpa, compiled (default)`.
    pub name: String,
    /// What it took; none: it failed.
    pub line: Option<Line>,
    /// Why it failed.
    pub why: Option<String>,
}

/// A preset's whole step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Sizes.
    pub preset: String,
    /// Images.
    pub batch: usize,
    /// Element type.
    pub dtype: String,
    /// Ours.
    pub ours: Line,
    /// PyTorch's, if it was asked for.
    pub torch: Vec<Variant>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// Left out.
    pub skipped: Vec<Skipped>,
    /// Measured, if they were.
    pub ceilings: Option<Ceilings>,
    /// Profiles.
    pub kernels: Vec<Kernels>,
    /// Whole steps.
    pub steps: Vec<Steps>,
}

/// Everything, with where and when.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began, in UTC.
    pub date: String,
    /// How long it took.
    pub seconds: f64,
    /// With small shapes?
    pub quick: bool,
    /// The device.
    pub device: String,
    /// What it is.
    pub card: Card,
    /// The kernel driver's version, where the system says.
    pub driver: Option<String>,
    /// Our version.
    pub version: &'static str,
    /// The commit that is checked out where this runs.
    pub commit: Option<String>,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
}

impl Steps {
    /// PyTorch's fastest variant.
    pub fn best(&self) -> Option<(&Variant, &Line)> {
        let ran = self.torch.iter().filter_map(|v| Some((v, v.line.as_ref()?)));
        ran.max_by(|a, b| a.1.images_per_second.total_cmp(&b.1.images_per_second))
    }
}

impl Ceilings {
    /// The matrix product's ceiling in a type, TFLOP/s.
    pub fn product(&self, dtype: &str) -> f64 {
        if dtype == "bf16" { self.product_bf16_tflop_s } else { self.product_f32_tflop_s }
    }
}

impl Findings {
    /// Did everything hold that was checked?
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|c| c.passed)
    }

    /// Takes over what another process has found.
    pub fn take(&mut self, other: Findings) {
        self.checks.extend(other.checks);
        self.skipped.extend(other.skipped);
        self.ceilings = other.ceilings.or(self.ceilings);
        self.kernels.extend(other.kernels);
        self.steps.extend(other.steps);
    }

    /// Reads what a process has left; nothing where it has left nothing whole.
    pub fn read(path: &Path) -> Findings {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_file(path, &json(path, self)?)
    }
}

impl Report {
    /// Begins a report on a device.
    pub fn new(device: String, card: Card, quick: bool) -> Report {
        let driver = doctor::Report::of(&doctor::Machine::here()).gpu.driver;
        Report {
            date: utc(crate::tensorboard::now() as i64),
            seconds: 0.0,
            quick,
            device,
            card,
            driver,
            version: env!("CARGO_PKG_VERSION"),
            commit: run_dir::git_revision(),
            findings: Findings::default(),
        }
    }

    /// Writes `gpu-check.json` and `gpu-check.md` into a folder.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2], Error> {
        let (data, text) = (folder.join("gpu-check.json"), folder.join("gpu-check.md"));
        write_file(&data, &json(&data, self)?)?;
        write_file(&text, super::markdown::page(self).as_bytes())?;
        Ok([data, text])
    }
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::File { path: path.to_path_buf(), why: e.to_string() })?;
    Ok([bytes, b"\n".to_vec()].concat())
}

/// Seconds since 1970 as a date and time.
fn utc(seconds: i64) -> String {
    let (mut day, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let (mut year, mut month) = (1970, 1);
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let length = |month: i64| match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    while day >= length(month) {
        day -= length(month);
        month += 1;
    }
    format!("{year}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", day + 1, second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        let dates = [(0, "1970-01-01T00:00:00Z"), (951_782_400, "2000-02-29T00:00:00Z"), (1_709_251_199, "2024-02-29T23:59:59Z")];
        dates.into_iter().for_each(|(seconds, text)| assert_eq!(super::utc(seconds), text));
        assert_eq!(super::utc(1_798_761_600), "2027-01-01T00:00:00Z");
    }
}
