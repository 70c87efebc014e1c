//! What a sweep is made of: a base table, axes of overrides, and what the paper says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Point;
use crate::Error;
use crate::config::{Override, Source, load, load_overridden};

/// The axis that several teachers make; a configuration's own axes are called otherwise.
pub const TEACHER_AXIS: &str = "teacher";

/// A sweep's configuration: `experiments/sweeps/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// The file it was read from: errors name it, and `base` is relative to it.
    #[serde(skip)]
    pub file: PathBuf,
    /// Its name, and its run directory's.
    pub name: String,
    /// What it asks, for readers.
    pub question: String,
    /// The table that is run at every point: one that comes with the binary, or a `.toml` file relative to this one.
    pub base: String,
    /// Seeds of every point, in place of the table's.
    pub seeds: Vec<u64>,
    /// The table's teachers to take, by name.
    pub teachers: Vec<String>,
    /// Overrides of every point.
    #[serde(default)]
    pub set: Vec<String>,
    /// The table's measures to take, by key.
    pub columns: Vec<String>,
    /// What the paper says, in words.
    pub claim: Option<String>,
    /// The axes; the points are their grid.
    pub axes: Vec<Axis>,
    /// Points of the grid to leave out.
    #[serde(default)]
    pub skip: Vec<Skip>,
    /// The point that every other is compared with: a label of every axis.
    pub reference: Selection,
    /// What the paper says, for machines.
    #[serde(default)]
    pub order: Vec<Order>,
}

/// Labels by axis.
pub type Selection = BTreeMap<String, Label>;

/// What a point of an axis is called. A number or another value is called as TOML writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "Value")]
pub struct Label(pub String);

impl From<Value> for Label {
    fn from(value: Value) -> Label {
        match value {
            Value::String(text) => Label(text),
            other => Label(other.to_string()),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An axis: in the file either `points`, or `key` and `values`, or `zip` (keys whose values go together, in lists of one length).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "AxisForms")]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// Its points, in order.
    pub points: Vec<AxisPoint>,
}

/// A point of an axis.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisPoint {
    /// What it is called.
    pub label: Label,
    /// Its overrides `key.path=value`.
    pub set: Vec<String>,
}

/// Points to leave out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// Those that have all of these labels.
    pub when: Selection,
}

/// One point of an axis is said to beat others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The axis.
    pub axis: String,
    /// The label that should win.
    pub better: Label,
    /// The labels that should lose.
    pub worse: Vec<Label>,
    /// Labels of other axes where it is said to; those that are not named here may have any.
    #[serde(default)]
    pub when: Selection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AxisForms {
    name: String,
    points: Option<Vec<AxisPoint>>,
    key: Option<String>,
    values: Option<Vec<Value>>,
    zip: Option<BTreeMap<String, Vec<Value>>>,
}

impl TryFrom<AxisForms> for Axis {
    type Error = String;

    fn try_from(forms: AxisForms) -> Result<Axis, String> {
        let AxisForms { name, points, key, values, zip } = forms;
        let points = match (points, key, values, zip) {
            (Some(points), None, None, None) => points,
            (None, Some(key), Some(values), None) => {
                let point = |value: Value| AxisPoint { set: vec![format!("{key}={value}")], label: value.into() };
                values.into_iter().map(point).collect()
            }
            (None, None, None, Some(zip)) => zipped(&zip).map_err(|why| format!("axis `{name}`: {why}"))?,
            _ => return Err(format!("axis `{name}`: expected either `points`, or `key` and `values`, or `zip`")),
        };
        Ok(Axis { name, points })
    }
}

/// The i-th values of all keys make the i-th point, which is called by them: `depth 4, embed_dim 64`.
fn zipped(zip: &BTreeMap<String, Vec<Value>>) -> Result<Vec<AxisPoint>, String> {
    let lengths: BTreeSet<usize> = zip.values().map(Vec::len).collect();
    if lengths.len() > 1 {
        return Err("the lists of `zip` are not equally long".into());
    }
    let point = |i: usize| {
        let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
        let names: Vec<String> = zip.iter().map(|(key, values)| format!("{} {}", name(key), Label::from(values[i].clone()))).collect();
        AxisPoint { label: Label(names.join(", ")), set: zip.iter().map(|(key, values)| format!("{key}={}", values[i])).collect() }
    };
    Ok((0..lengths.into_iter().next().unwrap_or(0)).map(point).collect())
}

impl SweepConfig {
    /// Reads and checks a sweep.
    ///
    /// # Errors
    /// One line that names file and key: what cannot be read, keys that are missing or unknown, lists that are empty or repeat
    /// themselves, axes and labels that are not there.
    pub fn load(file: &Path) -> Result<SweepConfig, Error> {
        let (config, _) = load::<SweepConfig>(&Source::File(file.to_path_buf()), &[])?;
        let config = SweepConfig { file: file.to_path_buf(), ..config };
        config.check().map_err(|why| config.refuse(why))?;
        Ok(config)
    }

    pub(super) fn refuse(&self, why: String) -> Error {
        Error::Config { file: self.file.clone(), why }
    }

    /// The base table's source. `embedded` knows the tables that come with the binary by name.
    ///
    /// # Errors
    /// [`Error::Config`] when `base` is neither one of those nor a `.toml` file's path.
    pub fn base(&self, embedded: impl Fn(&str) -> Option<Source>) -> Result<Source, Error> {
        let path = Path::new(&self.base);
        match embedded(&self.base) {
            Some(source) => Ok(source),
            None if path.extension().is_some_and(|e| e == "toml") => {
                Ok(Source::File(self.file.parent().unwrap_or(Path::new("")).join(path)))
            }
            None => {
                let why = format!("key `base`: `{}` is neither a table that comes with the binary nor a .toml file", self.base);
                Err(self.refuse(why))
            }
        }
    }

    /// The table at a point: `base` with this sweep's overrides, then the command line's (`sets`), then the point's; also as the resolved
    /// TOML. Seeds, teachers and columns are the caller's to apply.
    ///
    /// # Errors
    /// As [`load_overridden`]; an override that does not fit is named with its axis.
    pub fn resolve<T: DeserializeOwned>(&self, base: &Source, sets: &[String], point: &Point) -> Result<(T, Table), Error> {
        let own = self.set.iter().map(|set| Override { by: format!("{}: key `set`:", self.file.display()), set: set.clone() });
        let sets = sets.iter().map(|set| Override::by_command_line(set));
        load_overridden(base, &own.chain(sets).chain(point.sets.iter().cloned()).collect::<Vec<_>>())
    }

    fn check(&self) -> Result<(), String> {
        for (key, text) in [("name", &self.name), ("question", &self.question), ("claim", self.claim.as_ref().unwrap_or(&self.name))] {
            readable(text).map_err(|why| format!("key `{key}`: {why}"))?;
        }
        distinct("seeds", self.seeds.iter())?;
        distinct("teachers", self.teachers.iter())?;
        distinct("columns", self.columns.iter())?;
        distinct("axes", self.axes.iter().map(|axis| &axis.name))?;
        for axis in &self.axes {
            readable(&axis.name).map_err(|why| format!("key `axes`: {why}"))?;
            if axis.name == TEACHER_AXIS {
                return Err(format!("key `axes`: `{TEACHER_AXIS}` is the axis that `teachers` makes, call this one otherwise"));
            }
            distinct(&format!("axes.{}", axis.name), axis.points.iter().map(|p| &p.label))?;
            for point in &axis.points {
                readable(&point.label.0).map_err(|why| format!("key `axes.{}`: {why}", axis.name))?;
            }
        }
        self.check_selections()
    }

    /// Every axis and label that is referred to is there.
    fn check_selections(&self) -> Result<(), String> {
        self.known("reference", &self.reference)?;
        if let Some(axis) = self.axes.iter().find(|axis| !self.reference.contains_key(&axis.name)) {
            return Err(format!("key `reference`: no label for axis `{}`", axis.name));
        }
        for skip in &self.skip {
            if skip.when.is_empty() {
                return Err("key `skip.when`: at least one label is needed".into());
            }
            self.known("skip.when", &skip.when)?;
        }
        if self.claim.is_none() && !self.order.is_empty() {
            return Err("key `order`: `claim` is missing: what the paper says, in words".into());
        }
        for Order { axis, better, worse, when } in &self.order {
            distinct("order.worse", worse.iter())?;
            for label in worse.iter().chain([better]) {
                self.known("order", &Selection::from([(axis.clone(), label.clone())]))?;
            }
            if worse.contains(better) {
                return Err(format!("key `order.worse`: `{better}` cannot beat itself"));
            }
            self.known("order.when", when)?;
            if when.contains_key(axis) {
                return Err(format!("key `order.when`: `{axis}` is the order's own axis"));
            }
        }
        Ok(())
    }

    fn known(&self, key: &str, selection: &Selection) -> Result<(), String> {
        for (name, label) in selection {
            let Some(axis) = self.axes.iter().find(|axis| axis.name == *name) else {
                return Err(format!("key `{key}`: no axis `{name}`; there is {}", listed(self.axes.iter().map(|a| &a.name))));
            };
            if !axis.points.iter().any(|p| p.label == *label) {
                let labels = listed(axis.points.iter().map(|p| &p.label));
                return Err(format!("key `{key}`: axis `{name}` has no `{label}`; there is {labels}"));
            }
        }
        Ok(())
    }
}

fn listed<T: fmt::Display>(names: impl Iterator<Item = T>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Refuses an empty list and one that repeats itself.
fn distinct<T: Ord + fmt::Display>(key: &str, items: impl Iterator<Item = T>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for item in items {
        if seen.contains(&item) {
            return Err(format!("key `{key}`: `{item}` is there twice"));
        }
        seen.insert(item);
    }
    if seen.is_empty() { Err(format!("key `{key}`: at least one is needed")) } else { Ok(()) }
}

/// Refuses a text that cannot stand in a table.
fn readable(text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err(format!("{text:?} is not a line of text"));
    }
    Ok(())
}
