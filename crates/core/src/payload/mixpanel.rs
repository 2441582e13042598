//! Mixpanel: events as the import and track endpoints take them, and as the raw export has them.

use super::json::Value;
use super::{Event, Fault, NOWHERE, Paths, Property, Vendor, add_members, compound, one_or_many};

pub(super) struct Mixpanel;

impl Vendor for Mixpanel {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/properties/distinct_id", "/properties/$user_id", "/properties/$device_id"],
            session: &["/properties/$session_id"],
            name: &["/event"],
            // Seconds or milliseconds.
            time: &["/properties/time"],
            properties: &["/properties"],
            ..NOWHERE
        }
    }

    fn of_delivery(&self) -> &'static [&'static str] {
        &["/properties/token"]
    }

    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        one_or_many(document, &[], out);
        Ok(())
    }

    /// Its own rule: events are the same whose name, time, user and insert id are. Without distinct_id, Mixpanel makes one of the
    /// user or device.
    fn key(&self, event: &Event) -> Result<Option<String>, Fault> {
        let who = ["/properties/distinct_id", "/properties/$user_id", "/properties/$device_id"];
        let who = who.into_iter().find(|path| event.find(path).is_some()).unwrap_or(who[0]);
        let parts = ["/event", who, "/properties/time", "/properties/$insert_id"];
        Ok(event.find("/properties/$insert_id").map(|_| compound(event, &parts)))
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add_members(event, "/properties", &["time", "distinct_id", "$insert_id", "token"], out);
    }
}
