//! Recognises batches that a client's driver wrote in a language's own form instead of as JSON, to tell the caller so.

use super::batch::Item;
use crate::jsonb::scan::{skip_space, string_end};

/// Says what the text of a batch is instead of JSON objects: judged by how it begins where it can't be split, else only if every
/// element of it is that. Nothing else in it is lost then.
#[cold]
pub(super) fn disguise(text: &str, elements: Option<&[Item]>) -> Option<&'static str> {
    let text = text.trim_start_matches([' ', '\n', '\r', '\t']);
    let is_alone = elements.is_none_or(|elements| elements.len() == 1);
    if text.starts_with("[object ") && is_alone {
        return Some("batch is the text that JavaScript makes of an object, not JSON");
    }
    if text.starts_with("\"{") || text.starts_with("\"[") {
        return Some("batch is a string that holds JSON, not JSON itself");
    }
    match elements {
        Some(elements) => {
            let mut forms =
                elements.iter().map(|item| if item.event.is_ok() { None } else { element(item.raw) });
            let first = forms.next().flatten()?;
            forms.all(|form| form.is_some()).then_some(first)
        }
        None => element(text.strip_prefix('[').unwrap_or(text)),
    }
}

const RUBY: &str = "batch is the text that Ruby makes of a hash, not JSON";

fn element(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let start = skip_space(bytes, 0);
    if text[start..].starts_with("\"{") {
        return Some("batch has strings that hold JSON, not JSON itself");
    }
    if bytes.get(start) != Some(&b'{') {
        return None;
    }
    let first = skip_space(bytes, start + 1);
    let rest = &text[first..];
    if ["\"{", "\"["].iter().any(|opening| rest.starts_with(opening)) {
        // A key of JSON may begin like that, too.
        let end = string_end(bytes, first + 1).ok().map(|(end, _)| skip_space(bytes, end + 1));
        let is_key = end.is_some_and(|end| bytes.get(end) == Some(&b':'));
        return (!is_key).then_some("batch is an array as Postgres writes it, not JSON");
    }
    if rest.starts_with('\'') {
        return Some("batch is the text that Python makes of a dict, not JSON");
    }
    if rest.starts_with(':') {
        return Some(RUBY);
    }
    if rest.starts_with('"') {
        let (end, _) = string_end(bytes, first + 1).ok()?;
        let after = skip_space(bytes, end + 1);
        return text[after..].starts_with("=>").then_some(RUBY);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, parse_batch};
    use super::*;

    #[test]
    fn knows_what_drivers_write() {
        for text in [
            r#"{"{\"tenant_id\":\"acme\"}","{\"tenant_id\":\"acme\"}"}"#,
            r#"{"[1]"}"#,
            "[object Object]",
            "[object Object],[object Object]",
            r#""{\"tenant_id\":\"acme\"}""#,
            r#" ["{\"tenant_id\":\"acme\"}"]"#,
            "[{'tenant_id': 'acme'}]",
            "{'tenant_id': 'acme'}",
            r#"[{"tenant_id"=>"acme"}]"#,
            r#"{"tenant_id" => "acme"}"#,
            "{:tenant_id=>\"acme\"}",
        ] {
            assert!(disguise(text, None).is_some(), "{text}");
            let error = parse_batch(text, &Limits::default()).unwrap_err();
            assert_eq!(error.sqlstate, "22032", "{text}: {error}");
            assert!(error.reason.contains(", not JSON"), "{text}: {error}");
        }
    }

    #[test]
    fn leaves_json_to_the_parser() {
        for text in [
            "{\"{a\":1}",
            "{\"[a\" : 1}",
            "",
            "{}",
            "[]",
            "[[]]",
            "{\"a\":1}",
            "[{\"tenant_id\":\"{\"}]",
            "{",
            "[{\"",
            "é",
            "[é",
            "{\"a\\",
        ] {
            assert_eq!(disguise(text, None), None, "{text}");
        }
    }

    #[test]
    fn one_bad_event_among_good_ones_stays_a_rejection() {
        let unknown = r#"{"tenant_id": "a", "nmae": "b"}"#;
        let good = r#"{"tenant_id":"a","account_id":"b","name":"c","occurred_at":"2026-03-02T09:15:00Z",
                       "event_id":"00000000-0000-4000-8000-000000000001"}"#;
        for bad in ["{'tenant_id': 'acme'}", r#""{\"a\":1}""#, r#"{"{\"a\":1}"}"#] {
            let batch = format!("[{bad},{good}]");
            let batch = parse_batch(&batch, &Limits::default()).unwrap();
            assert_eq!(batch.items.iter().filter(|item| item.event.is_err()).count(), 1, "{bad}");
            // Nor beside another bad event that is one of its own.
            let batch = format!("[{bad},{unknown},5]");
            let batch = parse_batch(&batch, &Limits::default()).unwrap();
            assert_eq!(batch.items.len(), 3, "{bad}");
        }
    }
}
