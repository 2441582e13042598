//! Events from separate fields, as a row of a table has them.

use super::batch::Rejection;
use super::parse::{Draft, Fault, Parser};
use super::{EventRef, Limits, id_fault, parse_uuid};
use crate::jsonb::scan::{quote, skip_space, token};
use crate::jsonb::{Bounds, Encoder};
use std::borrow::Cow;

const JSON_SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

/// Names the fields, in the order in which [`Fields`] holds them.
pub const FIELD_NAMES: [&str; 8] =
    ["tenant_id", "account_id", "name", "occurred_at", "event_id", "user_id", "session_id", "properties"];

/// Holds the texts of one event's fields in the order of [`FIELD_NAMES`]; `None` where a field is absent.
pub type Fields<'a> = [Option<&'a str>; FIELD_NAMES.len()];

/// Judges events given as fields; keeps its buffers from one to the next.
pub struct FieldsParser<'l>(Parser<'l>);

impl<'l> FieldsParser<'l> {
    /// Starts with the limits that every event is held to.
    pub fn new(limits: &'l Limits) -> Self {
        Self(Parser::new(limits))
    }

    /// Makes the event, or says why there is none, by the rules of the JSON form.
    pub fn event<'a>(&mut self, fields: &Fields<'a>) -> Result<EventRef<'a>, Rejection> {
        self.draft(fields).and_then(Draft::finish).map_err(|fault| reject(fields, fault))
    }

    fn draft<'a>(&mut self, fields: &Fields<'a>) -> Result<Draft<'a>, Fault> {
        let [tenant_id, account_id, name, occurred_at, event_id, user_id, session_id, properties] = *fields;
        let mut draft = Draft::default();
        let places = [
            ("tenant_id", tenant_id, &mut draft.tenant_id),
            ("account_id", account_id, &mut draft.account_id),
            ("name", name, &mut draft.name),
            ("user_id", user_id, &mut draft.user_id),
            ("session_id", session_id, &mut draft.session_id),
        ];
        for (field, text, place) in places {
            if let Some(text) = text {
                if let Some((sqlstate, reason)) = id_fault(field, text) {
                    return Err(Fault::field(field, sqlstate, reason));
                }
                *place = Some(Cow::Borrowed(text));
            }
        }
        draft.occurred_at = occurred_at.map(|text| self.0.occurred_at("occurred_at", text)).transpose()?;
        draft.event_id = event_id.map(|text| Parser::event_id("event_id", text)).transpose()?;
        if let Some(text) = properties {
            let end = self.0.properties(&mut draft, text, skip_space(text.as_bytes(), 0))?;
            let end = skip_space(text.as_bytes(), end);
            if end < text.len() {
                let reason = format!("properties: text after the end: \"{}\"", token(text, end));
                return Err(Fault::field("properties", "22P02", reason));
            }
        }
        Ok(draft)
    }
}

#[cold]
fn reject(fields: &Fields<'_>, fault: Fault) -> Rejection {
    let Fault { field, reason, sqlstate } = fault;
    Rejection {
        field,
        reason,
        sqlstate,
        event_id: fields[4].and_then(parse_uuid),
        tenant_id: fields[0].filter(|text| id_fault("", text).is_none()).map(str::to_owned),
    }
}

/// Prints fields as one JSON object, which [`super::parse_event`] judges as the fields were judged. Absent fields are left
/// out; properties that aren't taken and are no JSON object stand there as a string.
pub fn fields_to_json(fields: &Fields<'_>) -> String {
    let is_nothing = |text: &str| {
        let inside = text.trim_matches(JSON_SPACE);
        inside == "null"
            || inside
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inside| inside.trim_matches(JSON_SPACE).is_empty())
    };
    let mut out = String::from("{");
    for (name, text) in FIELD_NAMES.iter().zip(fields) {
        let Some(text) = text else { continue };
        if out.len() > 1 {
            out.push_str(", ");
        }
        quote(name, &mut out);
        out.push_str(": ");
        let is_object = |text| Encoder::new().encode(text, Bounds::WIDEST, &mut Vec::new()).is_ok();
        if *name == "properties" && (is_nothing(text) || is_object(text)) {
            out.push_str(text);
        } else {
            quote(text, &mut out);
        }
    }
    out.push('}');
    out
}
