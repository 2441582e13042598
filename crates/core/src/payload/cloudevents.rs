//! CloudEvents 1.0 in JSON: structured mode, and the batch format.

use super::json::Value;
use super::{Event, Fault, NOWHERE, Paths, Property, Vendor, add, add_members, compound, one_or_many};

pub(super) struct CloudEvents;

impl Vendor for CloudEvents {
    fn paths(&self) -> &'static Paths {
        &Paths { name: &["/type"], time: &["/time"], more_properties: &["/data"], ..NOWHERE }
    }

    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        one_or_many(document, &[], out);
        Ok(())
    }

    fn name(&self, event: &Event) -> Result<Option<String>, Fault> {
        match event.text(&["/specversion"])? {
            Some(version) if version == "1.0" => Ok(None),
            Some(_) => Err(Fault::new(
                "/specversion",
                "0A000",
                "is not 1.0, the version of CloudEvents that is known",
            )),
            None => Err(Fault::new("/specversion", "23502", "is missing: this is not a CloudEvent")),
        }
    }

    /// The specification's rule: source and id together tell events apart.
    fn key(&self, event: &Event) -> Result<Option<String>, Fault> {
        for path in ["/id", "/source"] {
            if event.find(path).is_none() {
                return Err(Fault::new(path, "23502", "is missing, which event_id is made from"));
            }
        }
        Ok(Some(compound(event, &["/source", "/id"])))
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[("/data", "data"), ("/data_base64", "data_base64"), ("/subject", "subject")]
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        match event.find("/data") {
            Some(Value::Object(_)) => {
                add_members(event, "/data", &[], out);
                add(event, &self.named()[1..], out);
            }
            _ => add(event, self.named(), out),
        }
    }
}
