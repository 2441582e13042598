//! Why a rollup can't be declared, filled or folded.

use crate::backend::expression::ExpressionError;
use crate::backend::heap::TableError;
use crate::backend::lock::Busy;
use crate::backend::report::{Report, raised_by_pgrx};
use crate::backend::take::{Conflict, TakeError};

pub(super) const WHICH_ROLLUP: &str = "tally.rollup lists the declared rollups";

/// What is wrong with a function that a declared expression calls.
#[derive(Debug)]
pub enum Problem {
    /// It takes names from its caller's path.
    Open,
    /// It has its owner's rights.
    Elevated,
    /// It sets this, which reaches further than to how values are read.
    Sets(String),
}

/// Why a rollup can't be declared, filled or folded.
#[derive(Debug)]
pub enum RollupError {
    /// A name that isn't a plain lower-case identifier, or is reserved.
    Name(String),
    /// A grain that doesn't exist.
    Grain(String),
    /// Nothing to measure, or no grain.
    Empty(&'static str),
    /// A measure that isn't of the form `kind(expression) AS name`.
    Measure(String),
    /// Two columns of the same name.
    DuplicateColumn(String),
    /// A column is called like a system column.
    SystemName(String),
    /// A column would take the place of the date that the view of a grain has.
    DateColumn(&'static str),
    /// A dimension whose expression gives it no name.
    NoName(String),
    /// One of an array is null.
    Null(&'static str),
    /// A relation of that name exists.
    Exists(String),
    /// One that comes with the extension is to be altered or dropped.
    BuiltIn(String),
    /// Declaring in a transaction whose snapshot may be older than events that are there.
    OldSnapshot,
    /// Events of buckets from before this moment (text) are gone.
    Frozen(String),
    /// A month that buckets would be made anew from is no partition of the events.
    NoMonth(String),
    /// Somebody's objects stand on a rollup's views or tables, which are to be dropped.
    Depended {
        rollup: String,
        dependents: String,
        hint: &'static str,
    },
    /// Others' transactions hold what is to be locked.
    Busy(Busy),
    /// Too much is pending, and another session keeps this one from folding.
    Behind(String),
    /// One transaction brought more pending rows than there may be, which nobody can fold before it ends.
    TooMuchAtOnce(String),
    /// No such rollup.
    Unknown(String),
    /// A filter that is no condition.
    Filter {
        filter: String,
        found: String,
    },
    /// A type that can't be a dimension or be counted.
    Type {
        column: String,
        found: String,
        hint: &'static str,
    },
    /// A stored state that can't be merged.
    State {
        rollup: String,
        column: String,
        problem: String,
    },
    /// At repeatable read or above: what is to be folded was changed after the snapshot was taken.
    NotSerializable,
    /// A value that the rollup can't hold.
    Value {
        rollup: String,
        column: String,
        problem: &'static str,
    },
    /// The database's objects are of a release that lacks what this needs.
    Outdated,
    /// An expression can't be evaluated for an event that is stored. What the error says isn't told: it may have values of the event.
    Stored {
        rollup: String,
        column: Option<String>,
        sqlstate: String,
    },
    /// A function of somebody's, called by an expression.
    StrangeCode {
        function: String,
        problem: Problem,
    },
    Expression(ExpressionError),
    Append(TableError),
    /// What was done can't be recorded.
    Unrecorded(Report),
}

impl From<ExpressionError> for RollupError {
    fn from(error: ExpressionError) -> Self {
        Self::Expression(error)
    }
}

impl From<Conflict> for RollupError {
    fn from(_: Conflict) -> Self {
        Self::NotSerializable
    }
}

impl From<Busy> for RollupError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<TakeError> for RollupError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Conflict => Self::NotSerializable,
            TakeError::Table(error) => Self::Append(error),
        }
    }
}

impl From<TableError> for RollupError {
    fn from(error: TableError) -> Self {
        Self::Append(error)
    }
}

impl From<RollupError> for Report {
    fn from(error: RollupError) -> Self {
        match error {
            RollupError::Name(name) => {
                Report::new("42602", format!("\"{name}\" can't be used as a name"))
                    .hint("use 1 to 40 lower-case letters, digits and underscores, with a letter first")
            }
            RollupError::Grain(name) => {
                Report::new("22023", format!("unknown grain \"{name}\""))
                    .hint("grains are minute, hour, day, week, month, quarter and year")
            }
            RollupError::Empty(problem) => Report::new("22023", problem).hint(
"a rollup has a grain or more, as '{day,month}', and a measure or more, as 'count(*) AS n'",
),
            RollupError::Measure(text) => Report::new(
                "42601",
                format!("unknown measure \"{text}\""),
            )
            .hint(
                "write kind(expression) AS name, where kind is count, sum, min, max, distinct, percentiles, first, last, days or session_windows",
            ),
            RollupError::DuplicateColumn(name) => {
                Report::new("42701", format!("column \"{name}\" exists already"))
                    .hint("name it otherwise, with AS")
            }
            RollupError::SystemName(name) => {
                Report::new("42701", format!("\"{name}\" is a column that Postgres gives every table"))
                    .hint("name it otherwise, with AS")
            }
            RollupError::DateColumn(name) => {
                Report::new("42701", format!("the view by {name} has a column \"{name}\" by itself, the date on which it begins"))
                    .hint("name yours otherwise, with AS")
            }
            RollupError::NoName(text) => {
                Report::new("42602", format!("dimension \"{text}\" has no name"))
                    .hint("give it one, with AS: properties->>'plan' AS plan")
            }
            RollupError::Null(what) => Report::new("22004", format!("{what} must not be null"))
                .hint("leave out what is null; an empty array is no measure and no dimension"),
            RollupError::BuiltIn(name) => {
                Report::new("2BP01", format!("rollup \"{name}\" comes with pg_tally, which needs it as it is"))
                    .hint("declare one of your own beside it, with tally.create_rollup()")
            }
            RollupError::Exists(name) => {
                Report::new("42P07", format!("relation tally.{name} exists already"))
                    .hint("choose another name, or drop that rollup first with tally.drop_rollup()")
            }
            RollupError::OldSnapshot => Report::new(
                "25001",
                "a rollup can't be declared in a repeatable read or serializable transaction",
            )
            .hint("use read committed: the snapshot may be older than events that the rollup must count"),
            RollupError::Frozen(from) => Report::new(
                "55000",
                format!("the events from before {from} were dropped, so these buckets can't be rebuilt"),
            )
            .hint("they keep the numbers that they have; rebuild a range that begins later"),
            RollupError::NoMonth(month) => Report::new(
                "55000",
                format!("the events of {month} are not there, so buckets that have numbers of them can't be made anew"),
            )
            .hint("somebody detached or dropped that month by hand: attach it again, or rebuild the ranges before and after it; if it won't come back, tally.record_lost_months() notes that, and such buckets keep the numbers that they have. tally.detach_raw() is the way to take months out"),
            RollupError::Depended { rollup, dependents, hint } => Report::new(
                "2BP01",
                format!("other objects depend on views or tables of rollup \"{rollup}\""),
            )
            .detail(dependents)
            .hint(hint),
            RollupError::Busy(busy) => busy.into(),
            RollupError::Behind(name) => Report::new(
                "53400",
                format!("rollup \"{name}\" has too many pending rows, which this call can't fold"),
            )
            .hint("retry in 1 s; if that doesn't help, tally.health() names the transaction that keeps folds from happening; call tally.maintain(), and see that max_worker_processes leaves a process for folds"),
            RollupError::TooMuchAtOnce(name) => Report::new(
                "54000",
                format!("this transaction brings rollup \"{name}\" more pending rows than may wait, which are folded only after it ends"),
            )
            .hint("nothing of it is stored; send the events in several transactions of fewer events, by several COPYs or with a COMMIT now and then"),
            RollupError::Unknown(name) => {
                Report::new("42704", format!("there is no rollup \"{name}\""))
                    .hint(WHICH_ROLLUP)
            }
            RollupError::Filter { filter, found } => {
                Report::new("42804", format!("filter \"{filter}\" has type {found}, and is no condition"))
                    .hint("write what is true or false, as name = 'run': an event whose text is neither would be rejected")
            }
            RollupError::Type { column, found, hint } => {
                Report::new("42804", format!("column \"{column}\" has type {found}"))
                    .hint(hint)
            }
            RollupError::State { rollup, column, problem } => Report::new(
                "XX001",
                format!("rollup \"{rollup}\": a stored {column} can't be merged: {problem}"),
            )
            .hint("tally.verify_rollup() shows which buckets differ from the events, tally.rebuild_rollup() makes them anew"),
            RollupError::NotSerializable => Report::new(
                "40001",
                "could not serialize access due to a concurrent fold of the same rollup",
            )
            .hint("retry the transaction"),
            RollupError::Value { rollup, column, problem } => Report::new(
                "22003",
                format!("rollup \"{rollup}\": {column} {problem}"),
            ),
            RollupError::Outdated => Report::new(
                "55000",
                "rollups can be verified after the update to this release",
            )
            .hint("ALTER EXTENSION pg_tally UPDATE; the objects of this database are of an earlier release than the library"),
            RollupError::Stored { rollup, column, sqlstate } => {
                let what = column.map_or_else(|| "an expression".to_owned(), |column| format!("column \"{column}\""));
                let detail = format!("{what}: SQLSTATE {sqlstate}. The error's own text isn't told, as it may have values of that event.");
                Report::new(sqlstate, format!("rollup \"{rollup}\" can't be computed for an event that is stored"))
                    .detail(detail)
                    .hint("evaluate the expression over tally.events, in the scope of a tenant whose events you may read")
            }
            RollupError::StrangeCode { function, problem: Problem::Open } => Report::new(
                "42P13",
                format!("function {function} in a declared expression has no fixed search_path"),
            )
            .hint(format!("ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp")),
            RollupError::StrangeCode { function, problem: Problem::Elevated } => Report::new(
                "42P13",
                format!("function {function} in a declared expression runs with its owner's rights"),
            )
            .hint(format!("ALTER FUNCTION {function} SECURITY INVOKER; tally_evaluator must be able to execute what it calls")),
            RollupError::StrangeCode { function, problem: Problem::Sets(setting) } => Report::new(
                "42P13",
                format!("function {function} in a declared expression sets {setting}"),
            )
            .hint(format!("ALTER FUNCTION {function} RESET {setting}; it would be set in the session of whoever ingests")),
            RollupError::Expression(error) => error.into(),
            RollupError::Append(error) => error.into(),
            RollupError::Unrecorded(report) => report,
        }
    }
}

raised_by_pgrx!(RollupError);
