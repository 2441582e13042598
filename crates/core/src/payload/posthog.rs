//! PostHog: the capture and batch endpoints.

use super::json::{Lists, Value};
use super::{Common, Event, Fault, NOWHERE, Paths, Property, Vendor, add_members, batch};
use std::rc::Rc;

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

    fn of_delivery(&self) -> &'static [&'static str] {
        &["/sent_at", "/api_key", "/token", "/offset", "/historical_migration", "/properties/token"]
    }

    fn events<'a>(&self, mut document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        // The key of the project says nothing about an event.
        let mut add = |events: Vec<Value<'a>>, shared: &[Rc<Common<'a>>]| {
            out.extend(events.into_iter().map(|event| Event::made(event, without_key, shared)));
        };
        match batch(&mut document, "batch")? {
            Some(events) => {
                for fleeting in ["api_key", "sent_at", "historical_migration"] {
                    document.take(fleeting);
                }
                add(events, &[Common::new(document)]);
            }
            None => match document {
                Value::Array(events) => add(events, &[]),
                event => add(vec![event], &[]),
            },
        }
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
