//! Doing to stored values what the declarations and keys of now say: what was stored before something was protected, and what
//! stands under an earlier key.

use super::guard::{sealed, value};
use super::keys::{self, Keys, OF_BOXES};
use super::opening;
use super::rules::{self, EventRules, Rules};
use crate::backend::lookup::View;
use pgrx::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use tally_core::event::{self, Limits};
use tally_core::jsonb::{self, Bounds, Change, Encoder};
use tally_core::privacy::{Place, Token, Treatment, Value, is_box, seal_epoch};

/// What is to stand in the place of a stored value; keeps what is as it should be.
fn renewed(keys: &Keys, treatment: Treatment, text: &str, is_string: bool, place: &Place) -> Change {
    match treatment {
        Treatment::Drop => Change::Remove,
        Treatment::Token => {
            match Token::parse(text).filter(|token| is_string && token.epoch <= keys.newest()) {
                Some(token) => keys.carried(&token).map_or(Change::Keep, |token| Change::Text(token.text())),
                None => match opened(keys, text, is_string, place) {
                    // Sealed until now.
                    Some(plain) => {
                        let (text, was_string) = spelled(&plain);
                        Change::Text(keys.property(value(&text, was_string), keys.newest()).text())
                    }
                    None => Change::Text(keys.property(value(text, is_string), keys.newest()).text()),
                },
            }
        }
        Treatment::Seal => {
            // What a token stands for is nowhere.
            if is_string && Token::parse(text).is_some_and(|token| token.epoch <= keys.newest()) {
                return Change::Keep;
            }
            match seal_epoch(text).filter(|_| is_string) {
                Some(epoch) if epoch == keys.newest() && opened(keys, text, is_string, place).is_some() => {
                    Change::Keep
                }
                _ => match opened(keys, text, is_string, place) {
                    Some(plain) => {
                        let (text, was_string) = spelled(&plain);
                        Change::Text(sealed(keys, &text, was_string, place))
                    }
                    None => Change::Text(sealed(keys, text, is_string, place)),
                },
            }
        }
    }
}

/// What is sealed in a place, as JSON; `None` where nothing is that opens there.
fn opened(keys: &Keys, text: &str, is_string: bool, place: &Place) -> Option<String> {
    let epoch = seal_epoch(text).filter(|_| is_string)?;
    keys.seal(epoch)?.open(text, place).ok().map(|plain| plain.as_str().to_owned())
}

/// A JSON value's text: a string's own characters, anything else as it is; and whether it is a string.
fn spelled(json: &str) -> (String, bool) {
    match serde_json::from_str::<String>(json) {
        Ok(text) => (text, true),
        Err(_) => (json.to_owned(), false),
    }
}

fn renewed_properties(
    keys: &Keys,
    rules: &EventRules,
    tenant: &str,
    event_id: &[u8; 16],
    text: &str,
) -> Option<String> {
    let mut bytes = Vec::new();
    Encoder::new().encode(text, Bounds::WIDEST, &mut bytes).expect("stored properties are an object");
    let paths: Vec<&[String]> = rules.paths.iter().map(|path| path.steps()).collect();
    let mut decide = |rule: usize, text: &str, is_string: bool, path: &str| {
        renewed(keys, rules.treatments[rule], text, is_string, &Place { tenant, event_id, path })
    };
    let changed = jsonb::replace(&bytes, &paths, &mut decide).expect("what was encoded is well-formed")?;
    let mut text = String::new();
    jsonb::to_json(&changed, &mut text).expect("what was encoded is well-formed");
    Some(text)
}

/// The properties of a stored event as they should be now; null where they are so.
#[pg_extern(sql = false)]
fn renewed_event_properties(
    tenant_id: &str,
    name: &str,
    event_id: Uuid,
    properties: &str,
) -> Result<Option<String>, ErrorReport> {
    let Some(rules) = rules::current() else { return Ok(None) };
    let rules = rules.of(tenant_id, name);
    if rules.paths.is_empty() {
        return Ok(None);
    }
    Ok(renewed_properties(&*keys::of_or_made(tenant_id)?, &rules, tenant_id, event_id.as_bytes(), properties))
}

/// A stored user id as it should be now, and whether it is to change at all.
#[pg_extern(sql = false)]
fn renewed_user_id(tenant_id: &str, name: &str, user_id: &str) -> Result<Option<String>, ErrorReport> {
    let Some(rules) = rules::current() else { return Ok(Some(user_id.to_owned())) };
    Ok(match rules.of(tenant_id, name).user {
        None => Some(user_id.to_owned()),
        Some(Treatment::Token) if Token::parse(user_id).is_some_and(|token| token.epoch == 0) => {
            Some(user_id.to_owned())
        }
        Some(Treatment::Token) => Some(keys::of_or_made(tenant_id)?.user(user_id).text()),
        Some(Treatment::Drop | Treatment::Seal) => None,
    })
}

/// Whether ingest would close up what it sends to a tenant's quarantine: for that tenant's sake, or for that of the tenant that it names.
fn is_concerned(rules: &Rules, tenant_id: &str, body: &str) -> bool {
    rules.concern(Some(tenant_id)) || {
        let named = event::parse_event(body, &Limits::default());
        rules.concern(match &named {
            Ok(event) => Some(&event.tenant_id),
            Err(rejection) => rejection.tenant_id.as_deref(),
        })
    }
}

/// The text of a quarantined event, closed up where it is not and the tenant's events are protected, or those of the tenant that it names;
/// null where it stays.
#[pg_extern(sql = false)]
fn closed_body(tenant_id: &str, batch_id: i64, position: i32, body: &str) -> Option<String> {
    if is_box(body).is_some() || !is_concerned(&*rules::current()?, tenant_id, body) {
        return None;
    }
    let closer = keys::wrapped(OF_BOXES, View::Now)?.closer()?;
    Some(opening::close_body(&closer, tenant_id, batch_id, position as u32, body))
}

/// The tokens that may stand for a value: of a property under every key that something may be stored under, and of a user id.
#[pg_extern(sql = false)]
fn tokens_of(tenant_id: &str, value: &str) -> Result<Vec<String>, ErrorReport> {
    let Some(wrapped) = keys::wrapped(tenant_id, View::Now) else { return Ok(vec![]) };
    let keys = wrapped.open(tenant_id)?;
    let oldest = wrapped.oldest.max(1);
    let is_number = value.ends_with(|last: char| last.is_ascii_digit())
        && Encoder::new().encode(&format!("{{\"n\": {value}}}"), Bounds::WIDEST, &mut Vec::new()).is_ok();
    let spellings = [Some(Value::Text(value)), is_number.then_some(Value::Json(value))];
    let mut tokens: Vec<String> = (oldest..=keys.newest())
        .rev()
        .flat_map(|epoch| spellings.into_iter().flatten().map(move |value| (value, epoch)))
        .map(|(value, epoch)| keys.property(value, epoch).text())
        .collect();
    tokens.push(keys.user(value).text());
    Ok(tokens)
}
