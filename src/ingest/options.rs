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

/// What becomes of a batch whose stream misses positions before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// It is stored, and the answer and the stream's row say what is missing.
    #[default]
    Report,
    /// The call fails, with nothing stored.
    Refuse,
}

/// A position as JSON has it: a number, or its digits, for languages whose numbers end before. `field` names it in a message.
fn position(field: &str, given: &Value) -> Result<i64, IngestError> {
    let number = match given {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    };
    let problem =
        || IngestError::Options(format!("{field} is not a whole number from 0 to 9223372036854775807"));
    number.filter(|number| *number >= 0).ok_or_else(problem)
}

/// The stream that a batch is a piece of.
#[derive(Clone, Debug)]
pub struct Stream {
    pub name: String,
    /// Positions of the first and of the last thing in the batch.
    pub first: i64,
    pub position: i64,
    /// The position of each event, where the call lists them.
    pub positions: Option<Vec<i64>>,
    pub on_gap: OnGap,
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
    stream: Option<String>,
    first: Option<Value>,
    position: Option<Value>,
    /// Positions of one event, or two of as many as there are from one to the other.
    positions: Option<Vec<Value>>,
    on_gap: Option<OnGap>,
}

/// The positions that are listed, in order.
fn listed(runs: Vec<Value>) -> Result<Vec<i64>, IngestError> {
    let most = settings::batch_max_events();
    let mut positions: Vec<i64> = Vec::new();
    for run in runs {
        let read = |given: &Value| position("a position, or an end of a range, in positions", given);
        let (from, to) = match &run {
            Value::Array(ends) if ends.len() == 2 => (read(&ends[0])?, read(&ends[1])?),
            one => (read(one)?, read(one)?),
        };
        if from > to || positions.last().is_some_and(|last| *last > from) {
            return Err(IngestError::Options("positions are not in order".into()));
        }
        if usize::try_from(to - from).map_or(true, |further| further >= most - positions.len()) {
            let problem = format!("positions are more than {most}, the most events of a batch");
            return Err(IngestError::Options(problem));
        }
        positions.extend(from..=to);
    }
    Ok(positions)
}

impl Given {
    fn names_a_stream(&self) -> bool {
        self.stream.is_some()
            || self.first.is_some()
            || self.position.is_some()
            || self.positions.is_some()
            || self.on_gap.is_some()
    }

    fn stream(&mut self) -> Result<Option<Stream>, IngestError> {
        let wrong = |problem: &str| Err(IngestError::Options(problem.into()));
        let Some(name) = self.stream.take() else {
            if self.names_a_stream() {
                return wrong("first, position, positions and on_gap are of a stream, which isn't named");
            }
            return Ok(None);
        };
        if let Err(error) = id::check(&name) {
            return wrong(&format!("stream {}", error.problem()));
        }
        let read = |field: &str, given: Option<Value>| given.map(|given| position(field, &given)).transpose();
        let (first, position) = (read("first", self.first.take())?, read("position", self.position.take())?);
        let positions = self.positions.take().map(listed).transpose()?;
        let ends = positions.as_deref().and_then(|all| Some((*all.first()?, *all.last()?)));
        let Some(position) = position.or(ends.map(|(_, last)| last)) else {
            return wrong("a stream needs a position");
        };
        let first = first.or(ends.map(|(first, _)| first)).unwrap_or(position);
        if first > position {
            return wrong("first is greater than position");
        }
        if ends.is_some_and(|(least, greatest)| least < first || greatest > position) {
            return wrong("positions go beyond first and position");
        }
        Ok(Some(Stream { name, first, position, positions, on_gap: self.on_gap.unwrap_or_default() }))
    }
}

/// How one call is done, and where it came from.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Any event that isn't accepted or a duplicate fails the call.
    pub all_or_nothing: bool,
    pub on_conflict: OnConflict,
    pub lineage: Lineage,
    pub stream: Option<Stream>,
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
                let setting = parse(value, "tally.ingest_options")?;
                if setting.names_a_stream() {
                    // It would hold for every call of the transaction, and for every piece of a COPY.
                    return Err(IngestError::Options(
                        "a stream is an option of one call, not of tally.ingest_options".into(),
                    ));
                }
                setting
            }
            None => Given::default(),
        };
        let mut given = argument.map_or_else(|| Ok(Given::default()), |value| parse(value, "options"))?;
        let stream = given.stream()?;
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
            stream,
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
