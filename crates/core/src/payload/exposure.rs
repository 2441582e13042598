//! What a mapping would show of what is protected: values that it copies from there to a place that isn't.

use super::mapping::{Mapping, steps};
use super::{Format, Paths};

/// Values that are protected together.
pub struct Protected<'p> {
    /// The property, as a JSON Pointer; empty for the user id.
    pub path: &'p str,
    /// Everything that is protected wherever this is, itself included.
    pub all: &'p [String],
    /// A property that was among them until now, or the user id, which is empty: then only what this left open counts.
    pub taken_back: Option<&'p str>,
}

impl Protected<'_> {
    /// Whether what a mapping stores at steps of the properties is in clear there.
    fn leaves_open(&self, stored: &[String]) -> bool {
        // A number that is the name of a key stays: with nothing left of its path it would seem to cover everything.
        let covers = |path: &str| !path.is_empty() && stored.starts_with(&steps(path).collect::<Vec<_>>());
        self.taken_back.is_none_or(covers) && !self.all.iter().any(|path| covers(path))
    }

    /// Whether what a mapping stores in another field than the properties is in clear there; of these, user ids alone can be protected.
    fn leaves_field_open(&self, field: &str) -> bool {
        if field == "user" {
            self.taken_back.is_none_or(str::is_empty) && !self.all.iter().any(String::is_empty)
        } else {
            self.taken_back.is_none()
        }
    }
}

/// The steps of a path, without places in arrays, which protections pass through.
fn named(path: &str) -> Vec<String> {
    steps(path).filter(|step| step.is_empty() || !step.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// What a mapping of a format copies of a protected value to where it isn't protected, or is no longer: the key of the mapping, and of a
/// property its name; `None` where it copies nothing.
///
/// A payload's value is taken for the protected property where the last steps of its path are the property's, or those of something in it or
/// around it: what else it may be can't be told from a path.
pub fn exposed(format: Format, mapping: &Mapping, protected: &Protected) -> Option<String> {
    let paths = format.vendor.paths();
    let property: Vec<String> = steps(protected.path).collect();
    let users: Vec<Vec<String>> = match mapping.places("user") {
        Some(_) => mapping.reads().filter(|read| read.1 == "user").map(|(path, ..)| named(path)).collect(),
        None => paths.user.iter().map(|path| named(path)).collect(),
    };
    for (path, key, name) in mapping.reads() {
        let shows_from = |source: &[String]| match (protected.path, name) {
            // The user's id among the properties, in clear.
            ("", Some(name)) => users.iter().any(|user| {
                user.starts_with(source) && protected.leaves_open(&behind(name, &user[source.len()..]))
            }),
            ("", None) if key == "user" => in_properties(format, source).is_some_and(|inner| {
                let is_left_out =
                    inner.first().is_some_and(|first| mapping.omit.iter().any(|name| name == first));
                !is_left_out && protected.leaves_open(&inner)
            }),
            ("", None) => protected.leaves_field_open(key) && users.iter().any(|user| user == source),
            (_, name) => {
                let is_clear = |inner: &[String]| match name {
                    Some(name) => protected.leaves_open(&behind(name, inner)),
                    None => protected.leaves_field_open(key),
                };
                let whole = is_around_properties(paths, source) && is_clear(&property);
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
        // A number may be a place in an array, or the name of a key.
        if shows_from(&named(path)) || shows_from(&steps(path).collect::<Vec<_>>()) {
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

/// The steps among the properties that the format makes of what lies at these; `None` of what is none.
fn in_properties(format: Format, source: &[String]) -> Option<Vec<String>> {
    let paths = format.vendor.paths();
    let inner = |place: &str| source.strip_prefix(&named(place)[..]).filter(|inner| !inner.is_empty());
    let own = paths.properties.iter().chain(paths.more_properties).find_map(|place| inner(place));
    let described = || source.split_first().filter(|(first, _)| is_described(first)).map(|(_, inner)| inner);
    let elsewhere = |(path, name): &(&str, &str)| Some(behind(name, source.strip_prefix(&named(path)[..])?));
    own.or_else(described)
        .filter(|inner| !inner.is_empty())
        .map(<[String]>::to_vec)
        .or_else(|| format.vendor.named().iter().find_map(elsewhere))
}

/// Whether it is Snowplow's column of what an event says of itself, which has the name of its schema behind it.
fn is_described(step: &str) -> bool {
    step.starts_with("unstruct_event")
}

/// Whether a path leads to all of the properties, or to something that they are in.
fn is_around_properties(paths: &Paths, source: &[String]) -> bool {
    paths.properties.iter().chain(paths.more_properties).any(|place| named(place).starts_with(source))
        || matches!(source, [only] if is_described(only))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(format: &str, mapping: &str, path: &str, more: &[&str]) -> Option<String> {
        let all: Vec<String> = more.iter().chain([&path]).map(|path| (*path).to_owned()).collect();
        let mapping = Mapping::parse(mapping).unwrap();
        exposed(Format::of(format).unwrap(), &mapping, &Protected { path, all: &all, taken_back: None })
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
        // A key that is a number.
        for (mapping, path, shows) in [
            (r#"{"properties": {"note": "/properties/2024"}}"#, "/2024", true),
            (r#"{"properties": {"note": "/properties/a/0"}}"#, "/a/0", true),
            (r#"{"properties": {"note": "/properties/a"}}"#, "/a/0", true),
            (r#"{"properties": {"note": "/properties/plan"}}"#, "/2024", false),
            (r#"{"account": "/groupId"}"#, "/2024", false),
            (r#"{"properties": {"note": "/properties/b/0"}}"#, "/a/0", false),
        ] {
            let found = found("segment", mapping, path, &[]);
            assert_eq!(found.is_some(), shows, "{mapping} {path}: {found:?}");
        }
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
            ("segment", r#"{"user": "/previousId"}"#, "user"),
            ("cloudevents", r#"{"user": "/subject"}"#, "user"),
            ("cloudevents", r#"{"user": ["/who", "/data/user/id"]}"#, "user"),
            ("cloudevents", r#"{"user": "/data"}"#, "user"),
            ("amplitude", r#"{"user": "/productId"}"#, "user"),
            ("opentelemetry", r#"{"user": "/body/user"}"#, "user"),
            ("snowplow", r#"{"user": "/se_label"}"#, "user"),
            ("snowplow", r#"{"user": "/unstruct_event_com_acme_login_1/user"}"#, "user"),
        ] {
            assert_eq!(found(format, mapping, "", &[]).as_deref(), Some(key), "{mapping}");
        }
        for (format, mapping, more) in [
            ("cloudevents", r#"{"user": "/subject", "omit": ["subject"]}"#, "/other"),
            ("cloudevents", r#"{"user": "/subject"}"#, "/subject"),
            ("cloudevents", r#"{"user": "/userid"}"#, "/other"),
            ("opentelemetry", r#"{"user": "/body/user"}"#, "/body/user"),
            ("snowplow", r#"{"user": "/unstruct_event_com_acme_login_1/user"}"#, "/user"),
        ] {
            assert_eq!(found(format, mapping, "", &[more]), None, "{mapping}");
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

    /// What taking something back shows of what stays protected.
    fn opened(mapping: &str, taken_back: &str, path: &str, more: &[&str]) -> Option<String> {
        let all: Vec<String> = more.iter().chain([&path]).map(|path| (*path).to_owned()).collect();
        let protected = Protected { path, all: &all, taken_back: Some(taken_back) };
        exposed(Format::of("segment").unwrap(), &Mapping::parse(mapping).unwrap(), &protected)
    }

    #[test]
    fn of_what_is_taken_back_counts_what_only_that_kept_from_sight() {
        let two = r#"{"properties": {"note": "/traits/email", "other": "/traits/email"}}"#;
        for (mapping, taken_back, path, key) in [
            (two, "/note", "/email", "properties: note"),
            // Open already is `note`, which comes first.
            (two, "/other", "/email", "properties: other"),
            (r#"{"properties": {"who": "/traits"}}"#, "/who/email", "/email", "properties: who"),
            (r#"{"properties": {"who": "/traits"}}"#, "/who", "/email", "properties: who"),
            (r#"{"user": "/traits/email"}"#, "", "/email", "user"),
            (r#"{"properties": {"who": "/userId"}}"#, "/who", "", "properties: who"),
            (r#"{"user": "/traits/id"}"#, "/id", "", "user"),
        ] {
            assert_eq!(opened(mapping, taken_back, path, &[]).as_deref(), Some(key), "{mapping}");
        }
        for (mapping, taken_back, path, more) in [
            (two, "/plan", "/email", &[][..]),
            (two, "", "/email", &[]),
            (two, "/note", "/email", &["/note"]),
            (two, "/note/inner", "/email", &["/note"]),
            (r#"{"account": "/traits/email"}"#, "/note", "/email", &[]),
            (r#"{"account": "/traits/email"}"#, "", "/email", &[]),
            (r#"{"account": "/userId"}"#, "/note", "", &[]),
            (r#"{"properties": {"who": "/userId"}}"#, "/note", "", &[]),
            (r#"{"user": "/traits/email"}"#, "", "/email", &[""]),
        ] {
            assert_eq!(opened(mapping, taken_back, path, more), None, "{mapping} {taken_back}");
        }
    }

    /// Of mappings that read one path, what is shown afterwards and wasn't before.
    #[test]
    fn what_is_taken_back_opens_what_was_closed_before() {
        let paths = ["", "/email", "/note", "/user", "/user/email", "/id", "/note/email"];
        let reads = [
            r#"{"properties": {"note": "/traits/email"}}"#,
            r#"{"properties": {"note": "/traits"}}"#,
            r#"{"properties": {"user": "/traits/id"}}"#,
            r#"{"properties": {"id": "/userId"}}"#,
            r#"{"user": "/traits/email"}"#,
            r#"{"user": "/traits/id"}"#,
            r#"{"account": "/traits/user/email"}"#,
        ];
        let cases = reads.iter().flat_map(|mapping| paths.map(|taken_back| (*mapping, taken_back)));
        for (mapping, taken_back) in cases {
            for (path, more) in paths.iter().flat_map(|path| paths.map(|more| (*path, more))) {
                let after = found("segment", mapping, path, &[more]);
                let before = found("segment", mapping, path, &[more, taken_back]);
                let newly = after.filter(|_| before.is_none());
                assert_eq!(
                    opened(mapping, taken_back, path, &[more]),
                    newly,
                    "{mapping} {taken_back} {path} {more}"
                );
            }
        }
    }
}
