//! Mappings: where in a vendor's event tenant, account and the other fields are, where that is not what the vendor's own
//! documentation says.

use serde_json::Value;
use std::collections::BTreeMap;

/// The most bytes of a mapping's text.
const BYTES: usize = 64 << 10;
/// The most places that a field is looked for in.
const PLACES: usize = 16;
/// The most properties that a mapping adds.
const PROPERTIES: usize = 100;
/// The keys of a mapping that name places of a field.
const FIELDS: [&str; 7] = ["tenant", "account", "user", "session", "name", "time", "event_id"];

/// Where a field is looked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// A path into the event: RFC 6901, as `/context/traits/email`.
    Path(String),
    /// Nowhere: the field is this text.
    Text(String),
}

/// The steps of a path.
pub(super) fn steps(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// What a mapping says; nothing where it leaves a thing to the format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapping {
    fields: BTreeMap<&'static str, Vec<Place>>,
    /// The offset of times that have none.
    pub(super) zone: Option<String>,
    /// Names of events that are called otherwise here.
    pub(super) names: BTreeMap<String, String>,
    /// Properties beside those that the format has anyway.
    pub(super) properties: BTreeMap<String, String>,
    /// Properties that are left out.
    pub(super) omit: Vec<String>,
}

impl Mapping {
    /// Reads a mapping; else says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES {
            return Err(format!("the mapping has {} bytes, at most {BYTES} are allowed", text.len()));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("the mapping is not JSON: {error}"))?;
        let Value::Object(given) = value else { return Err("the mapping is not a JSON object".into()) };
        let mut mapping = Mapping::default();
        for (key, value) in given {
            if let Some(field) = FIELDS.into_iter().find(|field| *field == key) {
                mapping.fields.insert(field, places(&key, &value)?);
                continue;
            }
            match key.as_str() {
                "zone" => mapping.zone = Some(zone(&value)?),
                "names" => mapping.names = texts(&key, &value)?,
                "properties" => {
                    mapping.properties = texts(&key, &value)?;
                    if mapping.properties.len() > PROPERTIES {
                        return Err(format!("properties has more than {PROPERTIES} paths"));
                    }
                    for path in mapping.properties.values() {
                        check_path("properties", path)?;
                    }
                }
                "omit" => {
                    let names = value
                        .as_array()
                        .and_then(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
                    let names = names.ok_or("omit is not an array of names")?;
                    mapping.omit = names.into_iter().map(str::to_owned).collect();
                }
                _ => return Err(format!("unknown key \"{}\"", key.escape_default())),
            }
        }
        Ok(mapping)
    }

    /// The paths that the mapping reads, each with the key of the mapping that it stands at and, of a property, its name.
    pub(super) fn reads(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        let fields = self.fields.iter().flat_map(|(field, places)| {
            places.iter().filter_map(|place| match place {
                Place::Path(path) => Some((path.as_str(), *field, None)),
                Place::Text(_) => None,
            })
        });
        let properties = self.properties.iter();
        fields.chain(properties.map(|(name, path)| (path.as_str(), "properties", Some(name.as_str()))))
    }

    /// Where a field is looked for, if the mapping says so.
    pub(super) fn places(&self, field: &str) -> Option<&[Place]> {
        self.fields.get(field).map(Vec::as_slice)
    }
}

fn check_path(field: &str, path: &str) -> Result<(), String> {
    let escapes = path.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if path.starts_with('/') && escapes && path.len() <= 500 {
        return Ok(());
    }
    Err(format!(
        "{field}: \"{}\" is not a path of at most 500 bytes such as /context/groupId, in which a tilde is written ~0 and a slash ~1",
        path.escape_default()
    ))
}

fn places(field: &str, value: &Value) -> Result<Vec<Place>, String> {
    let one = |value: &Value| match value {
        Value::String(path) => check_path(field, path).map(|()| Place::Path(path.clone())),
        Value::Object(object) => match (object.len(), object.get("value")) {
            (1, Some(Value::String(text))) => Ok(Place::Text(text.clone())),
            _ => Err(format!("{field} is an object other than {{\"value\": text}}")),
        },
        _ => Err(format!("{field} is neither a path nor an object {{\"value\": text}}")),
    };
    match value {
        Value::Array(places) if places.is_empty() || places.len() > PLACES => {
            Err(format!("{field} has {} places, 1 to {PLACES} are allowed", places.len()))
        }
        Value::Array(places) => places.iter().map(one).collect(),
        other => one(other).map(|place| vec![place]),
    }
}

fn zone(value: &Value) -> Result<String, String> {
    let text = value.as_str().unwrap_or_default();
    // A fraction of a second would be read as one of the time that it stands behind.
    let known = !text.starts_with('.')
        && crate::event::parse_timestamp(&format!("2000-01-01T00:00:00{text}")).is_ok();
    if known { Ok(text.to_owned()) } else { Err("zone is not an offset from UTC such as +02:00".into()) }
}

fn texts(key: &str, value: &Value) -> Result<BTreeMap<String, String>, String> {
    let texts = value.as_object().and_then(|object| {
        object
            .iter()
            .map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
            .collect::<Option<_>>()
    });
    texts.ok_or_else(|| format!("{key} is not an object of texts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("[]", "not a JSON object"),
            ("{", "not JSON"),
            (r#"{"tennant": "/a"}"#, "unknown key \"tennant\""),
            (r#"{"tenant": "a"}"#, "tenant: \"a\" is not a path"),
            (r#"{"account": 7}"#, "account is neither a path"),
            (r#"{"account": []}"#, "account has 0 places"),
            (r#"{"account": {"value": 7}}"#, "account is an object other"),
            (r#"{"account": "/a~2"}"#, "account: \"/a~2\" is not a path"),
            (r#"{"account": ["/a", "/b~"]}"#, "account: \"/b~\" is not a path"),
            (r#"{"properties": {"a": "/~x"}}"#, "properties: \"/~x\" is not a path"),
            (r#"{"zone": "CET"}"#, "zone is not an offset"),
            (r#"{"zone": ".5+02:00"}"#, "zone is not an offset"),
            (r#"{"zone": ""}"#, "zone is not an offset"),
            (r#"{"names": {"a": 1}}"#, "names is not an object of texts"),
            (r#"{"properties": {"a": "b"}}"#, "properties: \"b\" is not a path"),
            (r#"{"omit": "a"}"#, "omit is not an array"),
        ] {
            let problem = Mapping::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn reads_every_key() {
        let text = r#"{"tenant": {"value": "acme"}, "account": ["/a~1b/~0c", {"value": "none"}], "zone": "-05:00",
                       "names": {"Order Completed": "paid"}, "properties": {"plan": "/plan"}, "omit": ["email"]}"#;
        let mapping = Mapping::parse(text).unwrap();
        assert_eq!(mapping.places("tenant").unwrap(), [Place::Text("acme".into())]);
        assert_eq!(mapping.places("account").unwrap().len(), 2);
        assert_eq!(mapping.places("user"), None);
        assert_eq!(steps("/a~1b/~0c").collect::<Vec<_>>(), ["a/b", "~c"]);
        assert_eq!(mapping.zone.as_deref(), Some("-05:00"));
        assert_eq!(Mapping::parse("{}").unwrap(), Mapping::default());
    }
}
