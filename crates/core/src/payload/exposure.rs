//! What a mapping would show of what is protected: values that it copies from there to a place that isn't.

use super::mapping::{Mapping, steps};
use super::{Format, Paths};

/// Values that are protected together.
pub struct Protected<'p> {
    /// The property, as a JSON Pointer; empty for the user id.
    pub path: &'p str,
    /// Everything that is protected wherever this is, itself included.
    pub all: &'p [String],
}

impl Protected<'_> {
    /// Whether what a mapping stores at steps of the properties is protected there.
    fn has(&self, stored: &[String]) -> bool {
        // A number that is the name of a key stays: with nothing left of its path it would seem to cover everything.
        let covers = |path: &String| stored.starts_with(&steps(path).collect::<Vec<_>>());
        self.all.iter().filter(|path| !path.is_empty()).any(covers)
    }

    fn has_user(&self) -> bool {
        self.all.iter().any(String::is_empty)
    }
}

/// The steps of a path, without places in arrays, which protections pass through.
fn named(path: &str) -> Vec<String> {
    steps(path).filter(|step| step.is_empty() || !step.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// What a mapping of a format copies of a protected value to where it isn't protected: the key of the mapping, and of a property its
/// name; `None` where it copies nothing.
///
/// A payload's value is taken for the protected property where the last steps of its path are the property's, or those of something in it or
/// around it: what else it may be can't be told from a path.
pub fn exposed(format: Format, mapping: &Mapping, protected: &Protected) -> Option<String> {
    let paths = format.vendor.paths();
    let property = named(protected.path);
    let users: Vec<Vec<String>> = match mapping.places("user") {
        Some(_) => mapping.reads().filter(|read| read.1 == "user").map(|(path, ..)| named(path)).collect(),
        None => paths.user.iter().map(|path| named(path)).collect(),
    };
    for (path, key, name) in mapping.reads() {
        let source = named(path);
        let shows = match (protected.path, name) {
            // The user's id among the properties, in clear.
            ("", Some(name)) => users.iter().any(|user| {
                user.starts_with(&source) && !protected.has(&behind(name, &user[source.len()..]))
            }),
            ("", None) if key == "user" => in_properties(paths, &source).is_some_and(|inner| {
                let is_left_out =
                    inner.first().is_some_and(|first| mapping.omit.iter().any(|name| name == first));
                !is_left_out && !protected.has(inner)
            }),
            ("", None) => users.contains(&source),
            (_, None) if key == "user" && protected.has_user() => false,
            (_, name) => {
                let stored = |inner: &[String]| name.map(|name| behind(name, inner));
                let is_clear = |inner: &[String]| stored(inner).is_none_or(|stored| !protected.has(&stored));
                let whole = is_around_properties(paths, &source) && is_clear(&property);
                whole
                    || (0..source.len()).any(|from| {
                        let end = &source[from..];
                        match property.strip_prefix(end) {
                            // It, or what is around it.
                            Some(inner) => is_clear(inner),
                            // Something in it.
                            None => end.starts_with(&property) && is_clear(&[]),
                        }
                    })
            }
        };
        if shows {
            return Some(match name {
                Some(name) => format!("{key}: {name}"),
                None => key.to_owned(),
            });
        }
    }
    None
}

fn behind(name: &str, inner: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(inner.iter().cloned()).collect()
}

/// The steps behind where the format has its properties; `None` of what lies elsewhere.
fn in_properties<'s>(paths: &Paths, source: &'s [String]) -> Option<&'s [String]> {
    paths
        .properties
        .iter()
        .chain(paths.more_properties)
        .find_map(|place| source.strip_prefix(&named(place)[..]))
        .filter(|inner| !inner.is_empty())
}

/// Whether a path leads to all of the properties, or to something that they are in.
fn is_around_properties(paths: &Paths, source: &[String]) -> bool {
    paths.properties.iter().chain(paths.more_properties).any(|place| named(place).starts_with(source))
        // Snowplow's column of what an event says of itself has the name of its schema behind it.
        || matches!(source, [only] if only.starts_with("unstruct_event"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(format: &str, mapping: &str, path: &str, more: &[&str]) -> Option<String> {
        let all: Vec<String> = more.iter().chain([&path]).map(|path| (*path).to_owned()).collect();
        let mapping = Mapping::parse(mapping).unwrap();
        exposed(Format::of(format).unwrap(), &mapping, &Protected { path, all: &all })
    }

    #[test]
    fn a_copy_under_another_name_shows_it() {
        for (mapping, key) in [
            (r#"{"properties": {"note": "/properties/email"}}"#, "properties: note"),
            (r#"{"properties": {"note": "/context/traits/email"}}"#, "properties: note"),
            (r#"{"properties": {"note": "/properties/email/0"}}"#, "properties: note"),
            (r#"{"properties": {"note": "/properties/email/domain"}}"#, "properties: note"),
            (r#"{"properties": {"all": "/properties"}}"#, "properties: all"),
            (r#"{"properties": {"email": "/properties/plan", "x": "/traits"}}"#, "properties: x"),
            (r#"{"account": ["/groupId", "/traits/email"]}"#, "account"),
            (r#"{"name": "/properties/email"}"#, "name"),
            (r#"{"session": "/properties/email"}"#, "session"),
            (r#"{"event_id": "/properties/email"}"#, "event_id"),
            (r#"{"user": "/properties/email"}"#, "user"),
        ] {
            assert_eq!(found("segment", mapping, "/email", &[]).as_deref(), Some(key), "{mapping}");
        }
        for mapping in [
            "{}",
            r#"{"properties": {"email": "/context/traits/email"}}"#,
            r#"{"properties": {"plan": "/properties/plan"}, "account": "/context/groupId"}"#,
            r#"{"omit": ["email"], "names": {"email": "e"}}"#,
        ] {
            assert_eq!(found("segment", mapping, "/email", &[]), None, "{mapping}");
        }
        // Of something inside, what is around it, unless that comes to the same place.
        let around = r#"{"properties": {"who": "/properties/user"}}"#;
        assert!(found("segment", around, "/user/email", &[]).is_some());
        assert_eq!(found("segment", around, "/user/email", &["/who/email"]), None);
        assert_eq!(
            found("segment", r#"{"properties": {"user": "/properties/user"}}"#, "/user/email", &[]),
            None
        );
        // Where the copy, or the user id that it becomes, is protected, too.
        let note = r#"{"properties": {"note": "/properties/email"}}"#;
        assert_eq!(found("segment", note, "/email", &["/note"]), None);
        assert_eq!(found("segment", r#"{"user": "/properties/email"}"#, "/email", &[""]), None);
        assert!(found("segment", note, "/email", &["/2024"]).is_some());
        assert_eq!(
            found("segment", r#"{"properties": {"2024": "/traits/email"}}"#, "/email", &["/2024"]),
            None
        );
        assert!(found("cloudevents", r#"{"properties": {"d": "/data"}}"#, "/email", &[]).is_some());
        let own = r#"{"properties": {"d": "/unstruct_event_com_acme_1"}}"#;
        assert!(found("snowplow", own, "/email", &[]).is_some());
    }

    #[test]
    fn a_copy_of_the_user_shows_it() {
        for (format, mapping, key) in [
            ("segment", r#"{"properties": {"who": "/userId"}}"#, "properties: who"),
            ("segment", r#"{"properties": {"who": "/anonymousId"}}"#, "properties: who"),
            ("segment", r#"{"account": "/userId"}"#, "account"),
            ("mixpanel", r#"{"properties": {"all": "/properties"}}"#, "properties: all"),
            (
                "segment",
                r#"{"user": "/traits/id", "omit": ["id"], "properties": {"who": "/traits/id"}}"#,
                "properties: who",
            ),
            ("segment", r#"{"user": "/traits/id"}"#, "user"),
        ] {
            assert_eq!(found(format, mapping, "", &[]).as_deref(), Some(key), "{mapping}");
        }
        for mapping in [
            "{}",
            r#"{"properties": {"group": "/groupId"}}"#,
            r#"{"user": ["/userId"]}"#,
            r#"{"user": "/traits/id", "omit": ["id"]}"#,
            r#"{"user": "/context/traits/id"}"#,
        ] {
            assert_eq!(found("segment", mapping, "", &[]), None, "{mapping}");
        }
        assert_eq!(found("segment", r#"{"properties": {"who": "/userId"}}"#, "", &["/who"]), None);
        assert_eq!(found("segment", r#"{"user": "/traits/id"}"#, "", &["/id"]), None);
    }
}
