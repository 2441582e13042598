//! Amplitude: the body of the HTTP V2 and batch endpoints, or events alone.

use super::json::{Lists, Value};
use super::{Event, Fault, NOWHERE, Paths, Property, Vendor, add, add_members, batch, compound, one_or_many};

pub(super) struct Amplitude;

impl Vendor for Amplitude {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/user_id", "/device_id"],
            name: &["/event_type"],
            time: &["/time"],
            properties: &["/event_properties"],
            ..NOWHERE
        }
    }

    fn lists(&self) -> Lists {
        &[(1, "events")]
    }

    fn of_delivery(&self) -> &'static [&'static str] {
        &[
            "/api_key",
            "/client_upload_time",
            "/server_upload_time",
            "/server_received_time",
            "/processed_time",
        ]
    }

    fn events<'a>(&self, mut document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        let events = batch(&mut document, "events")?;
        one_or_many(events.map_or(document, Value::Array), &[], out);
        Ok(())
    }

    /// -1 stands for no session.
    fn session(&self, event: &Event) -> Result<Option<String>, Fault> {
        Ok(event.text(&["/session_id"])?.filter(|session| session != "-1"))
    }

    /// Its own rule: events are the same whose device and insert id are. Without a device, Amplitude makes one of the user.
    fn key(&self, event: &Event) -> Result<Option<String>, Fault> {
        let parts: &[&str] = match event.find("/device_id") {
            Some(_) => &["/device_id", "/insert_id"],
            None => &["/device_id", "/insert_id", "/user_id"],
        };
        Ok(event.find("/insert_id").map(|_| compound(event, parts)))
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("/revenue", "revenue"),
            ("/price", "price"),
            ("/quantity", "quantity"),
            ("/productId", "productId"),
            ("/revenueType", "revenueType"),
        ]
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add(event, self.named(), out);
        add_members(event, "/event_properties", &[], out);
    }
}
