//! Bounds of settings that the derive of `JsonSchema` has no words for: `#[schemars(transform = above_zero)]`.

use schemars::Schema;

/// A number, or every number of a list, is above 0.
pub fn above_zero(schema: &mut Schema) {
    bound(schema, "exclusiveMinimum", 0.0);
}

/// A number, or every number of a list, is below 1.
pub fn below_one(schema: &mut Schema) {
    bound(schema, "exclusiveMaximum", 1.0);
}

fn bound(schema: &mut Schema, key: &str, value: f64) {
    let items = schema.get_mut("items").and_then(|items| items.as_object_mut());
    let Some(items) = items else {
        schema.insert(key.into(), value.into());
        return;
    };
    items.insert(key.into(), value.into());
}
