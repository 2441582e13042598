//! The door for payloads of other systems, which are translated by the format's rules and a declared mapping.

use super::door;
use crate::backend::call::{self, Call, sql_function};
use crate::backend::json::Document;
use crate::backend::report::Report;
use crate::backend::scan::{self, Snapshot};
use crate::backend::{session, sql};
use crate::ingest::failure::IngestError;
use crate::ingest::options::Options;
use crate::ingest::pipeline::{self, Home};
use crate::ingest::stream;
use crate::ingest::summary::Summary;
use crate::scope::Scope;
use pgrx::pg_sys::Datum;
use std::collections::HashMap;
use std::rc::Rc;
use tally_core::event::{EventRef, FieldsParser, Item, Limits, Rejection};
use tally_core::payload::{self, Format, Mapping, Protected, Translated, Waiting};

door! {
    /// `ingest_from(format, payload, mapping, options)` with options of type text
    fn ingest_from_wrapper / pg_finfo_ingest_from_wrapper(call) { run(call, Options::read_text(call.text(3))?) }
}

door! {
    /// `ingest_from(format, payload, mapping, options)` with options of type jsonb
    fn ingest_from_with_options_wrapper / pg_finfo_ingest_from_with_options_wrapper(call) {
        run(call, Options::read(Document::argument(call, 3)?)?)
    }
}

/// A mapping as it was declared last.
struct Declared {
    version: i32,
    format: String,
    mapping: Mapping,
}

/// Finds a mapping by its name, as of now: what is protected is known as of now, too, and may have been declared with its newest version.
fn declared(name: &str) -> Result<Declared, IngestError> {
    let statement = format!(
        "SELECT m.version, m.format, m.definition::text FROM tally.payload_mapping AS m \
          WHERE m.mapping_name = {} ORDER BY m.version DESC LIMIT 1",
        sql::literal(name)
    );
    let found = session::as_owner(|| scan::texts(&statement, Snapshot::Latest));
    let Some(Ok([Some(version), Some(format), Some(text)])) =
        found.into_iter().next().map(<[Option<String>; 3]>::try_from)
    else {
        return Err(IngestError::Mapping(name.to_owned()));
    };
    let version = version.parse().expect("a number");
    Ok(Declared { version, format, mapping: Mapping::parse(&text).map_err(IngestError::BadMapping)? })
}

fn format(name: &str) -> Result<Format, IngestError> {
    Format::of(name).ok_or_else(|| IngestError::Format(name.to_owned()))
}

fn run(call: &Call, mut options: Options) -> Result<Summary, Report> {
    let scope = pipeline::admit()?;
    let format = format(call.text(0).unwrap_or_default())?;
    let text = call.text(1).ok_or(IngestError::NoBatch)?;
    let name = call.text(2).unwrap_or_default();
    let (mapping, source) = match name {
        "" => (Mapping::default(), format.name().to_owned()),
        name => {
            let declared = declared(name)?;
            if declared.format != format.name() {
                return Err(IngestError::MappingOf { mapping: name.into(), format: declared.format }.into());
            }
            (declared.mapping, format!("{} by {name}, version {}", format.name(), declared.version))
        }
    };
    options.lineage.source.get_or_insert(source);
    let (tenant, account) = match &scope {
        Scope::Global => (None, None),
        Scope::Tenant { tenant, account } => (Some(tenant.as_str()), account.as_deref()),
    };
    let keys = options.stream.as_ref().map(|stream| stream::keys(&scope, stream));
    let limits = Limits { keys, ..pipeline::limits() };
    let home = payload::Home { tenant, account };
    let translated =
        payload::translate(format, text, (name, &mapping), home, &limits, &mut session::check_for_interrupts)
            .map_err(IngestError::Payload)?;
    if let Some(stream) = &options.stream {
        stream::check_places(stream, translated.len(), translated.iter().any(Translated::has_made_id))?;
    }
    let mut parser = FieldsParser::new(&limits);
    let mut made = 0;
    let judged: Vec<(String, Result<EventRef, Rejection>)> = translated
        .iter()
        .map(|one| {
            let event = one.event(&mut parser);
            // The text of an event that is accepted is never asked for.
            let body = if event.is_ok() { String::new() } else { one.body(&mut made)? };
            Ok((body, event))
        })
        .collect::<Result<_, _>>()
        .map_err(IngestError::Payload)?;
    let (bodies, events): (Vec<String>, Vec<_>) = judged.into_iter().unzip();
    let items = bodies
        .iter()
        .zip(events)
        .enumerate()
        .map(|(position, (raw, event))| Item { position, raw, event })
        .collect();
    pipeline::run_payload(items, format.name(), scope, options)
}

/// Translates quarantined events of payloads again, each by the newest version of its mapping, for the tenant and account in whose scope
/// it was sent; `None` for events that came otherwise, or whose mapping is gone or one for another format. That one is of a payload, and
/// of which format, says its row, which only the pipeline writes: what its text says is its sender's word.
pub fn retranslate<'a>(
    quarantined: impl Iterator<Item = (&'a str, Option<&'a str>, &'a Home)>,
) -> Vec<Option<Translated<'a>>> {
    let mut known: HashMap<(String, &str), Option<Rc<Mapping>>> = HashMap::new();
    quarantined
        .map(|(body, format, (tenant, account))| {
            let format = Format::of(format?)?;
            let waiting = Waiting::read(body)?;
            let of_format = |declared: &Declared| declared.format == format.name();
            let mapping = known.entry((waiting.mapping.clone(), format.name())).or_insert_with(|| {
                match waiting.mapping.as_str() {
                    "" => Some(Rc::new(Mapping::default())),
                    name => declared(name).ok().filter(of_format).map(|declared| Rc::new(declared.mapping)),
                }
            });
            let mapping = mapping.clone()?;
            let some = |id: &'a String| (!id.is_empty()).then_some(id.as_str());
            let home = payload::Home { tenant: some(tenant), account: some(account) };
            Some(waiting.translate(format, &mapping, home))
        })
        .collect()
}

sql_function! {
    /// `check_mapping(format, mapping)`: an error unless it can be declared.
    fn check_mapping_wrapper / pg_finfo_check_mapping_wrapper(call) {
        format(call.text(0).unwrap_or_default())?;
        Mapping::parse(call.text(1).unwrap_or_default()).map_err(IngestError::BadMapping)?;
        Ok(Some(Datum::from(0)))
    }
}

sql_function! {
    /// `mapping_exposes(format, mapping, path, protected, taken_back)`: what of a mapping copies a protected property, or with an empty path the
    /// user id, to where it isn't protected; null where nothing does. What was protected until now may be given: then only what that left open counts.
    fn mapping_exposes_wrapper / pg_finfo_mapping_exposes_wrapper(call) {
        let format = format(call.text(0).unwrap_or_default())?;
        let mapping = Mapping::parse(call.text(1).unwrap_or_default()).map_err(IngestError::BadMapping)?;
        let all: Vec<String> = call.texts(3).unwrap_or_default().into_iter().flatten().collect();
        let protected = Protected { path: call.text(2).unwrap_or_default(), all: &all, taken_back: call.text(4) };
        let found = payload::exposed(format, &mapping, &protected);
        Ok(found.map(|key| call::varlena(key.as_bytes())))
    }
}
