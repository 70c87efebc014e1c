//! What a landscape is written as, and read from by figures.

use std::path::Path;

use fd_distill::Error;
use fd_model::{ModelConfig, Statistics};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::direction::{Filter, Tensors};
use super::images::Selection;

/// The table of points.
pub const POINTS: &str = "landscape.csv";
/// The table of numbers.
pub const SHARPNESS: &str = "sharpness.csv";
/// [`LandscapeReport`]: written last.
pub const REPORT: &str = "landscape.json";

/// Which points are measured, and along which directions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// 1 or 2.
    pub dims: usize,
    /// Steps along each axis go from -range to range.
    pub range: f64,
    /// Points along each axis; odd, so that the model itself is one.
    pub points: usize,
    /// A landscape for each.
    pub seeds: Vec<u64>,
    /// Which tensors move.
    pub tensors: Tensors,
    /// What is rescaled together.
    pub filter: Filter,
    /// Is the second axis orthogonal to the first, in each filter?
    pub orthogonal: bool,
    /// Distances at which the increase of the loss is averaged over directions.
    pub radii: Vec<f64>,
    /// Over so many; 0: no increases.
    pub directions: usize,
    /// Images a pass.
    pub batch: usize,
    /// The curvature's.
    pub hessian: Curvature,
}

/// How curvature is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curvature {
    /// Lanczos's products at most; 0: no eigenvalues.
    pub iterations: usize,
    /// Residual of the eigenvalues, relative to the larger, at which it ends earlier.
    pub tolerance: f64,
    /// Hutchinson's vectors; 0: no trace.
    pub vectors: usize,
    /// The Hessian is that of the loss as a function of these.
    pub tensors: Tensors,
}

impl Settings {
    /// Refuses what cannot be measured; the message names the option.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Usage(why));
        if !(1..=2).contains(&self.dims) {
            return refuse(format!("--dims {}: 1 or 2", self.dims));
        }
        if self.points < 3 || self.points.is_multiple_of(2) || self.points > 1001 {
            return refuse(format!("--points {}: expected an odd number from 3 to 1001, so that the model itself is a point", self.points));
        }
        if !(self.range > 0.0 && self.range.is_finite()) {
            return refuse(format!("--range {}: expected a number above 0", self.range));
        }
        if let Some(r) = self.radii.iter().find(|r| !(**r > 0.0 && r.is_finite())) {
            return refuse(format!("--radius {r}: expected numbers above 0"));
        }
        if !(self.hessian.tolerance >= 0.0 && self.hessian.tolerance.is_finite()) {
            return refuse(format!("--hessian-tolerance {}: expected a number that is not negative", self.hessian.tolerance));
        }
        if self.seeds.is_empty() || self.batch == 0 {
            return refuse("--seeds and --batch: at least one".into());
        }
        Ok(())
    }

    /// Steps along an axis: symmetric, with 0 in the middle.
    pub fn axis(&self) -> Vec<f64> {
        let half = (self.points / 2) as i64;
        (-half..=half).map(|i| self.range * i as f64 / half as f64).collect()
    }

    /// The points (a, b) of one landscape in their order; in one dimension b is 0.
    pub fn grid(&self) -> Vec<(f64, f64)> {
        let axis = self.axis();
        match self.dims {
            1 => axis.into_iter().map(|a| (a, 0.0)).collect(),
            _ => axis.iter().flat_map(|a| axis.iter().map(|b| (*a, *b))).collect(),
        }
    }
}

/// A model of a landscape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Its name in the tables.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Numbers that move along the directions.
    pub moved: usize,
    /// How its images are normalised.
    pub normalise: Statistics,
    /// The architecture.
    pub model: ModelConfig,
}

/// The images of a landscape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEntry {
    /// What the data set is called.
    pub name: String,
    /// Images that are measured on.
    pub images: usize,
    /// Classes.
    pub classes: usize,
    /// SHA-256 of these images and their labels.
    pub fingerprint: String,
    /// How they were chosen.
    pub selection: Selection,
}

/// `landscape.json`: all that determines the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandscapeReport {
    /// Always single precision for loss and accuracy; curvature is measured in double precision.
    pub precision: String,
    /// SIMD level: another one rounds differently.
    pub simd: String,
    /// Files of the models, in their order; where they lie does not matter.
    pub files: Vec<String>,
    /// Grid, directions, numbers.
    pub settings: Settings,
    /// The images.
    pub data: DataEntry,
    /// The models.
    pub models: Vec<ModelEntry>,
}

/// A row of `landscape.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The model's name.
    pub model: String,
    /// The directions' seed.
    pub seed: u64,
    /// Step along the first axis.
    pub a: f64,
    /// Step along the second.
    pub b: f64,
    /// Mean cross-entropy; may be NaN or infinite far out.
    pub loss: f64,
    /// Top-1 accuracy in percent.
    pub accuracy: f64,
}

/// A row of `sharpness.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// The model's name.
    pub model: String,
    /// Of the random numbers.
    pub seed: u64,
    /// `loss_increase` and `accuracy_decrease` (in points) at a radius, `gradient_norm`, `hessian_largest`, `hessian_smallest`,
    /// `hessian_trace`.
    pub quantity: String,
    /// Where it has one.
    pub radius: Option<f64>,
    /// The number.
    pub value: f64,
    /// Standard error of a mean, residual of an eigenvalue, 0 for a gradient's norm.
    pub uncertainty: f64,
    /// Directions, vectors or products that it is from.
    pub samples: f64,
}

/// A finished landscape.
#[derive(Clone, Debug, PartialEq)]
pub struct Landscape {
    /// What it is of.
    pub report: LandscapeReport,
    /// By model, seed, a and b.
    pub points: Vec<Point>,
    /// By model, seed and quantity.
    pub sharpness: Vec<Sharpness>,
}

impl Landscape {
    /// Reads the folder that `analyze landscape` wrote.
    ///
    /// # Errors
    /// A file that is not there (it is not finished) or cannot be understood.
    pub fn read(folder: &Path) -> Result<Landscape, Error> {
        let path = folder.join(REPORT);
        let refuse = |why: String| Error::File { path: path.clone(), why };
        let text = std::fs::read(&path).map_err(|e| refuse(e.to_string()))?;
        let report = serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
        Ok(Landscape { report, points: rows(&folder.join(POINTS))?, sharpness: rows(&folder.join(SHARPNESS))? })
    }
}

fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let refuse = |e: csv::Error| Error::File { path: path.to_path_buf(), why: e.to_string() };
    csv::Reader::from_path(path).map_err(refuse)?.deserialize().collect::<Result<_, _>>().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn settings() -> Settings {
        let hessian = Curvature { iterations: 30, tolerance: 1e-4, vectors: 20, tensors: Tensors::All };
        Settings {
            dims: 2,
            range: 0.7,
            points: 21,
            seeds: vec![0],
            tensors: Tensors::Matrices,
            filter: Filter::Row,
            orthogonal: false,
            radii: vec![0.5],
            directions: 10,
            batch: 32,
            hessian,
        }
    }

    #[test]
    fn grids_are_symmetric_and_hold_the_model_itself() {
        for points in [3, 21, 41] {
            let settings = Settings { points, ..settings() };
            let axis = settings.axis();
            assert_eq!((axis.len(), axis[points / 2], axis[0], axis[points - 1]), (points, 0.0, -0.7, 0.7));
            assert!(axis.iter().zip(axis.iter().rev()).all(|(a, b)| *a == -b) && axis.is_sorted());
            let grid = settings.grid();
            assert_eq!((grid.len(), grid[grid.len() / 2], grid[1].0), (points * points, (0.0, 0.0), -0.7));
            let line = Settings { dims: 1, ..settings }.grid();
            assert!(line.len() == points && line.iter().all(|(_, b)| *b == 0.0));
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_option() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(settings().check().is_ok());
        assert!(refused(|s| s.points = 20).starts_with("--points 20: expected an odd number"));
        assert!(refused(|s| s.points = 1).starts_with("--points"));
        assert!(refused(|s| s.range = f64::NAN).starts_with("--range NaN"));
        assert!(refused(|s| s.radii = vec![0.1, -1.0]).starts_with("--radius -1"));
        assert!(refused(|s| s.dims = 3).starts_with("--dims 3"));
        assert!(refused(|s| s.hessian.tolerance = f64::INFINITY).starts_with("--hessian-tolerance inf"));
        assert!(refused(|s| s.seeds.clear()).contains("--seeds"));
    }

    #[test]
    fn settings_survive_toml_and_json() {
        let text = toml::to_string(&settings()).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings());
        let text = serde_json::to_string(&Settings { tensors: Tensors::Named(vec!["a*".into(), "b".into()]), ..settings() }).unwrap();
        assert!(text.contains("\"a*,b\""), "{text}");
        assert!(serde_json::from_str::<Settings>(&text).is_ok());
    }
}
