//! Why an ingest call fails.

use crate::backend::heap::TableError;
use crate::backend::lock::Busy;
use crate::backend::report::{Report, raised_by_pgrx};
use crate::privacy::PrivacyFailure;
use crate::quota::QuotaError;
use crate::raw::ledger::NotSerializable;
use crate::rollup::RollupError;
use crate::scope::ScopeError;
use tally_core::event::{BatchError, CodecError};
use tally_core::payload::Format;

/// Why a whole ingest call fails, with nothing stored.
#[derive(Debug)]
pub enum IngestError {
    /// The text can't be split into events, or is over a limit.
    Batch(BatchError),
    /// A stored value of the SQL type can't be read.
    Codec(CodecError),
    /// A payload of another system can't be read.
    Payload(BatchError),
    /// There is no format, or no mapping, of this name; or the mapping is one for another format.
    Format(String),
    Mapping(String),
    MappingOf {
        mapping: String,
        format: String,
    },
    /// A mapping isn't what it should be.
    BadMapping(String),
    /// The stream is not at the position that the batch begins at.
    OutOfOrder(String),
    /// Events have no places in their stream, or others than the call says.
    Places(String),
    /// The stream belongs to another role.
    Stream {
        stream: String,
        owner: String,
    },
    /// There is no batch: the argument is null.
    NoBatch,
    /// The options aren't what they should be.
    Options(String),
    /// Keys that events must be closed up with are missing.
    Privacy(PrivacyFailure),
    /// A tenant is over its quota.
    Quota(QuotaError),
    /// An event wasn't accepted, and the caller wanted all or nothing.
    Refused(Refusal),
    Scope(ScopeError),
    Append(TableError),
    /// A month's partition can't be made: others' transactions are making one.
    Busy(Busy),
    /// At repeatable read or above: a concurrent transaction committed one of the events.
    NotSerializable,
    /// A declared rollup can't be evaluated at all.
    Rollup(RollupError),
}

/// The event that fails a call whose options want that.
#[derive(Debug)]
pub struct Refusal {
    pub position: usize,
    pub event_id: Option<[u8; 16]>,
    pub outcome: &'static str,
    pub sqlstate: String,
    pub reason: String,
    /// Events that would have gone the same way, this one included.
    pub refused: i64,
    pub sent: usize,
}

impl From<BatchError> for IngestError {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

impl From<PrivacyFailure> for IngestError {
    fn from(error: PrivacyFailure) -> Self {
        Self::Privacy(error)
    }
}

impl From<QuotaError> for IngestError {
    fn from(error: QuotaError) -> Self {
        Self::Quota(error)
    }
}

impl From<CodecError> for IngestError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl From<ScopeError> for IngestError {
    fn from(error: ScopeError) -> Self {
        Self::Scope(error)
    }
}

impl From<TableError> for IngestError {
    fn from(error: TableError) -> Self {
        Self::Append(error)
    }
}

impl From<Busy> for IngestError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<NotSerializable> for IngestError {
    fn from(_: NotSerializable) -> Self {
        Self::NotSerializable
    }
}

impl From<RollupError> for IngestError {
    fn from(error: RollupError) -> Self {
        Self::Rollup(error)
    }
}

impl From<IngestError> for Report {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Batch(problem) => {
                let (code, hint) = match over_limit(&problem) {
                    Some(hint) => ("54000", hint),
                    None => (
                        "22032",
                        "send the text of one JSON object or of an array of them, as JSON.stringify or json.dumps makes it; nothing of this batch was stored",
                    ),
                };
                Report::new(code, problem.reason).detail(format!("at byte {}", problem.offset)).hint(hint)
            }
            IngestError::Codec(error) => Report::new("XX001", error.reason),
            IngestError::Payload(problem) => {
                let hint = over_limit(&problem).unwrap_or(
                    "docs/ingest.md says what each format is, one JSON document or one on each line; nothing of this payload was stored",
                );
                Report::new(problem.sqlstate, problem.reason).detail(format!("at byte {}", problem.offset)).hint(hint)
            }
            IngestError::Format(format) => {
                let known: Vec<&str> = Format::names().collect();
                Report::new("22023", format!("unknown format \"{format}\"")).hint(format!("formats are {}", known.join(", ")))
            }
            IngestError::Mapping(name) => Report::new("42704", format!("there is no mapping \"{name}\""))
                .hint("an administrator declares it with tally.define_mapping(name, format, mapping)"),
            IngestError::MappingOf { mapping, format } => {
                Report::new("22023", format!("mapping \"{mapping}\" is one for the format {format}"))
                    .hint("give that format, or another mapping")
            }
            IngestError::BadMapping(problem) => Report::new("22023", problem).hint(
                "a mapping is an object of places, such as {\"account\": \"/context/groupId\"}, with the keys tenant, account, user, session, name, time, event_id, zone, names, properties and omit",
            ),
            IngestError::OutOfOrder(problem) => Report::new("55T21", problem)
                .hint("begin with the position after tally.stream_position(stream); nothing of this batch was stored"),
            IngestError::Places(problem) => Report::new("22023", problem).hint(
                "send an event for each position from first to position, or list the events' positions, such as [4700, [4702, 4711]], or give each event an event_id; nothing of this batch was stored",
            ),
            IngestError::Stream { stream, owner } => {
                Report::new("42501", format!("stream \"{stream}\" belongs to role \"{owner}\""))
                    .hint("its own login, or a member of it, sends it; or choose another name")
            }
            IngestError::NoBatch => Report::new("22004", "the events must not be null")
                .hint("send an empty array where there are none; a null may be a parameter that was never set"),
            IngestError::Options(problem) => Report::new("22023", problem).hint(
                "options are a JSON object with the keys all_or_nothing (true, false), on_conflict (quarantine, ignore, error), source, client and traceparent, and of a stream stream, position, first, positions and on_gap (report, refuse)",
            ),
            IngestError::Privacy(error) => error.into(),
            IngestError::Quota(error) => error.into(),
            IngestError::Refused(Refusal { position, event_id, outcome, sqlstate, reason, refused, sent }) => {
                let id = event_id.map_or("unknown".into(), |id| tally_core::event::format_uuid(&id));
                Report::new(sqlstate.clone(), format!("event {position} (event_id {id}): {outcome}: {reason}"))
                    .detail(format!("{refused} of {sent} events like this, SQLSTATE {sqlstate} in quarantine"))
                    .hint("nothing of this batch was stored; leave out the options all_or_nothing and on_conflict to have such events wait in quarantine instead")
            }
            IngestError::Scope(error) => error.into(),
            IngestError::Append(error) => error.into(),
            IngestError::NotSerializable => Report::new(
                "40001",
                "could not serialize access due to a concurrent ingest of the same event",
            )
            .hint("retry the transaction"),
            IngestError::Rollup(error) => error.into(),
            IngestError::Busy(busy) => busy.into(),
        }
    }
}

/// What helps where a batch or a payload is over a limit.
fn over_limit(problem: &BatchError) -> Option<&'static str> {
    match problem {
        BatchError { is_of_events: true, .. } => {
            Some("send fewer events at once, or raise tally.batch_max_events; nothing of these was stored")
        }
        BatchError { sqlstate: "54000", .. } => {
            Some("send it in smaller pieces: no setting allows more; nothing of this one was stored")
        }
        _ => None,
    }
}

raised_by_pgrx!(IngestError);
