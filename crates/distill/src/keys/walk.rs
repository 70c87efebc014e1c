//! Through a schema, along a configuration's values.

use serde_json::{Map, Value};

use super::shape::{Shape, Word, description, given};
use super::{Key, Listing, Table};
use crate::Error;
use crate::config::{no_key, split_path};

/// So many keys of one kind of a table stand in a table of their own.
const MANY: usize = 5;
/// Any element of an array.
const ANY: &str = "*";

pub(super) struct Walk<'a> {
    prefix: &'a [String],
    tables: Vec<Table>,
    /// What the prefix calls an element that is not there.
    wrong: Option<String>,
}

/// A place in the configuration.
#[derive(Clone)]
struct At<'a> {
    path: Vec<String>,
    when: Vec<String>,
    /// The tables that stand there.
    values: Vec<&'a Value>,
}

impl At<'_> {
    fn path(&self) -> String {
        join(&self.path)
    }
}

/// A path as `--set` takes it: a part that holds a dot in quotes.
fn join(path: &[String]) -> String {
    let part = |p: &String| if p.contains('.') { format!("\"{p}\"") } else { p.clone() };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A table below the one at hand: its schema, its description, may it be left out, its place.
type Below<'a> = (&'a Value, String, bool, At<'a>);

impl<'a> Walk<'a> {
    pub(super) fn over(schema: &'a Value, values: &'a Value, prefix: &'a [String]) -> Result<Listing, Error> {
        let mut walk = Walk { prefix, tables: vec![], wrong: None };
        walk.table((schema, description(schema), false, At { path: vec![], when: vec![], values: vec![values] }));
        walk.below_prefix()
    }

    /// Only what the prefix names.
    fn below_prefix(self) -> Result<Listing, Error> {
        let Walk { prefix, tables, wrong } = self;
        if let Some(why) = wrong {
            return Err(Error::Usage(why));
        }
        let parts = |key: &Key| split_path(&key.path).unwrap_or_default();
        let paths: Vec<Vec<String>> = tables.iter().flat_map(|t| &t.keys).map(parts).collect();
        for (i, part) in prefix.iter().enumerate() {
            let mut names: Vec<String> = paths.iter().filter(|p| p.starts_with(&prefix[..i])).filter_map(|p| p.get(i).cloned()).collect();
            names.dedup();
            if !names.contains(part) {
                return Err(Error::Usage(no_key(&join(&prefix[..=i]), &join(&prefix[..i]), part, &names)));
            }
        }
        let kept = |mut table: Table| {
            table.keys.retain(|key| parts(key).starts_with(prefix));
            Some(table).filter(|t| !t.keys.is_empty())
        };
        Ok(Listing { tables: tables.into_iter().filter_map(kept).collect() })
    }

    fn table(&mut self, (schema, description, optional, at): Below<'a>) {
        let schema = given(schema);
        let table = Table { path: at.path(), when: at.when.clone(), optional, description, keys: vec![] };
        self.tables.push(table);
        let (here, mut below) = (self.tables.len() - 1, vec![]);
        let fields = schema["properties"].as_object();
        self.fields(schema, fields.into_iter().flatten(), None, here, &at, &mut below);
        if let Some(variants) = schema["oneOf"].as_array() {
            self.variants(variants, here, &at, &mut below);
        }
        below.into_iter().for_each(|table| self.table(table));
    }

    /// Keys and tables among `fields` of a table, in the order of the type where it is known: that of the keys that are required.
    fn fields(
        &mut self,
        schema: &'a Value,
        fields: impl Iterator<Item = (&'a String, &'a Value)>,
        when: Option<&str>,
        table: usize,
        at: &At<'a>,
        below: &mut Vec<Below<'a>>,
    ) {
        let required = required(schema);
        let place = |name: &str| required.iter().position(|r| *r == name).unwrap_or(required.len());
        let mut fields: Vec<(&String, &Value)> = fields.collect();
        fields.sort_by_key(|(name, _)| place(name));
        for (name, field) in fields {
            let optional = !required.contains(&name.as_str());
            let path = [at.path.clone(), vec![name.clone()]].concat();
            let values: Vec<&Value> = at.values.iter().filter_map(|v| v.get(name)).filter(|v| !v.is_null()).collect();
            let told = description(field);
            let at = At { path, when: at.when.clone(), values };
            if is_table(given(field)) {
                below.push((field, told, optional, at));
            } else if is_table(given(&given(field)["items"])) {
                let at = self.elements(at);
                below.push((&given(field)["items"], told, optional, at));
            } else {
                let default = Some(&field["default"]).filter(|d| !d.is_null()).cloned();
                let when = when.map(String::from);
                self.key(table, at, Shape::of(field), (!optional, default, when, told));
            }
        }
    }

    fn key(&mut self, table: usize, at: At<'a>, shape: Shape, told: (bool, Option<Value>, Option<String>, String)) {
        let mut values: Vec<Value> = vec![];
        for value in at.values.iter().copied() {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        let (required, default, when, description) = told;
        let name = at.path.last().cloned().unwrap_or_default();
        self.tables[table].keys.push(Key { path: at.path(), name, shape, values, required, default, when, description });
    }

    /// The elements of an array of tables: all, or the one that the prefix names.
    fn elements(&mut self, at: At<'a>) -> At<'a> {
        let all: Vec<&Value> = at.values.iter().filter_map(|v| v.as_array()).flatten().collect();
        let asked = self.prefix.get(at.path.len()).filter(|part| self.prefix.starts_with(&at.path) && *part != ANY);
        let names: Vec<String> = all.iter().enumerate().map(|(i, v)| v["name"].as_str().map_or(i.to_string(), String::from)).collect();
        let (part, values) = match asked {
            None => (ANY, all),
            Some(name) => match names.iter().position(|n| n == name).or(name.parse().ok().filter(|i| *i < all.len())) {
                Some(i) => (name.as_str(), vec![all[i]]),
                None => {
                    let known = [names, vec![ANY.into()]].concat();
                    let path = join(&[at.path.clone(), vec![name.clone()]].concat());
                    self.wrong.get_or_insert(no_key(&path, &at.path(), name, &known));
                    (ANY, all)
                }
            },
        };
        At { path: [at.path, vec![part.into()]].concat(), values, ..at }
    }

    /// A table of several kinds, told apart by a key: that key, what all have in common, then each kind's own.
    fn variants(&mut self, variants: &'a [Value], table: usize, at: &At<'a>, below: &mut Vec<Below<'a>>) {
        let tables: Vec<&Map<String, Value>> = variants.iter().filter_map(|v| v["properties"].as_object()).collect();
        let Some(first) = tables.first() else { return };
        let tag = first.iter().find(|(name, field)| !field["const"].is_null() && tables.iter().all(|t| t.contains_key(*name)));
        let Some((tag, told)) = tag else { return };
        let words = variants.iter().map(|v| Word { value: v["properties"][tag]["const"].clone(), description: description(v) });
        let values: Vec<&Value> = at.values.iter().filter_map(|v| v.get(tag)).collect();
        let place = At { path: [at.path.clone(), vec![tag.clone()]].concat(), when: vec![], values };
        let required = required(&variants[0]).contains(&tag.as_str());
        let what = Some(description(told)).filter(|d| !d.is_empty()).unwrap_or("Which of these; the keys beside it depend on it.".into());
        self.key(table, place, Shape::of_words(words.collect()), (required, None, None, what));
        let common = |name: &String, field: &Value| tables.iter().all(|t| t.get(name) == Some(field));
        let shared = first.iter().filter(|(name, field)| *name != tag && common(name, field));
        self.fields(&variants[0], shared, None, table, at, below);
        for (i, (variant, fields)) in variants.iter().zip(&tables).enumerate() {
            let word = &fields[tag]["const"];
            // A model's table without a kind is of the first.
            let is_it = |v: &&&Value| v.get(tag).map_or(i == 0, |kind| kind == word);
            let values = at.values.iter().filter(is_it).copied().collect();
            let own: Vec<(&String, &Value)> = fields.iter().filter(|(name, field)| *name != tag && !common(name, field)).collect();
            let condition = format!("{tag} = {word}");
            let absolute = join(&[at.path.clone(), vec![condition.clone()]].concat());
            let at = At { when: [at.when.clone(), vec![absolute]].concat(), values, path: at.path.clone() };
            let plain = own.iter().filter(|(_, field)| !is_table(given(field))).count();
            if plain < MANY {
                self.fields(variant, own.into_iter(), Some(&condition), table, &at, below);
            } else {
                let told =
                    Table { path: at.path(), when: at.when.clone(), optional: false, description: description(variant), keys: vec![] };
                self.tables.push(told);
                self.fields(variant, own.into_iter(), None, self.tables.len() - 1, &at, below);
            }
        }
    }
}

/// The keys that a table has to have, with a model's if it names no preset.
fn required(schema: &Value) -> Vec<&str> {
    let lists = [&schema["required"], &schema["then"]["required"]];
    lists.into_iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect()
}

fn is_table(schema: &Value) -> bool {
    let kinds = schema["oneOf"].as_array();
    schema["properties"].is_object() || kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["properties"].is_object()))
}
