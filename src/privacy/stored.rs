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
use tally_core::jsonb::{self, Bounds, Change, Encoder, Found};
use tally_core::payload::is_made_session;
use tally_core::privacy::{Place, Token, Treatment, Value, is_box, seal_epoch};

/// What is done to the stored values of one event.
struct Renewal<'a> {
    keys: &'a Keys,
    rules: &'a EventRules,
    paths: &'a [&'a [String]],
    tenant: &'a str,
    event_id: &'a [u8; 16],
}

impl Renewal<'_> {
    /// What is to stand in the place of a stored value; keeps what is as it should be.
    fn renewed(&self, found: &Found) -> Change {
        let Found { text, is_string, .. } = *found;
        let treatment = self.rules.treatment(found);
        if treatment == Some(Treatment::Drop) {
            return Change::Remove;
        }
        // What a token stands for is nowhere: it stays one.
        let token = Token::parse(text).filter(|token| is_string && token.epoch <= self.keys.newest());
        if let Some(token) = token {
            return self.keys.carried(&token).map_or(Change::Keep, |token| Change::Text(token.text()));
        }
        let place = Place { tenant: self.tenant, event_id: self.event_id, path: found.at };
        let opened = opened(self.keys, text, is_string, &place);
        let inner = opened.as_deref().and_then(|plain| self.renewed_inside(found, plain));
        let is_renewed = inner.is_some();
        let plain = inner.or(opened);
        let (text, is_string) = match &plain {
            Some(plain) => jsonb::printed(plain).expect("what was sealed is a value"),
            None => (text.to_owned(), is_string),
        };
        match treatment {
            Some(Treatment::Token) => {
                Change::Text(self.keys.property(value(&text, is_string), self.keys.newest()).text())
            }
            Some(Treatment::Seal) => {
                let is_as_it_should_be =
                    plain.is_some() && !is_renewed && seal_epoch(found.text) == Some(self.keys.newest());
                if is_as_it_should_be {
                    return Change::Keep;
                }
                Change::Text(sealed(self.keys, &text, is_string, &place))
            }
            // It goes along with what it is in, where it is not sealed by itself.
            _ => plain.map_or(Change::Keep, Change::Json),
        }
    }

    /// What was sealed, with what paths lead to inside as it should be; `None` where it is so.
    fn renewed_inside(&self, found: &Found, plain: &str) -> Option<String> {
        let around = [found.around, &[found.path]].concat();
        let mut decide = |found: Found| self.renewed(&found);
        jsonb::replace_inside(plain, found.at, &around, self.paths, &mut decide)
            .expect("what was sealed is a value")
    }
}

/// What is sealed in a place, as JSON; `None` where nothing is that opens there.
fn opened(keys: &Keys, text: &str, is_string: bool, place: &Place) -> Option<String> {
    let epoch = seal_epoch(text).filter(|_| is_string)?;
    keys.seal(epoch)?.open(text, place).ok().map(|plain| plain.as_str().to_owned())
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
    let renewal = Renewal { keys, rules, paths: &paths, tenant, event_id };
    let mut decide = |found: Found| renewal.renewed(&found);
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

/// A stored session id as it should be now.
#[pg_extern(sql = false)]
fn renewed_session_id(tenant_id: &str, name: &str, session_id: &str) -> Result<String, ErrorReport> {
    let is_open = is_made_session(session_id)
        && rules::current().is_some_and(|rules| rules.of(tenant_id, name).user.is_some());
    if !is_open {
        return Ok(session_id.to_owned());
    }
    Ok(keys::of_or_made(tenant_id)?.user(session_id).text())
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

/// The tokens that may stand for a value: of a property under every key that there ever was, and of a user id. What is JSON is meant as text
/// and as what it says; elements of an array have tokens of their own, and null has none.
#[pg_extern(sql = false)]
fn tokens_of(tenant_id: &str, value: &str) -> Result<Vec<String>, ErrorReport> {
    let Some(keys) = keys::of(tenant_id).transpose()? else { return Ok(vec![]) };
    let json = jsonb::printed(value).ok().filter(|(text, is_string)| {
        let is_whole = text != "null" && !text.starts_with('[');
        is_whole && !is_string
    });
    let spellings = [Some(Value::Text(value)), json.as_ref().map(|(text, _)| Value::Json(text))];
    let mut tokens: Vec<String> = (1..=keys.newest())
        .rev()
        .flat_map(|epoch| spellings.into_iter().flatten().map(move |value| (value, epoch)))
        .map(|(value, epoch)| keys.property(value, epoch).text())
        .collect();
    tokens.push(keys.user(value).text());
    Ok(tokens)
}
