//! From a schema to what a key takes, in words.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shape {
    /// What a value is; of a list, each of its values.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Is it a list?
    pub list: bool,
    /// Values of a list that cannot be longer or shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Bounds of numbers.
    #[serde(flatten)]
    pub range: Range,
    /// All there are, if they are few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Text.
    String,
    /// True or false.
    Boolean,
}

/// Bounds of a number, under the names that JSON schemas have for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// Not less than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// More than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive_minimum: Option<f64>,
    /// Not more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// Less than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive_maximum: Option<f64>,
}

/// One of few values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Word {
    /// The value.
    pub value: Value,
    /// What it means.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Shape {
    /// One of these words.
    pub(super) fn of_words(words: Vec<Word>) -> Shape {
        Shape { kind: Kind::String, list: false, length: None, range: Range::default(), words }
    }

    /// What a schema takes that is no table.
    pub(super) fn of(schema: &Value) -> Shape {
        let schema = given(schema);
        let fixed = schema["prefixItems"].as_array().map(|items| items.len() as u64);
        let length = fixed.or(schema["minItems"].as_u64().filter(|n| schema["maxItems"].as_u64() == Some(*n)));
        let list = is(schema, "array");
        let each = match (list, fixed) {
            (true, Some(_)) => given(&schema["prefixItems"][0]),
            (true, None) => given(&schema["items"]),
            _ => schema,
        };
        let kinds = [("integer", Kind::Integer), ("number", Kind::Number), ("boolean", Kind::Boolean)];
        let kind = kinds.iter().find(|(name, _)| is(each, name)).map_or(Kind::String, |(_, kind)| *kind);
        let bound = |key: &str| each[key].as_f64();
        let range = Range {
            minimum: bound("minimum"),
            exclusive_minimum: bound("exclusiveMinimum"),
            maximum: bound("maximum"),
            exclusive_maximum: bound("exclusiveMaximum"),
        };
        let words = words(each);
        // Bounds that only the type sets say nothing beside the words.
        let range = if words.is_empty() { range } else { Range::default() };
        Shape { kind, list, length, range, words }
    }
}

/// A schema without the `null` that an optional value adds to it.
pub(super) fn given(schema: &Value) -> &Value {
    let some = |schemas: &&Vec<Value>| schemas.len() == 2 && schemas.iter().any(|s| s["type"] == "null");
    let schemas = schema["anyOf"].as_array().filter(some);
    schemas.and_then(|schemas| schemas.iter().find(|s| s["type"] != "null")).unwrap_or(schema)
}

fn is(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::Array(names) => names.iter().any(|n| n == name),
        other => other == name,
    }
}

fn words(schema: &Value) -> Vec<Word> {
    let listed = schema["enum"].as_array().into_iter().flatten().filter(|value| !value.is_null());
    let listed = listed.map(|value| Word { value: value.clone(), description: String::new() });
    let told = schema["oneOf"].as_array().into_iter().flatten().filter(|one| !one["const"].is_null());
    listed.chain(told.map(|one| Word { value: one["const"].clone(), description: description(one) })).collect()
}

/// The first paragraph of a schema's description, in one line; what links to other documentation is named only.
pub(super) fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    first.join(" ").replace("[`", "`").replace("`]", "`")
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.minimum.map(|x| ("≥", "[", x)).or(self.exclusive_minimum.map(|x| (">", "(", x)));
        let most = self.maximum.map(|x| ("≤", "]", x)).or(self.exclusive_maximum.map(|x| ("<", ")", x)));
        match (least, most) {
            (Some((_, open, least)), Some((_, close, most))) => write!(f, "in {open}{least}, {most}{close}"),
            (Some((sign, _, x)), None) | (None, Some((sign, _, x))) => write!(f, "{sign} {x}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Boolean => "true or false",
        };
        match (self.list, self.length) {
            (true, Some(n)) => write!(f, "{n} {name}s")?,
            (true, None) => write!(f, "list of {name}s")?,
            (false, _) if self.words.is_empty() => f.write_str(name)?,
            (false, _) => {
                let words: Vec<String> = self.words.iter().map(|w| w.value.as_str().map_or(w.value.to_string(), String::from)).collect();
                f.write_str(&words.join(" | "))?;
            }
        }
        let range = self.range.to_string();
        if range.is_empty() { Ok(()) } else { write!(f, " {range}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_in_words() {
        let told = [
            (json!({ "type": "integer", "minimum": 0, "format": "uint" }), "integer ≥ 0"),
            (json!({ "type": ["integer", "null"], "minimum": 1, "maximum": 1000000 }), "integer in [1, 1000000]"),
            (json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0 }), "number in (0, 1]"),
            (json!({ "type": "number", "exclusiveMaximum": 0.5 }), "number < 0.5"),
            (json!({ "type": "boolean" }), "true or false"),
            (json!({ "type": "array", "items": { "type": "string" } }), "list of strings"),
            (json!({ "type": "array", "items": { "type": "number", "minimum": 0 }, "minItems": 2, "maxItems": 2 }), "2 numbers ≥ 0"),
            (json!({ "type": "array", "prefixItems": [{ "type": "integer" }, { "type": "integer" }] }), "2 integers"),
            (json!({ "anyOf": [{ "oneOf": [{ "const": "a" }, { "const": "b" }] }, { "type": "null" }] }), "a | b"),
            (json!({ "type": "integer", "enum": [1, 3], "minimum": 0 }), "1 | 3"),
        ];
        told.iter().for_each(|(schema, text)| assert_eq!(Shape::of(schema).to_string(), *text));
    }

    #[test]
    fn a_description_is_its_first_paragraph() {
        let schema = json!({ "description": "See [`Other`],\nand more.\n\nDetails." });
        assert_eq!(description(&schema), "See `Other`, and more.");
    }
}
