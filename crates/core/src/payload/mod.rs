//! Payloads that other systems send: translated into events by what their documentation says and a mapping adds. A file a
//! format.
//!
//! A payload is one JSON value or one on each line (or, of Snowplow, lines of tab-separated values). Each format makes events of it,
//! in one form: an object that paths lead into. What a batch says for all of its events stands beside them once.

mod amplitude;
mod cloudevents;
mod event;
mod exposure;
mod ga4;
mod json;
mod key;
mod mapping;
mod mixpanel;
mod moment;
mod otel;
mod posthog;
mod segment;
mod snowplow;
mod tally;

pub use exposure::{Protected, exposed};
pub use ga4::is_made_session;
pub use mapping::Mapping;

use crate::event::{
    BOM, BatchError, EventRef, FIELD_NAMES, Fields, FieldsParser, Limits, Rejection, format_timestamp,
    parse_uuid,
};
use crate::jsonb::excerpt;
use crate::jsonb::scan::{quote, skip_space};
use event::{Common, Event, Found};
use json::{Flaw, Flaws, Lists, NotJson, Reader, Value};
use key::Known;
use mapping::Place;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The formats, by the names that users give them.
const FORMATS: [(&str, &dyn Vendor); 9] = [
    ("amplitude", &amplitude::Amplitude),
    ("cloudevents", &cloudevents::CloudEvents),
    ("ga4", &ga4::Ga4),
    ("mixpanel", &mixpanel::Mixpanel),
    ("opentelemetry", &otel::OpenTelemetry),
    ("posthog", &posthog::PostHog),
    ("segment", &segment::Segment),
    ("snowplow", &snowplow::Snowplow),
    ("tally", &tally::Tally),
];

/// The most bytes that the events of a payload take, translated or put into quarantine. Without it, a batch whose head is
/// large and whose events are many would be copied for each of them.
const MADE_BYTES: usize = 128 << 20;

/// A format of payloads.
#[derive(Clone, Copy)]
pub struct Format {
    name: &'static str,
    vendor: &'static dyn Vendor,
}

impl Format {
    /// The names of all formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|(name, _)| *name)
    }

    /// The format of a name.
    pub fn of(name: &str) -> Option<Self> {
        FORMATS.iter().find(|(known, _)| *known == name).map(|&(name, vendor)| Self { name, vendor })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// Tenant and account of the caller's scope, which hold where the event names none.
#[derive(Clone, Copy, Default)]
pub struct Home<'a> {
    pub tenant: Option<&'a str>,
    pub account: Option<&'a str>,
}

/// One event of a payload.
pub struct Translated<'a> {
    /// The fields, or why there are none.
    fields: Result<[Option<String>; FIELD_NAMES.len()], Rejection>,
    event: Event<'a>,
    format: &'static str,
    mapping: String,
    /// Whose event it is, as far as is known: an erasure looks for that in quarantine.
    tenant: Option<String>,
    user: Option<String>,
    /// The id that was made for it, where the event alone doesn't lead to it.
    id: Option<String>,
    /// Whether it is kept as a text, which is rejected again.
    is_text: bool,
}

impl Translated<'_> {
    /// Whether its id was made from its place, in the payload or in a stream.
    pub fn has_made_id(&self) -> bool {
        self.id.is_some()
    }

    /// The event, by the rules of every event.
    pub fn event(&self, parser: &mut FieldsParser) -> Result<EventRef<'_>, Rejection> {
        let mut fields: Fields = [None; FIELD_NAMES.len()];
        for (field, text) in fields.iter_mut().zip(self.fields.as_ref().map_err(Clone::clone)?) {
            *field = text.as_deref();
        }
        parser.event(&fields)
    }

    /// The event as the payload has it, with format and mapping: what quarantine keeps of it, and [`Waiting`] reads. Counts the bytes
    /// that were made so far of a payload's events, and refuses to go on above a limit.
    pub fn body(&self, made: &mut usize) -> Result<String, BatchError> {
        let mut body = String::from("{\"format\":");
        quote(self.format, &mut body);
        body.push_str(",\"mapping\":");
        quote(&self.mapping, &mut body);
        for (name, id) in [("tenant_id", &self.tenant), ("user_id", &self.user), ("event_id", &self.id)] {
            if let Some(id) = id {
                body.push_str(&format!(",\"{name}\":"));
                quote(id, &mut body);
            }
        }
        match &self.event.own {
            // As a string: what it says of format and mapping is its sender's word.
            Err(Fault { text: Some(text), .. }) => {
                body.push_str(",\"text\":");
                quote(text, &mut body);
            }
            _ if self.is_text => {
                let mut text = String::new();
                self.event.print(&mut text);
                body.push_str(",\"text\":");
                quote(&text, &mut body);
            }
            _ => {
                body.push_str(",\"payload\":");
                self.event.print(&mut body);
            }
        }
        body.push('}');
        count(made, body.len())?;
        Ok(body)
    }
}

fn count(made: &mut usize, bytes: usize) -> Result<(), BatchError> {
    *made += bytes;
    if *made <= MADE_BYTES {
        return Ok(());
    }
    let reason = format!(
        "the events of the payload take more than {MADE_BYTES} bytes, each with what it shares with others"
    );
    Err(BatchError::of_size(reason))
}

/// An event that waits in quarantine as its payload had it.
pub struct Waiting<'a> {
    /// The name of the mapping; empty for none.
    pub mapping: String,
    id: Option<String>,
    payload: Result<Value<'a>, Fault>,
    flaw: Option<Flaw>,
}

impl<'a> Waiting<'a> {
    /// Reads a quarantined text; `None` where it can't be [`Translated::body`]'s. That it is must be known otherwise: anybody can send such a
    /// text as an event.
    pub fn read(body: &'a str) -> Option<Self> {
        if !body.starts_with("{\"format\":") {
            return None;
        }
        let mut reader = Reader::of_printed(body);
        let mut value = reader.whole(0, body.len()).ok()?;
        let flaw = reader.take_flaws().first().map(|(_, flaw)| *flaw);
        let mapping = value.take("mapping")?;
        let payload = match value.take("payload") {
            Some(payload) => Ok(payload),
            None => Err(unread(value.take("text")?.text().ok()?.into_owned())),
        };
        let id = value.take("event_id").and_then(|id| Some(id.text().ok()?.into_owned()));
        Some(Self { id, mapping: mapping.text().ok()?.into_owned(), payload, flaw })
    }

    /// Translates it again: what waits is one event, whatever it has that would make several of a payload.
    pub fn translate(self, format: Format, mapping: &Mapping, home: Home) -> Translated<'a> {
        let event = self.payload.map_or_else(Event::fault, |payload| Event::new(payload, &[]));
        translated(format, &self.mapping, mapping, home, event, self.flaw, Known::Before(self.id))
    }
}

/// Of a text that waits because its format couldn't read it.
fn unread(text: String) -> Fault {
    let reason =
        "is a text that its format couldn't read: have it sent again as it should be, and discard this one";
    Fault { text: Some(text), ..Fault::new("", "22P02", reason) }
}

/// The text that a format could make no event of, where a quarantined body has one.
pub fn unread_text(body: &str) -> Option<String> {
    match Waiting::read(body)?.payload {
        Ok(Value::Object(_)) => None,
        Ok(other) => {
            let mut text = String::new();
            other.print(&mut text);
            Some(text)
        }
        Err(fault) => fault.text,
    }
}

/// Translates a payload. `named` is the mapping's name; empty for none. `pause` is called between two events: it may end all of it.
pub fn translate<'a>(
    format: Format,
    text: &'a str,
    (named, mapping): (&str, &Mapping),
    home: Home,
    limits: &Limits,
    pause: &mut dyn FnMut(),
) -> Result<Vec<Translated<'a>>, BatchError> {
    if text.len() > limits.batch_bytes {
        let reason = format!("payload has {} bytes, at most {} are allowed", text.len(), limits.batch_bytes);
        return Err(BatchError::of_size(reason));
    }
    let text = text.strip_prefix(BOM).unwrap_or(text);
    let mut out = Vec::new();
    let mut made = 0;
    let (mut seen, mut said) = (key::Seen::default(), 0);
    for (text, document, flaws) in documents(format, text, limits.keys.is_some())? {
        let mut events = Vec::new();
        let read = document.and_then(|document| format.vendor.events(document, &mut events));
        let read = match flaws.first() {
            // What stands in the place of a value that wasn't read says nothing of it.
            Some((_, flaw)) if read.is_err() && flaw.is_unread() => Err(Fault::of(*flaw)),
            Some((_, flaw)) if events.is_empty() => read.and(Err(Fault::of(*flaw))),
            _ => read,
        };
        if let Err(fault) = read {
            // What can't be told apart is kept as it came.
            events.push(Event::fault(Fault { text: Some(text.to_owned()), ..fault }));
        }
        if out.len() + events.len() > limits.batch_events {
            return Err(BatchError::of_events("payload", limits.batch_events));
        }
        let flaws = flaws_of(text, &mut events, &flaws, &mut made, pause)?;
        for (number, event) in events.into_iter().enumerate() {
            pause();
            let known = match &limits.keys {
                Some(keys) => Known::Placed(keys.id(out.len())),
                None => Known::Seen(&mut seen, &mut said),
            };
            let flaw = flaws.get(number).copied().flatten();
            let event = translated(format, named, mapping, home, event, flaw, known);
            count(&mut said, 0)?;
            count(&mut made, event.fields.iter().flatten().flatten().map(String::len).sum())?;
            out.push(event);
        }
    }
    Ok(out)
}

/// The flaw of each event that has one, in what is its own or in what it shares. A value that no event has, as the time at which a batch was sent, costs
/// none; a key might have been any, and costs each.
/// What an event shares is part of its text: `made` counts the bytes.
fn flaws_of(
    text: &str,
    events: &mut [Event],
    flaws: &Flaws,
    made: &mut usize,
    pause: &mut dyn FnMut(),
) -> Result<Vec<Option<Flaw>>, BatchError> {
    if flaws.is_empty() {
        return Ok(vec![]);
    }
    let (mut noted, mut inside) = (HashSet::new(), vec![false; flaws.len()]);
    events.iter().for_each(|event| event.note(flaws, &mut noted, &mut inside));
    let beside = flaws.iter().zip(inside).find(|((place, _), inside)| !inside && json::is_key(text, *place));
    let beside = beside.map(|((_, flaw), _)| Found { flaw: *flaw, is_shown: false });
    let mut of_common = HashMap::new();
    let mut of_events = Vec::with_capacity(events.len());
    for event in events {
        pause();
        let found = event.flaw(flaws, &mut of_common).or(beside);
        if let Some(Found { flaw, is_shown: false }) = found {
            event.unread(text, flaw, &mut |bytes| count(made, bytes))?;
        }
        of_events.push(found.filter(|found| found.is_shown).map(|found| found.flaw));
    }
    Ok(of_events)
}

/// A value of a payload: its text, what it is, and what is wrong in it.
type Document<'a> = (&'a str, Result<Value<'a>, Fault>, Flaws);

/// The values of a payload, each with its text: one, or one a line. A line that isn't one costs no other; of a stream, which couldn't go on
/// past it otherwise, it costs itself also where there is no other.
fn documents(format: Format, text: &str, is_stream: bool) -> Result<Vec<Document<'_>>, BatchError> {
    let unreadable = |NotJson { offset, reason, sqlstate }| BatchError {
        reason: match sqlstate {
            "22032" => format!("payload is not JSON: {reason}"),
            _ => reason.to_owned(),
        },
        sqlstate,
        is_of_events: false,
        offset,
    };
    let not_json = |error: &NotJson| Fault::new("", "22P02", format!("is not JSON: {}", error.reason));
    let lines = || {
        let mut from = 0;
        text.split_inclusive('\n').filter_map(move |line| {
            let start = from;
            from += line.len();
            let line = line.trim_end_matches(['\n', '\r']);
            (skip_space(line.as_bytes(), 0) < line.len()).then_some((start, start + line.len()))
        })
    };
    let mut reader = Reader::of_events(text, format.vendor.lists());
    if format.vendor.is_table(text) {
        let row = |(from, to)| (&text[from..to], format.vendor.row(&text[from..to]), vec![]);
        let rows: Vec<_> = lines().map(row).collect();
        if !(rows.is_empty() && is_stream) {
            return Ok(rows);
        }
    }
    let error = match reader.whole(0, text.len()) {
        Ok(value) => return Ok(vec![(text, Ok(value), reader.take_flaws())]),
        Err(error) if error.sqlstate == "22032" => error,
        Err(error) => return Err(unreadable(error)),
    };
    let mut documents = Vec::new();
    let mut any = false;
    let mut reader = Reader::new(text);
    for (from, to) in lines() {
        let document = match reader.whole(from, to) {
            Ok(value) => {
                any |= matches!(value, Value::Object(_) | Value::Array(_));
                Ok(value)
            }
            Err(error) if error.sqlstate == "22032" => Err(not_json(&error)),
            Err(error) => return Err(unreadable(error)),
        };
        let flaws = reader.take_flaws();
        documents.push((&text[from..to], document, flaws));
    }
    if is_stream && documents.is_empty() {
        documents.push((text, Err(not_json(&error)), vec![]));
    }
    if is_stream || any && documents.len() > 1 { Ok(documents) } else { Err(unreadable(error)) }
}

/// Why an event of a payload is none of ours: the path at fault, and what is wrong there.
#[derive(Debug, Clone)]
struct Fault {
    path: String,
    sqlstate: &'static str,
    reason: String,
    /// The text at fault, where no event can be made of it.
    text: Option<String>,
}

impl Fault {
    #[cold]
    fn new(path: impl Into<String>, sqlstate: &'static str, reason: impl Into<String>) -> Self {
        Self { path: path.into(), sqlstate, reason: reason.into(), text: None }
    }

    #[cold]
    fn of(flaw: Flaw) -> Self {
        let (sqlstate, reason) = flaw.told();
        Self::new("", sqlstate, reason)
    }

    #[cold]
    fn rejection(self, tenant: Option<String>) -> Rejection {
        let reason = match self.path.as_str() {
            "" => format!("event {}", self.reason),
            path => format!("{} {}", excerpt(path), self.reason),
        };
        Rejection { field: self.path, reason, sqlstate: self.sqlstate, event_id: None, tenant_id: tenant }
    }
}

fn text(path: &str, value: &Value) -> Result<String, Fault> {
    value.text().map(Cow::into_owned).map_err(|(sqlstate, reason)| Fault::new(path, sqlstate, reason))
}

/// The text of a key, a number's in one spelling.
fn key_text(path: &str, value: &Value) -> Result<String, Fault> {
    value.key().map(Cow::into_owned).map_err(|(sqlstate, reason)| Fault::new(path, sqlstate, reason))
}

/// A property: its name as it is written in JSON, and the value.
type Property<'e, 'a> = (Cow<'e, str>, Cow<'e, Value<'a>>);

/// Where a format has its fields, one path after the other.
struct Paths {
    tenant: &'static [&'static str],
    account: &'static [&'static str],
    user: &'static [&'static str],
    session: &'static [&'static str],
    name: &'static [&'static str],
    time: &'static [&'static str],
    key: &'static [&'static str],
    /// Where properties are, each an object.
    properties: &'static [&'static str],
    /// Where else properties may be, if there is an object.
    more_properties: &'static [&'static str],
}

const NOWHERE: Paths = Paths {
    tenant: &[],
    account: &[],
    user: &[],
    session: &[],
    name: &[],
    time: &[],
    key: &[],
    properties: &[],
    more_properties: &[],
};

/// What a format knows of its events.
trait Vendor: Sync {
    fn paths(&self) -> &'static Paths;

    /// The arrays in which a batch has its events.
    fn lists(&self) -> Lists {
        &[]
    }

    /// Makes events of a value.
    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault>;

    /// Paths outside of where properties are that lead to one, and the name that it has.
    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Adds the properties.
    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>);

    /// The account, where another path goes before.
    fn account(&self, _: &Event) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// The name, where it isn't at a path.
    fn name(&self, _: &Event) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// The session, where it isn't at a path.
    fn session(&self, _: &Event) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// Whether what an event says tells it from every other, where it has no key.
    fn is_told_by_content(&self) -> bool {
        true
    }

    /// Where an event has what its delivery adds and changes from one attempt to the next: of an event without a key it tells none from
    /// another.
    fn of_delivery(&self) -> &'static [&'static str] {
        &[]
    }

    /// What tells the event from every other, where that isn't at a path.
    fn key(&self, _: &Event) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// Whether the payload isn't JSON but lines with columns.
    fn is_table(&self, _: &str) -> bool {
        false
    }

    /// The value that a line with columns stands for.
    fn row<'a>(&self, _: &'a str) -> Result<Value<'a>, Fault> {
        Err(Fault::new("", "22P02", "is not JSON"))
    }
}

fn translated<'a>(
    format: Format,
    named: &str,
    mapping: &Mapping,
    home: Home,
    event: Event<'a>,
    flaw: Option<Flaw>,
    known: Known,
) -> Translated<'a> {
    let mut tenant = None;
    // First, so that a fault elsewhere leaves the event the id that it has.
    let key = key::event_id(format, mapping, &event, known);
    let event_id = key.as_ref().ok().and_then(|key| parse_uuid(&key.id));
    let id = key.as_ref().ok().and_then(|key| key.made.then(|| key.id.clone()));
    let fields = fields(format, mapping, home, &event, key, &mut tenant);
    let fields = flaw.map_or(fields, |flaw| Err(Fault::of(flaw)));
    let tenant = tenant.filter(|tenant| crate::id::check(tenant).is_ok());
    let user = field(&event, mapping, "user", format.vendor.paths().user, || Ok(None)).ok().flatten();
    Translated {
        fields: fields.map_err(|fault| Rejection { event_id, ..fault.rejection(tenant.clone()) }),
        event,
        tenant,
        user,
        id,
        is_text: flaw.is_some_and(Flaw::is_unread),
        format: format.name,
        mapping: named.to_owned(),
    }
}

/// The text of a field at the mapping's places, else at the format's.
fn field(
    event: &Event,
    mapping: &Mapping,
    field: &str,
    paths: &[&str],
    own: impl FnOnce() -> Result<Option<String>, Fault>,
) -> Result<Option<String>, Fault> {
    field_read(event, mapping, field, paths, own, text)
}

/// The same with the values' texts read otherwise.
fn field_read(
    event: &Event,
    mapping: &Mapping,
    field: &str,
    paths: &[&str],
    own: impl FnOnce() -> Result<Option<String>, Fault>,
    read: fn(&str, &Value) -> Result<String, Fault>,
) -> Result<Option<String>, Fault> {
    let Some(places) = mapping.places(field) else {
        return match own()? {
            Some(text) => Ok(Some(text)),
            None => paths.iter().find_map(|path| event.find(path).map(|value| read(path, value))).transpose(),
        };
    };
    for place in places {
        match place {
            Place::Text(text) => return Ok(Some(text.clone())),
            Place::Path(path) => {
                if let Some(value) = event.find(path) {
                    return read(path, value).map(Some);
                }
            }
        }
    }
    Ok(None)
}

/// Where a field was looked for, for a message.
fn looked_for(mapping: &Mapping, field: &str, paths: &[&str]) -> String {
    let paths: Vec<&str> = match mapping.places(field) {
        Some(places) => places
            .iter()
            .filter_map(|place| match place {
                Place::Path(path) => Some(path.as_str()),
                Place::Text(_) => None,
            })
            .collect(),
        None => paths.to_vec(),
    };
    paths.join(" or ")
}

#[cold]
fn missing(mapping: &Mapping, field: &str, column: &str, paths: &[&str]) -> Fault {
    match looked_for(mapping, field, paths) {
        places if places.is_empty() => {
            let reason = format!("has no {column}: the format has no place for it, and no mapping names one");
            Fault::new("", "23502", reason)
        }
        places => Fault::new(places, "23502", format!("is missing, which {column} is read from")),
    }
}

/// The fields in the order of [`FIELD_NAMES`].
fn fields(
    format: Format,
    mapping: &Mapping,
    home: Home,
    event: &Event,
    key: Result<key::Key, Fault>,
    seen_tenant: &mut Option<String>,
) -> Result<[Option<String>; FIELD_NAMES.len()], Fault> {
    let (vendor, paths) = (format.vendor, format.vendor.paths());
    let none = || Ok(None);
    // Of one that is none, too: the mapping may say whose all events are.
    let tenant = field(event, mapping, "tenant", paths.tenant, none)
        .map(|tenant| tenant.or(home.tenant.map(str::to_owned)));
    seen_tenant.clone_from(tenant.as_ref().unwrap_or(&None));
    match &event.own {
        Err(fault) => return Err(fault.clone()),
        Ok(Value::Object(_)) => {}
        Ok(other) => return Err(Fault::new("", "22023", format!("is {}, not an object", other.kind()))),
    }
    for path in paths.properties {
        match event.find(path) {
            None | Some(Value::Object(_)) => {}
            Some(Value::Array(elements)) if elements.is_empty() => {}
            Some(other) => {
                return Err(Fault::new(*path, "22023", format!("is {}, not an object", other.kind())));
            }
        }
    }
    let tenant = tenant?.ok_or_else(|| missing(mapping, "tenant", "tenant_id", paths.tenant))?;
    let account = field(event, mapping, "account", paths.account, || vendor.account(event))?
        .or(home.account.map(str::to_owned));
    let account = account.ok_or_else(|| missing(mapping, "account", "account_id", paths.account))?;
    let name = field(event, mapping, "name", paths.name, || vendor.name(event))?;
    let name = name.ok_or_else(|| missing(mapping, "name", "name", paths.name))?;
    let name = mapping.names.get(&name).cloned().unwrap_or(name);
    let user = field(event, mapping, "user", paths.user, none)?;
    let session = field(event, mapping, "session", paths.session, || vendor.session(event))?;
    Ok([
        Some(tenant),
        Some(account),
        Some(name),
        Some(occurred_at(mapping, event, paths.time)?),
        Some(key?.id),
        user.clone(),
        session,
        Some(properties(vendor, mapping, event, user.as_deref())),
    ])
}

fn occurred_at(mapping: &Mapping, event: &Event, paths: &[&str]) -> Result<String, Fault> {
    let given = mapping.places("time");
    let given = given.into_iter().flatten().map(|place| match place {
        Place::Path(path) => (path.as_str(), None),
        Place::Text(text) => ("/time", Some(Value::of_text(text))),
    });
    let own = paths.iter().map(|path| (*path, None)).filter(|_| mapping.places("time").is_none());
    for (path, fixed) in given.chain(own) {
        if let Some(value) = fixed.as_ref().or_else(|| event.find(path)) {
            // Proto3's JSON has 0 for a time that isn't known.
            if matches!(value.text().as_deref(), Ok("0")) {
                continue;
            }
            return moment::read(value, mapping.zone.as_deref().unwrap_or("Z"))
                .map(format_timestamp)
                .map_err(|(sqlstate, reason)| Fault::new(path, sqlstate, format!("is no time: {reason}")));
        }
    }
    Err(missing(mapping, "time", "occurred_at", paths))
}

/// The properties as the text of a JSON object. A name that comes twice counts as the last. What the format takes the user's id from is
/// none where it says the same: where user ids are protected it would stand there in clear.
fn properties(vendor: &dyn Vendor, mapping: &Mapping, event: &Event, user: Option<&str>) -> String {
    let mut found = Vec::new();
    vendor.properties(event, &mut found);
    let places = vendor.paths();
    let of_user: Vec<&str> = places
        .user
        .iter()
        .filter_map(|path| {
            places.properties.iter().find_map(|place| path.strip_prefix(place)?.strip_prefix('/'))
        })
        .collect();
    found.retain(|(name, value)| {
        !of_user.iter().any(|of_user| json::is_named(name, of_user))
            || user.is_none_or(|user| value.text().map_or(true, |text| text != user))
    });
    for (name, path) in &mapping.properties {
        if let Some(value) = event.whole(path) {
            found.push((Cow::Owned(json::quoted(name)), value));
        }
    }
    let mut out = String::from("{");
    for (name, value) in json::last_of_each(&found) {
        if mapping.omit.iter().any(|omitted| json::is_named(name, omitted)) {
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(name);
        out.push(':');
        value.print_once(&mut out);
    }
    out.push('}');
    out
}

/// Makes an event of each object of an array, or of the one that there is.
fn one_or_many<'a>(document: Value<'a>, shared: &[Rc<Common<'a>>], out: &mut Vec<Event<'a>>) {
    match document {
        Value::Array(elements) => out.extend(elements.into_iter().map(|element| Event::new(element, shared))),
        other => out.push(Event::new(other, shared)),
    }
}

/// Takes the array at a key of a batch; the rest of the batch is what its events share. `None` where there is none.
fn batch<'a>(document: &mut Value<'a>, key: &str) -> Result<Option<Vec<Value<'a>>>, Fault> {
    match document.take(key) {
        None => Ok(None),
        Some(Value::Array(elements)) => Ok(Some(elements)),
        Some(other) => {
            Err(Fault::new(format!("/{key}"), "22023", format!("is {}, not an array", other.kind())))
        }
    }
}

/// Adds the members of the object at a path as properties, but for those named.
fn add_members<'e, 'a>(event: &'e Event<'a>, path: &str, without: &[&str], out: &mut Vec<Property<'e, 'a>>) {
    let is_kept = |key: &str| !without.iter().any(|name| json::is_named(key, name));
    match event.whole(path) {
        Some(Cow::Borrowed(Value::Object(members))) => {
            let kept = members.iter().filter(|(key, _)| is_kept(key));
            out.extend(kept.map(|(key, value)| (Cow::Borrowed(&**key), Cow::Borrowed(value))));
        }
        Some(Cow::Owned(Value::Object(members))) => {
            let kept = members.into_iter().filter(|(key, _)| is_kept(key));
            out.extend(kept.map(|(key, value)| (Cow::Owned(key.into_owned()), Cow::Owned(value))));
        }
        _ => {}
    }
}

/// Adds members as properties.
fn add_all<'e, 'a>(members: &'e [(Cow<'a, str>, Value<'a>)], out: &mut Vec<Property<'e, 'a>>) {
    out.extend(members.iter().map(|(key, value)| (Cow::Borrowed(&**key), Cow::Borrowed(value))));
}

/// Adds what is at paths of the event as properties.
fn add<'e, 'a>(
    event: &'e Event<'a>,
    named: &[(&'static str, &'static str)],
    out: &mut Vec<Property<'e, 'a>>,
) {
    for (path, name) in named {
        if let Some(value) = event.whole(path) {
            out.push((Cow::Owned(json::quoted(name)), value));
        }
    }
}

/// The values at paths as one text, each told apart from the next, however they are spelt.
fn compound(event: &Event, paths: &[&str]) -> String {
    let parts = paths.iter().map(|path| event.whole(path).map_or(Value::NULL, Cow::into_owned)).collect();
    Value::Array(parts).canonical(false)
}
