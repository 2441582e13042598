//! OpenTelemetry: logs in OTLP's JSON. A record becomes an object of its own members, its attributes an object; resource and scope
//! stand beside it, with their attributes likewise.

use super::ga4::integer;
use super::json::{Lists, Value, is_named};
use super::{Common, Event, Fault, NOWHERE, Paths, Property, Vendor, add, add_members, batch};
use std::borrow::Cow;
use std::rc::Rc;

pub(super) struct OpenTelemetry;

impl Vendor for OpenTelemetry {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/attributes/user.id", "/attributes/enduser.id"],
            session: &["/attributes/session.id"],
            // Nanoseconds.
            time: &["/timeUnixNano", "/observedTimeUnixNano"],
            key: &["/attributes/log.record.uid"],
            properties: &["/attributes"],
            ..NOWHERE
        }
    }

    fn lists(&self) -> Lists {
        &[(1, "resourceLogs"), (3, "scopeLogs"), (5, "logRecords")]
    }

    fn events<'a>(&self, mut document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        let Some(resources) = batch(&mut document, "resourceLogs")? else {
            // A record alone.
            out.push(Event::new(document, &[]));
            return Ok(());
        };
        for mut of_resource in resources {
            // What can't be told apart costs nothing beside it.
            if let Err(fault) = has_list(&of_resource, "scopeLogs") {
                out.push(unread(&of_resource, fault));
                continue;
            }
            let scopes = batch(&mut of_resource, "scopeLogs")?.unwrap_or_default();
            let resource = of_resource.take("resource");
            let is_good = |scope: &Value| has_list(scope, "logRecords").is_ok();
            let first_other = scopes.iter().position(|scope| !is_good(scope));
            let (scopes, others): (Vec<_>, Vec<_>) = scopes.into_iter().partition(is_good);
            // The resource is printed once for all of them.
            let fault = others.first().and_then(|first| has_list(first, "logRecords").err());
            let mut unread = fault.map(|fault| alone(&resource, others, fault));
            let resource = common("resource", resource);
            for (number, mut of_scope) in scopes.into_iter().enumerate() {
                // Where the first of them stood: others before it are good.
                if first_other == Some(number) {
                    out.extend(unread.take());
                }
                let scope = common("scope", of_scope.take("scope"));
                let records = batch(&mut of_scope, "logRecords")?.unwrap_or_default();
                let shared = [resource.clone(), scope];
                out.extend(records.into_iter().map(|record| Event::made(record, flat, &shared)));
            }
            out.extend(unread);
        }
        Ok(())
    }

    fn name(&self, event: &Event) -> Result<Option<String>, Fault> {
        let name = event.text(&["/eventName", "/attributes/event.name"])?;
        // A record that isn't an event is a line of a log.
        Ok(Some(name.unwrap_or_else(|| "log".into())))
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[("/severityText", "severity"), ("/body", "body")]
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add(event, self.named(), out);
        add_members(event, "/attributes", &["event.name", "log.record.uid"], out);
    }
}

/// A fault where a value is no object with a list at a key, or without any.
fn has_list(value: &Value, key: &str) -> Result<(), Fault> {
    let Value::Object(members) = value else {
        return Err(Fault::new("", "22023", format!("is {}, not an object", value.kind())));
    };
    match members.iter().rfind(|(written, _)| is_named(written, key)) {
        None | Some((_, Value::Array(_))) => Ok(()),
        Some((_, other)) => {
            Err(Fault::new(format!("/{key}"), "22023", format!("is {}, not an array", other.kind())))
        }
    }
}

/// What no records can be made of, as a text that can't be read.
fn unread<'a>(value: &Value, fault: Fault) -> Event<'a> {
    let mut text = String::new();
    value.print(&mut text);
    Event::fault(Fault { text: Some(text), ..fault })
}

/// The same of scopes, with their resource.
fn alone<'a>(resource: &Option<Value<'a>>, scopes: Vec<Value<'a>>, fault: Fault) -> Event<'a> {
    let mut members = vec![(Cow::Borrowed("\"scopeLogs\""), Value::Array(scopes))];
    members.extend(resource.clone().map(|resource| (Cow::Borrowed("\"resource\""), resource)));
    unread(&Value::Object(members), fault)
}

/// What stands beside records, under its name.
fn common<'a>(name: &str, value: Option<Value<'a>>) -> Rc<Common<'a>> {
    let value = value.unwrap_or(Value::Object(vec![]));
    let span = value.span();
    Common::made(Value::Object(vec![(format!("\"{name}\"").into(), flat(value))]), span)
}

/// A resource, scope or record with its attributes as an object and its body as what it says.
fn flat<'a>(mut value: Value<'a>) -> Value<'a> {
    let attributes = value.take("attributes").map(object);
    let body = value.take("body").map(plain);
    if let Value::Object(members) = &mut value {
        members.extend(attributes.map(|attributes| (Cow::Borrowed("\"attributes\""), attributes)));
        members.extend(body.map(|body| (Cow::Borrowed("\"body\""), body)));
    }
    value
}

/// A list of keys and values as an object; what is none stays.
fn object<'a>(list: Value<'a>) -> Value<'a> {
    let Value::Array(elements) = list else { return list };
    let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(elements.len());
    for mut element in elements {
        if let Some(Value::String(key)) = element.take("key") {
            members.push((key, element.take("value").map_or(Value::NULL, plain)));
        }
    }
    Value::Object(members)
}

/// What a value of one of OTLP's types says.
fn plain<'a>(mut value: Value<'a>) -> Value<'a> {
    let Value::Object(members) = &value else { return value };
    if members.len() != 1 {
        return value;
    }
    if let Some(found) = value.take("intValue") {
        return match &found {
            Value::String(_) => integer(&found).unwrap_or(found),
            _ => found,
        };
    }
    for name in ["stringValue", "boolValue", "doubleValue", "bytesValue"] {
        if let Some(found) = value.take(name) {
            return found;
        }
    }
    let values = |mut list: Value<'a>| list.take("values").unwrap_or(list);
    if let Some(list) = value.take("arrayValue") {
        return match values(list) {
            Value::Array(elements) => Value::Array(elements.into_iter().map(plain).collect()),
            other => other,
        };
    }
    match value.take("kvlistValue") {
        Some(list) => object(values(list)),
        None => value,
    }
}
