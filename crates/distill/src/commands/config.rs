//! `distill config`.

use std::io::Write;

use anyhow::Context as _;
use fd_distill::config::{self, Source};
use fd_distill::keys::{Key, Listing, Table};
use fd_distill::table::TableConfig;
use serde::Serialize;
use serde_json::Value;

use super::columns::beside;
use super::{Outcome, Output};

/// What `distill config` shows.
#[derive(Clone, Debug)]
pub struct ConfigOptions {
    /// The configuration whose values stand beside the keys.
    pub source: Source,
    /// Only what this names.
    pub prefix: Option<String>,
    /// Print JSON.
    pub json: bool,
}

/// Widths of value, type and description; a line of the longest keys has 133 characters.
const WIDTHS: [usize; 3] = [22, 28, 58];
const UNSTATED: &str = "–";
const LEGEND: &str = "A key's value here (in brackets: not stated, so the default; –: not stated), its type and range, what it does. `*` stands for any \
                      element of an array: `--set` takes the element's name or its index there. What differs between elements stands side by side.";
/// What is not in columns.
const WIDTH: usize = 136;

/// Lists the keys and prints them.
pub fn config(options: &ConfigOptions, out: &mut Output) -> anyhow::Result<Outcome> {
    let (config, stated) = config::load::<TableConfig>(&options.source, &[])?;
    let name = options.source.name().display().to_string();
    let listing = Listing::of(&config, &stated, options.prefix.as_deref()).with_context(|| name.clone())?;
    let text = if options.json { json(&name, &listing)? } else { told(&name, &listing) };
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}

fn json(config: &str, listing: &Listing) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        config: &'a str,
        #[serde(flatten)]
        listing: &'a Listing,
    }
    Ok(serde_json::to_string(&Line { config, listing })?)
}

fn told(name: &str, listing: &Listing) -> String {
    let width = listing.keys().map(|key| key.name.chars().count()).max().unwrap_or(0);
    let mut blocks = vec![format!("{name}\n{}", beside(&[LEGEND], &[WIDTH]))];
    blocks.extend(listing.tables.iter().filter(|t| !t.keys.is_empty()).map(|table| block(table, width)));
    // One key alone: what its words mean.
    if let [table] = &listing.tables[..]
        && let [key] = &table.keys[..]
    {
        let words = key.shape.words.iter().filter(|w| !w.description.is_empty());
        let lines: Vec<String> = words.map(|w| beside(&[&said(&w.value), &w.description], &[24, 90])).collect();
        blocks.extend((!lines.is_empty()).then(|| lines.join("\n")));
    }
    blocks.join("\n\n")
}

fn block(table: &Table, width: usize) -> String {
    let mut head = if table.path.is_empty() { String::new() } else { format!("[{}] ", table.path) };
    if !table.when.is_empty() {
        head += &format!("where {}: ", table.when.join(" and "));
    }
    head += &table.description;
    if table.optional {
        head += " (May be left out.)";
    }
    let [value, kind, what] = WIDTHS;
    let line = |key: &Key| {
        let when = key.when.as_ref().map_or(String::new(), |when| format!("{when}: "));
        beside(
            &[&format!("  {}", key.name), &values(key), &takes(key), &format!("{when}{}", key.description)],
            &[width + 2, value, kind, what],
        )
    };
    std::iter::once(beside(&[&head], &[WIDTH])).chain(table.keys.iter().map(line)).collect::<Vec<_>>().join("\n")
}

fn values(key: &Key) -> String {
    match (&key.values[..], &key.default) {
        ([], Some(default)) => format!("({})", said(default)),
        ([], None) => UNSTATED.into(),
        (values, _) => values.iter().map(said).collect::<Vec<_>>().join(" | "),
    }
}

/// Its type and range, and what holds if it is not stated.
fn takes(key: &Key) -> String {
    let shape = key.shape.to_string();
    match &key.default {
        Some(default) if !key.values.is_empty() => format!("{shape}; default {}", said(default)),
        None if !key.required => format!("{shape}; optional"),
        _ => shape,
    }
}

/// A value as TOML has it, but for the quotes of text alone.
fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(said).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
