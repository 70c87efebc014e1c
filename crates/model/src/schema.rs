//! What a model's table may say, as a JSON schema: by hand, since its reader is.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::{ModelConfig, PRESETS, SwinConfig, VitConfig};

/// One of two tables, told apart by `kind`; with a `preset` none of their keys is required.
impl JsonSchema for ModelConfig {
    fn schema_name() -> Cow<'static, str> {
        "ModelConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [family::<VitConfig>(generator, "vit"), family::<SwinConfig>(generator, "swin")] })
    }
}

fn family<T: JsonSchema>(generator: &mut SchemaGenerator, kind: &str) -> Schema {
    let mut schema = T::json_schema(generator);
    let table = schema.ensure_object();
    let mut own = Map::new();
    own.insert(
        "kind".into(),
        json!({ "type": "string", "const": kind, "description": "The family; if not stated, that of the preset, else `vit`." }),
    );
    let preset = "An architecture by name, whose values every key takes that is not stated.";
    own.insert("preset".into(), json!({ "type": "string", "enum": PRESETS, "description": preset }));
    if let Some(Value::Object(properties)) = table.get_mut("properties") {
        properties.extend(own);
    }
    if let Some(required) = table.remove("required") {
        table.insert("if".into(), json!({ "not": { "required": ["preset"] } }));
        table.insert("then".into(), json!({ "required": required }));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_their_keys_a_kind_and_the_presets() {
        let schema = SchemaGenerator::default().into_root_schema_for::<ModelConfig>();
        let families = schema.get("oneOf").and_then(Value::as_array).unwrap();
        for (family, (kind, own)) in families.iter().zip([("vit", "depth"), ("swin", "depths")]) {
            assert_eq!(family["properties"]["kind"]["const"], kind);
            assert!(family["properties"][own].is_object() && family["required"].is_null());
            assert!(family["then"]["required"].as_array().unwrap().contains(&json!(own)));
            assert_eq!(family["properties"]["preset"]["enum"].as_array().unwrap().len(), PRESETS.len());
        }
    }
}
