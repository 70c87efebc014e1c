//! Every key of a configuration: its type, range, default and meaning, and what a configuration says there.
//!
//! All of it comes from the configuration's own types: schemars turns their fields, doc comments and bounds into a JSON schema, and the
//! schema is walked along a configuration's values. `tests/keys.rs` holds the bounds to what `check` refuses.

mod shape;
mod walk;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

pub use shape::{Kind, Range, Shape, Word};

use crate::Error;
use crate::config::split_path;
use walk::Walk;

/// The keys of a configuration, table by table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listing {
    /// The tables, each before those in it.
    pub tables: Vec<Table>,
}

/// A table of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Its path, as `--set` takes it; `*` stands for any element of an array. Empty: the outermost.
    pub path: String,
    /// Other keys' values that it belongs to, such as `student.kind = "swin"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<String>,
    /// May it be left out?
    pub optional: bool,
    /// What it is.
    pub description: String,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// A key of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// Its path, as `--set` takes it; `*` stands for any element of an array.
    pub path: String,
    /// Its last part.
    pub name: String,
    /// What it takes.
    #[serde(flatten)]
    pub shape: Shape,
    /// The different values that the configuration has there, those of a model's preset among them.
    pub values: Vec<Value>,
    /// May it not be left out?
    pub required: bool,
    /// What it is if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// A value beside it that it belongs to, such as `kind = "mlp"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What it does.
    pub description: String,
}

impl Listing {
    /// The keys of a configuration and what it says, `stated` as it was written; of all, or of what `prefix` names (an element of an
    /// array by its name or index, or `*`).
    ///
    /// # Errors
    /// A prefix that names nothing; the message lists what is near.
    pub fn of<T: JsonSchema + Serialize>(config: &T, stated: &toml::Table, prefix: Option<&str>) -> Result<Listing, Error> {
        let prefix = prefix.map(split_path).transpose().map_err(Error::Usage)?.unwrap_or_default();
        let values = serde_json::to_value(config).and_then(|mut values| {
            overlay(&mut values, serde_json::to_value(stated)?);
            Ok(values)
        });
        let values = values.map_err(|e| Error::Usage(format!("the configuration has no form in JSON: {e}")))?;
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<T>();
        Walk::over(schema.as_value(), &values, &prefix)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.tables.iter().flat_map(|table| &table.keys)
    }
}

/// What was written goes before what was made of it: a number that went through f32 would not look the same.
fn overlay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            over.into_iter().for_each(|(key, value)| overlay(under.entry(key).or_insert(Value::Null), value));
        }
        (Value::Array(under), Value::Array(over)) if under.len() == over.len() => {
            under.iter_mut().zip(over).for_each(|(under, over)| overlay(under, over));
        }
        (under, over) => *under = over,
    }
}
