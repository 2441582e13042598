//! Events in the form that `tally.ingest` takes, one on a line or in an array, for files; `event_id` may be a key of any form here.

use super::json::Value;
use super::{Event, Fault, Paths, Property, Vendor, add_members, one_or_many};

pub(super) struct Tally;

impl Vendor for Tally {
    fn paths(&self) -> &'static Paths {
        &Paths {
            tenant: &["/tenant_id"],
            account: &["/account_id"],
            user: &["/user_id"],
            session: &["/session_id"],
            name: &["/name"],
            time: &["/occurred_at"],
            key: &["/event_id"],
            properties: &["/properties"],
            more_properties: &[],
        }
    }

    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        one_or_many(document, &[], out);
        Ok(())
    }

    fn is_told_by_content(&self) -> bool {
        false
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add_members(event, "/properties", &[], out);
    }
}
