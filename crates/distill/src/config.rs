//! Configuration: one TOML file, overridden key by key with `--set a.b.c=value`, and refused in one line that names file, line and key.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::Error;

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A text compiled into the binary.
    Embedded {
        /// What errors call it: its path in the repository.
        name: &'static str,
        /// The text.
        text: &'static str,
    },
}

impl Source {
    /// What errors call it.
    pub fn name(&self) -> &Path {
        match self {
            Source::File(path) => path,
            Source::Embedded { name, .. } => Path::new(name),
        }
    }

    fn text(&self) -> Result<String, Error> {
        match self {
            Source::File(path) => std::fs::read_to_string(path).map_err(|e| Error::File { path: path.clone(), why: e.to_string() }),
            Source::Embedded { text, .. } => Ok((*text).to_string()),
        }
    }
}

/// A value in place of a configuration's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Who says so, as errors begin: `--set`, or a file and its key.
    pub by: String,
    /// `key.path=value`.
    pub set: String,
}

impl Override {
    /// An override of the command line.
    pub fn by_command_line(set: &str) -> Override {
        Override { by: "--set".into(), set: set.into() }
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.by, self.set)
    }
}

/// Reads a configuration with the command line's overrides: [`load_overridden`].
///
/// # Errors
/// As [`load_overridden`].
pub fn load<T: DeserializeOwned>(source: &Source, sets: &[String]) -> Result<(T, Table), Error> {
    let overrides: Vec<Override> = sets.iter().map(|set| Override::by_command_line(set)).collect();
    load_overridden(source, &overrides)
}

/// Reads a configuration, applies the overrides in order, and returns it with the resolved table that belongs into the run directory.
///
/// `T` should refuse unknown fields. An override is `path=value`: the path's parts are joined by dots (a part that holds a dot stands
/// in double quotes), an element of an array is named by its index or, in an array of tables, by its `name`; the value is TOML, or
/// else taken as a string. An override must hit a key that is there, or an optional one of a table that is there.
///
/// # Errors
/// One line each: an unreadable file, TOML that does not parse, an override that hits nothing, a value that does not fit `T`.
pub fn load_overridden<T: DeserializeOwned>(source: &Source, overrides: &[Override]) -> Result<(T, Table), Error> {
    let text = source.text()?;
    let refuse = |why: String| Error::Config { file: source.name().to_path_buf(), why: one_line(&why) };
    let original: Table = toml::from_str(&text).map_err(|e| refuse(format!("{}{}", line_of(&text, &e), e.message())))?;
    let mut table = original.clone();
    for o in overrides {
        apply(&mut table, &o.set).map_err(|why| refuse(format!("{o}: {why}")))?;
    }
    match T::deserialize(table.clone()) {
        Ok(config) => Ok((config, table)),
        Err(e) => Err(refuse(complaint::<T>(&text, original, overrides, &e))),
    }
}

/// What is wrong, preceded by the line of the file, or the override, that made `T` impossible.
fn complaint<T: DeserializeOwned>(text: &str, mut table: Table, overrides: &[Override], error: &toml::de::Error) -> String {
    let why = with_key(error);
    if let Err(e) = toml::from_str::<T>(text) {
        return format!("{}{why}", line_of(text, &e));
    }
    for o in overrides {
        let Ok(new) = apply(&mut table, &o.set) else { continue };
        match (T::deserialize(table.clone()), new) {
            (Ok(_), _) => {}
            (Err(_), Some(no_key)) if why.contains("unknown") => return format!("{o}: {no_key}"),
            (Err(_), _) => return format!("{o}: {why}"),
        }
    }
    why
}

pub(crate) fn line_of(text: &str, e: &toml::de::Error) -> String {
    let before = e.span().and_then(|span| text.get(..span.start));
    before.map_or(String::new(), |before| format!("line {}: ", before.matches('\n').count() + 1))
}

/// The message, preceded by the key path that toml puts on a line of its own.
fn with_key(e: &toml::de::Error) -> String {
    let shown = e.to_string();
    let key = shown.lines().find_map(|l| l.strip_prefix("in `")?.strip_suffix('`'));
    let Some(key) = key else { return e.message().to_string() };
    // A model's table says itself which of its keys it is.
    match e.message().strip_prefix("key `").and_then(|m| m.split_once("`: ")) {
        Some((inner, why)) => format!("key `{key}.{inner}`: {why}"),
        None => format!("key `{key}`: {}", e.message()),
    }
}

pub(crate) fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).map(str::trim).filter(|s| !s.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Applies one override `path=value`; the error says what is wrong with it. Of a key that was not there: what to say if there is no such
/// key at all.
fn apply(table: &mut Table, set: &str) -> Result<Option<String>, String> {
    let (path, text) = split_at_equals(set).ok_or("expected `key.path=value`")?;
    let parts = split_path(path)?;
    let (last, above) = parts.split_last().ok_or("expected `key.path=value`")?;
    let mut whole = Value::Table(std::mem::take(table));
    let done = reach(&mut whole, above).and_then(|at| {
        if let Some(value) = child(at, last) {
            *value = value_like(value, text);
            return Ok(None);
        }
        let missing = no_key(&parts.join("."), &above.join("."), last, &names_in(at));
        let Value::Table(at) = at else { return Err(missing) };
        at.insert(last.clone(), text.parse().unwrap_or_else(|_| Value::String(text.into())));
        // A model leaves keys to its preset: which there are, its own message says.
        Ok(Some(missing).filter(|_| !at.contains_key("preset")))
    });
    if let Value::Table(whole) = whole {
        *table = whole;
    }
    done
}

/// The value at a path.
fn reach<'a>(mut at: &'a mut Value, path: &[String]) -> Result<&'a mut Value, String> {
    for (i, key) in path.iter().enumerate() {
        let names = names_in(at);
        at = child(at, key).ok_or_else(|| no_key(&path[..=i].join("."), &path[..i].join("."), key, &names))?;
    }
    Ok(at)
}

/// Splits at the first `=` outside double quotes.
fn split_at_equals(set: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = set.char_indices().find(|&(_, c)| {
        quoted ^= c == '"';
        c == '=' && !quoted
    })?;
    Some((set[..at.0].trim(), set[at.0 + 1..].trim()))
}

/// Splits at dots outside double quotes, and drops the quotes.
pub(crate) fn split_path(path: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    for c in path.chars() {
        match (c, parts.last_mut()) {
            ('"', _) => quoted = !quoted,
            ('.', _) if !quoted => parts.push(String::new()),
            (_, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    if quoted {
        return Err("a double quote is not closed".into());
    }
    if parts.iter().any(String::is_empty) {
        return Err("expected `key.path=value`, found an empty part in the path".into());
    }
    Ok(parts)
}

/// An element by key, index or `name`.
fn child<'a>(at: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match at {
        Value::Table(table) => table.get_mut(key),
        Value::Array(items) => {
            let named = items.iter().position(|item| name_of(item) == Some(key));
            items.get_mut(named.or_else(|| key.parse().ok())?)
        }
        _ => None,
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.as_table()?.get("name")?.as_str()
}

/// What can follow the path so far.
fn names_in(at: &Value) -> Vec<String> {
    match at {
        Value::Table(table) => table.keys().cloned().collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| name_of(item).map_or(i.to_string(), String::from)).collect(),
        _ => vec![],
    }
}

pub(crate) fn no_key(path: &str, parent: &str, key: &str, names: &[String]) -> String {
    if names.is_empty() {
        return format!("no key `{path}`: `{parent}` has no keys below it");
    }
    let mut near: Vec<&String> = names.iter().collect();
    near.sort_by_key(|name| distance(key, name));
    let dot = if parent.is_empty() { "" } else { "." };
    let near: Vec<String> = near.iter().take(3).map(|name| format!("`{parent}{dot}{name}`")).collect();
    format!("no key `{path}`; nearest: {}", near.join(", "))
}

/// Levenshtein's edit distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Parses a value; what is a string, or a float, now stays one.
fn value_like(now: &Value, text: &str) -> Value {
    let string = || Value::String(text.to_string());
    match (now, text.parse::<Value>()) {
        (_, Err(_)) => string(),
        (Value::String(_), Ok(value)) if !value.is_str() => string(),
        (Value::Float(_), Ok(Value::Integer(x))) => Value::Float(x as f64),
        (_, Ok(value)) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        title: String,
        train: Train,
        rows: Vec<Item>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Train {
        epochs: usize,
        lr: f64,
        sizes: Vec<usize>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        name: String,
        weight: f64,
    }

    const TEXT: &str = "title = \"t\"\n[train]\nepochs = 3\nlr = 0.5\nsizes = [1, 2]\n\n[[rows]]\nname = \"a.b\"\nweight = 1.0\n\n\
                        [[rows]]\nname = \"plain\"\nweight = 2.0\n";

    fn with(text: &'static str, sets: &[&str]) -> Result<(Config, Table), String> {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        let loaded = load::<Config>(&Source::Embedded { name: "x.toml", text }, &sets).map_err(|e| e.to_string());
        assert!(loaded.as_ref().err().is_none_or(|e| !e.contains('\n') && e.starts_with("x.toml: ")), "{loaded:?}");
        loaded
    }

    #[test]
    fn overrides_reach_every_kind_of_key() {
        let sets = [
            "train.epochs=7",
            "train.lr=1",
            "train.sizes.1=9",
            "rows.plain.weight = 4",
            "rows.\"a.b\".weight=5.5",
            "rows.0.name=c",
            "title=12",
        ];
        let (config, table) = with(TEXT, &sets).unwrap();
        assert_eq!(config.train, Train { epochs: 7, lr: 1.0, sizes: vec![1, 9] });
        assert_eq!(config.title, "12");
        assert_eq!(config.rows[0], Item { name: "c".into(), weight: 5.5 });
        assert_eq!(config.rows[1].weight, 4.0);
        assert_eq!(table["train"]["lr"].as_float(), Some(1.0));
        assert_eq!(with(&toml::to_string(&table).unwrap().leak()[..], &[]).unwrap().0, config);
    }

    #[test]
    fn an_override_that_hits_nothing_names_the_nearest_keys() {
        let message = |set: &str| with(TEXT, &[set]).unwrap_err();
        let first = message("train.epoch=7");
        assert_eq!(first, "x.toml: --set train.epoch=7: no key `train.epoch`; nearest: `train.epochs`, `train.lr`, `train.sizes`");
        assert_eq!(message("tran.lr=1"), "x.toml: --set tran.lr=1: no key `tran`; nearest: `train`, `rows`, `title`");
        assert!(message("rows.plan.weight=1").ends_with("no key `rows.plan`; nearest: `rows.plain`, `rows.a.b`"));
        assert!(message("rows.7.weight=1").contains("no key `rows.7`"));
        assert!(message("train.lr.x=1").ends_with("no key `train.lr.x`: `train.lr` has no keys below it"));
        for (set, why) in [("train.lr", "expected `key.path=value`"), ("=1", "an empty part"), ("a..b=1", "an empty part")] {
            assert!(message(set).contains(why), "{set}");
        }
        assert!(message("\"a=1").contains("expected"), "an open quote");
    }

    #[test]
    fn an_override_may_state_an_optional_key() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Optional {
            rows: Vec<Item>,
            note: Option<f64>,
        }
        let load = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
            let source = Source::Embedded { name: "x.toml", text: "rows = [{ name = \"a\", weight = 1.0 }]" };
            load::<Optional>(&source, &sets).map_err(|e| e.to_string())
        };
        let (config, table) = load(&["note=2"]).unwrap();
        assert_eq!((config.note, table["note"].as_integer()), (Some(2.0), Some(2)));
        assert_eq!(load(&["not=2"]).unwrap_err(), "x.toml: --set not=2: no key `not`; nearest: `rows`");
        assert_eq!(
            load(&["note=2", "rows.a.wait=2"]).unwrap_err(),
            "x.toml: --set rows.a.wait=2: no key `rows.a.wait`; nearest: `rows.a.name`, `rows.a.weight`"
        );
        assert!(load(&["note=many"]).unwrap_err().starts_with("x.toml: --set note=many: key `note`: invalid type: string"));
    }

    #[test]
    fn errors_name_line_key_and_expectation() {
        let error = |text| with(text, &[]).unwrap_err();
        assert_eq!(error("title = \"t\"\n[train\nx = 1"), "x.toml: line 2: unclosed table, expected `]`");
        let wrong: &'static str = TEXT.replace("epochs = 3", "epochs = \"three\"").leak();
        assert_eq!(error(wrong), "x.toml: line 3: key `train.epochs`: invalid type: string \"three\", expected usize");
        let unknown: &'static str = TEXT.replace("lr = 0.5", "lr = 0.5\nlearning_rate = 1").leak();
        let message = error(unknown);
        assert!(message.starts_with("x.toml: line 5: key `train"), "{message}");
        assert!(message.contains("unknown field `learning_rate`, expected one of `epochs`, `lr`, `sizes`"), "{message}");
        let missing: &'static str = TEXT.replace("lr = 0.5\n", "").leak();
        assert_eq!(error(missing), "x.toml: line 2: key `train`: missing field `lr`");
        let set = with(TEXT, &["train.lr=2", "train.epochs=many"]).unwrap_err();
        assert_eq!(set, "x.toml: --set train.epochs=many: key `train.epochs`: invalid type: string \"many\", expected usize");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let e = load::<Config>(&Source::File("/nonexistent/x.toml".into()), &[]).unwrap_err();
        assert!(e.to_string().starts_with("/nonexistent/x.toml: No such file"), "{e}");
    }
}
