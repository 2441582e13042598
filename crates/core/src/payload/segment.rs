//! Segment: the Track, Page, Screen, Identify, Group and Alias calls of its HTTP API, alone, in an array or as a batch.

use super::json::{Lists, Value};
use super::{Common, Event, Fault, NOWHERE, Paths, Property, Vendor, add, add_members, batch, one_or_many};

pub(super) struct Segment;

/// The calls that there are.
const CALLS: [&str; 6] = ["alias", "group", "identify", "page", "screen", "track"];

impl Vendor for Segment {
    fn paths(&self) -> &'static Paths {
        &Paths {
            account: &["/context/groupId", "/groupId"],
            user: &["/userId", "/anonymousId"],
            session: &["/context/sessionId"],
            name: &["/event"],
            // What the client says; `sentAt` and `receivedAt` differ from one delivery to the next.
            time: &["/timestamp", "/originalTimestamp"],
            key: &["/messageId"],
            properties: &["/properties", "/traits"],
            ..NOWHERE
        }
    }

    fn lists(&self) -> Lists {
        &[(1, "batch")]
    }

    fn of_delivery(&self) -> &'static [&'static str] {
        &["/sentAt", "/receivedAt", "/writeKey"]
    }

    fn events<'a>(&self, mut document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        let Some(messages) = batch(&mut document, "batch")? else {
            one_or_many(document, &[], out);
            return Ok(());
        };
        for fleeting in ["writeKey", "sentAt"] {
            document.take(fleeting);
        }
        one_or_many(Value::Array(messages), &[Common::new(document)], out);
        Ok(())
    }

    /// A call that puts its user into a group names that one; the context, the group that other calls are made in.
    fn account(&self, event: &Event) -> Result<Option<String>, Fault> {
        match call(event).as_deref() {
            Ok("group") => event.text(&["/groupId"]),
            _ => Ok(None),
        }
    }

    fn name(&self, event: &Event) -> Result<Option<String>, Fault> {
        match call(event)?.as_str() {
            "track" => event.text(&["/event"]).map(|name| name.or(Some("track".into()))),
            call => Ok(Some(call.to_owned())),
        }
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[("/name", "name"), ("/category", "category"), ("/previousId", "previousId")]
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        let [pages @ .., alias] = self.named() else { return };
        match call(event).as_deref() {
            Ok("page" | "screen") => {
                add(event, pages, out);
                add_members(event, "/properties", &[], out);
            }
            Ok("identify" | "group") => add_members(event, "/traits", &[], out),
            Ok("alias") => add(event, &[*alias], out),
            _ => add_members(event, "/properties", &[], out),
        }
    }
}

/// Which call it was; each has an address of its own, whose messages need not say it.
fn call(event: &Event) -> Result<String, Fault> {
    match event.text(&["/type"])? {
        Some(call) if CALLS.contains(&call.as_str()) => Ok(call),
        Some(_) => {
            Err(Fault::new("/type", "22023", "is none of alias, group, identify, page, screen and track"))
        }
        None if event.find("/event").is_some() => Ok("track".into()),
        None if event.find("/groupId").is_some() => Ok("group".into()),
        None if event.find("/previousId").is_some() => Ok("alias".into()),
        None if event.find("/traits").is_some() => Ok("identify".into()),
        None => Err(Fault::new("/type", "23502", "is missing, which says what call it was")),
    }
}
