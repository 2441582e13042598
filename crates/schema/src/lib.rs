//! JSON Schemas of events' properties. Needs no server and contains no `unsafe`.
#![forbid(unsafe_code)]

mod compatibility;
mod counted;
mod exact;
mod reference;
mod standard;
mod watch;

use counted::{Counted, Looked};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use std::fmt;

pub use compatibility::breaks;
pub use standard::{STANDARD_KINDS, standard};
pub use watch::watched;

/// The most bytes of a schema's text.
pub const MAX_BYTES: usize = 64 << 10;
/// The deepest nesting of a schema.
pub const MAX_DEPTH: usize = 32;
/// The most steps that compiling a schema may take: it has fewer objects, each compiled now and then a few times.
const COMPILING_STEPS: usize = 50_000;
/// The most steps that judging a value may take, each a look into it: a schema takes a few of each part that it judges.
const JUDGING_STEPS: usize = 10_000_000;
/// The most bytes that errors may take while it is found out which to tell, and what one takes beside its place.
const TELLING_BYTES: usize = 64 << 20;
const ERROR_BYTES: usize = 256;
/// The most bytes that a compiled pattern may take: linear matching needs no more for what properties hold.
const PATTERN_BYTES: usize = 1 << 20;
/// The same of all patterns of a schema.
const PATTERNS_BYTES: usize = 16 << 20;
/// The most bytes of the places of all that is in a schema: the validator keeps them.
const PLACES_BYTES: usize = 16 << 20;

/// Says why a document is no schema that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError(pub String);

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SchemaError {}

/// Judges properties by one schema.
#[derive(Debug)]
pub struct Schema(Validator<Counted>);

impl Schema {
    /// Compiles a schema: draft 2020-12 unless `$schema` names another one. References lead into the schema itself, and
    /// patterns have neither look-around nor back-references, so that matching takes linear time.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        if !schema.is_object() {
            return Err(SchemaError("a schema is a JSON object".into()));
        }
        check_size(schema)?;
        check(schema)?;
        if names_draft_4(schema) && reference::has_base(schema) {
            return Err(SchemaError(
                "an id inside of a schema with references is not taken: they lead into the schema itself"
                    .into(),
            ));
        }
        if let Some(why) = reference::obstacle(schema) {
            return Err(SchemaError(why.into()));
        }
        let is_draft_4 = schema["$schema"].as_str().is_some_and(is_draft_4);
        let pattern_bytes = PATTERN_BYTES.min(PATTERNS_BYTES / reference::patterns(schema).max(1));
        let options = exact::judging(jsonschema::options_for::<Counted>(), is_draft_4)
            .with_pattern_options(
                PatternOptions::regex().size_limit(pattern_bytes).dfa_size_limit(pattern_bytes),
            )
            .should_validate_formats(true);
        match watch::within(COMPILING_STEPS, || options.build(schema)) {
            Some(built) => built.map(Self).map_err(|error| SchemaError(cut(&format!("{error}")))),
            None => Err(SchemaError("compiling the schema takes too many steps".into())),
        }
    }

    /// Says what is wrong with properties, naming the place; `None` where they are valid. What would take more than so many steps is not.
    pub fn problem(&self, properties: &Value) -> Option<String> {
        let properties = Looked(properties);
        // It remembers where it has been, and keeps nothing; the other one, which tells the place, doesn't.
        match watch::within(JUDGING_STEPS, || self.0.is_valid(properties)) {
            Some(true) => return None,
            Some(false) => {}
            None => return Some(format!("to judge them takes more than {JUDGING_STEPS} steps")),
        }
        let most = TELLING_BYTES / (longest_place(properties.0) + ERROR_BYTES);
        let judged = watch::within(most, || self.0.validate(properties).err().map(told));
        judged.unwrap_or_else(|| Some("they are not valid, in more ways than can be told".into()))
    }
}

/// Bytes of the longest place in a value, as an error keeps it.
fn longest_place(value: &Value) -> usize {
    let longest = |places: &mut dyn Iterator<Item = usize>| places.max().unwrap_or(0);
    match value {
        Value::Object(fields) => {
            longest(&mut fields.iter().map(|(name, value)| name.len() + 1 + longest_place(value)))
        }
        Value::Array(values) => 8 + longest(&mut values.iter().map(longest_place)),
        _ => 0,
    }
}

fn told(error: ValidationError) -> String {
    let place = error.instance_path().to_string();
    let message = error.masked_with("the value").to_string();
    cut(&if place.is_empty() { message } else { format!("{place}: {message}") })
}

/// Refuses a schema that is too large to be compared or compiled while others wait.
pub fn check_size(schema: &Value) -> Result<(), SchemaError> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(SchemaError(format!("schema has {bytes} bytes, at most {MAX_BYTES} are allowed")));
    }
    check_depth(schema, 1)?;
    if places_bytes(schema, 0) > PLACES_BYTES {
        return Err(SchemaError("too much of the schema stands beneath too long names".into()));
    }
    Ok(())
}

/// Bytes of the places of all values in one that stands at a place of so many bytes.
fn places_bytes(value: &Value, place: usize) -> usize {
    let inside = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| places_bytes(value, place + name.len() + 1)).sum()
        }
        Value::Array(values) => values.iter().map(|value| places_bytes(value, place + 6)).sum(),
        _ => 0,
    };
    place + inside
}

fn check_depth(value: &Value, depth: usize) -> Result<(), SchemaError> {
    if depth > MAX_DEPTH {
        return Err(SchemaError(format!("schema is nested deeper than {MAX_DEPTH} levels")));
    }
    match value {
        Value::Object(fields) => fields.values().try_for_each(|value| check_depth(value, depth + 1)),
        Value::Array(values) => values.iter().try_for_each(|value| check_depth(value, depth + 1)),
        _ => Ok(()),
    }
}

/// Whether a schema, or one inside of it, says that it is of draft 4.
fn names_draft_4(schema: &Value) -> bool {
    reference::has_text(schema, "$schema", is_draft_4)
}

fn is_draft_4(draft: &str) -> bool {
    draft.contains("draft-04")
}

/// Refuses what would lead out of the schema, or to what isn't one.
fn check(value: &Value) -> Result<(), SchemaError> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            if let ("$ref" | "$dynamicRef" | "$recursiveRef", Some(target)) = (key.as_str(), value.as_str()) {
                if !target.starts_with('#') {
                    return Err(SchemaError(cut(&format!("{key} \"{target}\" leads out of the schema"))));
                }
                if !reference::is_plain(target) {
                    return Err(SchemaError(cut(&format!(
                        "{key} \"{target}\" has a number with a 0 or + before it"
                    ))));
                }
            }
            if key == "$id" {
                return Err(SchemaError("$id is not taken: references lead into the schema itself".into()));
            }
            check(value)
        }),
        Value::Array(values) => values.iter().try_for_each(check),
        _ => Ok(()),
    }
}

/// Cuts a message short: at most 300 characters, without control characters.
pub(crate) fn cut(message: &str) -> String {
    let mut out: String = message.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if message.chars().nth(300).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(value: Value) -> Schema {
        Schema::compile(&value).expect("a schema")
    }

    #[test]
    fn judges_and_names_the_place() {
        let schema = schema(json!({
            "type": "object",
            "properties": {"price": {"type": "number", "minimum": 0}, "sku": {"type": "string", "pattern": "^[A-Z]+$"}},
            "required": ["price"]
        }));
        assert_eq!(schema.problem(&json!({"price": 1, "sku": "ABC", "other": [1]})), None);
        for (properties, wanted) in [
            (json!({}), "price"),
            (json!({"price": -1}), "/price"),
            (json!({"price": 1, "sku": "abc"}), "/sku"),
        ] {
            let problem = schema.problem(&properties).expect("not valid");
            assert!(problem.contains(wanted), "{problem}");
        }
        // What a stranger sent doesn't stand in the message.
        assert!(
            !schema.problem(&json!({"price": 1, "sku": "secret"})).expect("not valid").contains("secret")
        );
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({"not": deep});
        }
        for bad in [
            json!(true),
            json!([]),
            json!({"type": "strin"}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"properties": {"a": {"$ref": "other.json#/a"}}}),
            json!({"$id": "https://example.com/a", "$ref": "#"}),
            json!({"properties": {"a": {"pattern": "(?=a)b"}}}),
            json!({"properties": {"a": {"pattern": "(a){1000}{1000}{1000}"}}}),
            json!({"$schema": "https://example.com/draft"}),
            json!({"enum": ["x".repeat(MAX_BYTES)]}),
            deep,
        ] {
            assert!(Schema::compile(&bad).is_err(), "{}", cut(&bad.to_string()));
        }
    }

    #[test]
    fn a_reference_that_leads_back_for_the_same_value_is_refused() {
        for endless in [
            json!({"$ref": "#"}),
            json!({"properties": {"a": {"allOf": [{"$ref": "#/properties/a"}]}}}),
            json!({"$defs": {"a b": {"anyOf": [{}, {"$ref": "#y"}]}, "y": {"$anchor": "y", "not": {"$ref": "#/$defs/a%20b"}}},
                   "items": {"$ref": "#y"}}),
            json!({"if": {"$dynamicRef": "#x"}, "$dynamicAnchor": "x"}),
            json!({"dependentSchemas": {"a": {"$ref": "#"}}}),
        ] {
            assert!(Schema::compile(&endless).is_err(), "{endless}");
        }
        let tree = schema(
            json!({"properties": {"inner": {"items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "n": {"type": "integer"}}}),
        );
        assert_eq!(tree.problem(&json!({"inner": [{"inner": [{"n": 1}]}]})), None);
        assert!(tree.problem(&json!({"inner": [{"inner": [{"n": "x"}]}]})).is_some());
    }

    #[test]
    fn a_pattern_made_to_take_for_ever_takes_none() {
        let schema = schema(json!({"properties": {"a": {"pattern": "^(a+)+$"}}}));
        let began = std::time::Instant::now();
        assert!(schema.problem(&json!({"a": format!("{}!", "a".repeat(60_000))})).is_some());
        assert!(began.elapsed().as_secs() < 60);
    }
}
