//! Schemas for events that most products have, to register under names of one's own.

use serde_json::{Value, json};

/// Names the standard schemas.
pub const STANDARD_KINDS: [&str; 3] = ["product_view", "feature_usage", "conversion_step"];

/// Returns the standard schema of a kind of event.
pub fn standard(kind: &str) -> Option<Value> {
    let id = || json!({"type": "string", "minLength": 1, "maxLength": 200});
    let properties = match kind {
        "product_view" => json!({
            "properties": {
                "product_id": id(), "category": id(), "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
                "price": {"type": "number", "minimum": 0}, "source": id()
            },
            "required": ["product_id"]
        }),
        "feature_usage" => json!({
            "properties": {
                "feature": id(), "action": id(), "plan": id(), "duration_ms": {"type": "number", "minimum": 0},
                "quantity": {"type": "number", "minimum": 0}, "succeeded": {"type": "boolean"}
            },
            "required": ["feature"]
        }),
        "conversion_step" => json!({
            "properties": {
                "funnel": id(), "step": id(), "position": {"type": "integer", "minimum": 1, "maximum": 100},
                "value": {"type": "number"}, "currency": {"type": "string", "pattern": "^[A-Z]{3}$"}
            },
            "required": ["funnel", "step"]
        }),
        _ => return None,
    };
    let mut schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"});
    for (key, value) in properties.as_object().expect("an object above") {
        schema[key] = value.clone();
    }
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Schema;

    #[test]
    fn each_takes_what_it_is_for() {
        for (kind, good, bad) in [
            (
                "product_view",
                json!({"product_id": "p1", "price": 12.5, "currency": "EUR"}),
                json!({"price": 1}),
            ),
            (
                "feature_usage",
                json!({"feature": "export", "duration_ms": 3, "extra": 1}),
                json!({"feature": ""}),
            ),
            (
                "conversion_step",
                json!({"funnel": "buy", "step": "paid", "position": 3}),
                json!({"funnel": "buy", "step": 3}),
            ),
        ] {
            assert!(STANDARD_KINDS.contains(&kind));
            let schema = Schema::compile(&standard(kind).expect(kind)).expect(kind);
            assert_eq!(schema.problem(&good), None, "{kind}");
            assert!(schema.problem(&bad).is_some(), "{kind}");
        }
        assert_eq!(standard("other"), None);
    }
}
