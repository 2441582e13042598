//! PostHog: the capture and batch endpoints.

use super::json::{Lists, Value};
use super::{Common, Event, Fault, NOWHERE, Paths, Property, Vendor, add_members, batch, one_or_many};

pub(super) struct PostHog;

impl Vendor for PostHog {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/distinct_id", "/properties/distinct_id"],
            session: &["/properties/$session_id"],
            name: &["/event"],
            time: &["/timestamp"],
            key: &["/uuid"],
            properties: &["/properties"],
            ..NOWHERE
        }
    }

    fn lists(&self) -> Lists {
        &[(1, "batch")]
    }

    fn events<'a>(&self, mut document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        let Some(events) = batch(&mut document, "batch")? else {
            match document {
                // The key of the project says nothing about the event.
                Value::Object(_) => out.push(Event::made(document, without_key, &[])),
                other => one_or_many(other, &[], out),
            }
            return Ok(());
        };
        for fleeting in ["api_key", "sent_at", "historical_migration"] {
            document.take(fleeting);
        }
        one_or_many(Value::Array(events), &[Common::new(document)], out);
        Ok(())
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add_members(event, "/properties", &["distinct_id", "token", "$session_id"], out);
    }
}

fn without_key(mut event: Value) -> Value {
    event.take("api_key");
    event
}
