//! What became of events: the words and numbers that batches and the quarantine are kept with.

use std::borrow::Cow;

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Duplicate,
    Conflict,
    Rejected { sqlstate: Cow<'static, str>, reason: String },
}

impl Outcome {
    /// The word for it in summaries and in the quarantine.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::Conflict => "conflict",
            Outcome::Rejected { .. } => "rejected",
        }
    }

    /// Whether the event isn't valid.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Outcome::Rejected { .. })
    }

    /// Why the event isn't accepted, with its error code.
    pub fn reason(&self) -> (&str, &str) {
        match self {
            Outcome::Accepted => ("00000", ""),
            Outcome::Duplicate => ("00000", "the event is there already"),
            Outcome::Conflict => ("23505", "an event with this event_id and other content is there already"),
            Outcome::Rejected { sqlstate, reason } => (sqlstate, reason),
        }
    }
}

/// Counts of the outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: i64,
    pub duplicates: i64,
    pub conflicts: i64,
    pub rejected: i64,
}

impl Counts {
    /// Adds what was counted elsewhere.
    pub fn add_all(&mut self, other: &Counts) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.rejected += other.rejected;
    }

    /// Counts one more outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Accepted => &mut self.accepted,
            Outcome::Duplicate => &mut self.duplicates,
            Outcome::Conflict => &mut self.conflicts,
            Outcome::Rejected { .. } => &mut self.rejected,
        } += 1;
    }
}
