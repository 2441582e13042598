//! What a caller may ask of one ingest call, and what it tells about itself: `tally.ingest_options`, and the argument of
//! that name, whose keys come first.

use super::failure::IngestError;
use crate::backend::session;
use crate::raw::store::Lineage;
use crate::settings;
use serde::Deserialize;
use serde_json::Value;
use tally_core::{id, traceparent};

/// Bytes of options as text: many times what their keys take.
const MOST_BYTES: usize = 16_384;

/// What becomes of an event whose key is there with other content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// It waits in quarantine.
    #[default]
    Quarantine,
    /// It is counted as a conflict and kept nowhere.
    Ignore,
    /// The call fails, with nothing stored.
    Error,
}

/// The keys of the JSON object.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    all_or_nothing: Option<bool>,
    on_conflict: Option<OnConflict>,
    source: Option<String>,
    client: Option<String>,
    traceparent: Option<String>,
}

/// How one call is done, and where it came from.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Any event that isn't accepted or a duplicate fails the call.
    pub all_or_nothing: bool,
    pub on_conflict: OnConflict,
    pub lineage: Lineage,
}

impl Options {
    /// The options of a call whose argument is text, null where there is none.
    pub fn read_text(argument: Option<&str>) -> Result<Self, IngestError> {
        if let Some(text) = argument {
            check_size(text, "options")?;
        }
        let value = argument.map(serde_json::from_str).transpose();
        Self::read(value.map_err(|error| IngestError::Options(format!("options: {error}")))?)
    }

    /// The options of a call: the argument's keys before those of the setting.
    pub fn read(argument: Option<Value>) -> Result<Self, IngestError> {
        let setting = match settings::ingest_options() {
            Some(text) => {
                let text = text.to_string_lossy();
                check_size(&text, "tally.ingest_options")?;
                let value = serde_json::from_str(&text)
                    .map_err(|error| IngestError::Options(format!("tally.ingest_options: {error}")))?;
                parse(value, "tally.ingest_options")?
            }
            None => Given::default(),
        };
        let given = argument.map_or_else(|| Ok(Given::default()), |value| parse(value, "options"))?;
        let text = |field: &str, text: Option<String>| match text {
            Some(text) => match id::check(&text) {
                Ok(()) => Ok(Some(text)),
                Err(error) => Err(IngestError::Options(format!("{field} {}", error.problem()))),
            },
            None => Ok(None),
        };
        let header = given.traceparent.or(setting.traceparent);
        let trace = header.as_deref().and_then(traceparent::parse);
        if let (Some(header), None) = (&header, trace) {
            // The header comes from whoever called the caller: a bad one must not cost events.
            pgrx::warning!("traceparent \"{}\" is not valid and is not kept", header.escape_default());
        }
        Ok(Self {
            all_or_nothing: given.all_or_nothing.or(setting.all_or_nothing).unwrap_or_default(),
            on_conflict: given.on_conflict.or(setting.on_conflict).unwrap_or_default(),
            lineage: Lineage {
                caller: session::session_role_name(),
                source: text("source", given.source.or(setting.source))?,
                client: text("client", given.client.or(setting.client))?.or_else(session::application_name),
                trace_id: trace.map(|trace| trace.trace_id.to_owned()),
                span_id: trace.map(|trace| trace.span_id.to_owned()),
            },
        })
    }
}

/// Refuses what would take much memory only to be refused.
fn check_size(text: &str, place: &str) -> Result<(), IngestError> {
    if text.len() > MOST_BYTES {
        return Err(IngestError::Options(format!(
            "{place} has {} bytes, and may have {MOST_BYTES}",
            text.len()
        )));
    }
    Ok(())
}

fn parse(value: Value, place: &str) -> Result<Given, IngestError> {
    if !value.is_object() {
        return Err(IngestError::Options(format!("{place} is not a JSON object")));
    }
    serde_json::from_value(value).map_err(|error| IngestError::Options(format!("{place}: {error}")))
}
