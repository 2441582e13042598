//! The settings, in alphabetical order; the rest of the crate calls the accessors.

use crate::backend::session;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;

static ALLOW_DROP: GucSetting<bool> = GucSetting::<bool>::new(false);
static AUDIT_BUFFER: GucSetting<i32> = GucSetting::<i32>::new(4096);
static BATCH_MAX_EVENTS: GucSetting<i32> = GucSetting::<i32>::new(100_000);
static INCOMPLETE: GucSetting<Incomplete> = GucSetting::<Incomplete>::new(Incomplete::Error);
static INGEST_OPTIONS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static KEY_COMMAND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static PENDING_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(4096);
static PROPERTIES_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64);
static SCOPE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static WORKER_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static WORKER_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10);
static WORKER_ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// What a metric does whose raw events are not whole. An error by default: a number that nobody knows to be too small does
/// more harm than one that is missing.
#[derive(Clone, Copy, PostgresGucEnum)]
pub enum Incomplete {
    #[name = c"error"]
    Error,
    #[name = c"mark"]
    Mark,
}

/// Whether `DROP EXTENSION` may take the events along. Off, since nothing brings them back.
pub fn allow_drop() -> bool {
    ALLOW_DROP.get()
}

/// Bytes of shared memory for the entries of one listed database's audit log that wait for the worker. 4 MB hold some 15,000 of
/// them: the worker, which comes every two seconds, is woken when half of it is full.
pub fn audit_buffer() -> usize {
    AUDIT_BUFFER.get() as usize * 1024
}

/// Events that one ingest call may carry. 100,000 typical events are 25 MB of text, parsed in a tenth of a second.
pub fn batch_max_events() -> usize {
    BATCH_MAX_EVENTS.get() as usize
}

/// Options for every ingest call that doesn't give them itself, a JSON object; `None` where there are none. One setting for
/// all of them: doors that take rows, not arguments, have no other place for them.
pub fn ingest_options() -> Option<CString> {
    INGEST_OPTIONS.get().filter(|value| !value.is_empty())
}

/// Command that prints key-encrypting keys; `None` where none is set.
pub fn key_command() -> Option<String> {
    text(&KEY_COMMAND)
}

/// File that holds key-encrypting keys; `None` where none is set.
pub fn key_file() -> Option<String> {
    text(&KEY_FILE)
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().map(|text| text.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
}

/// Bytes of pending rows that ingest lets a rollup have before it folds them itself, on average. 4 MB is what GIN allows
/// its own pending list by default: about 20,000 rows, a few milliseconds for a reader to merge.
pub fn pending_limit() -> u64 {
    PENDING_LIMIT.get() as u64 * 1024
}

/// Size in bytes that an event's properties may have as they are stored, as jsonb that is not compressed. 64 kB is above what product events carry (the median of
/// real ones is below 1 kB) and small enough that a batch of the largest stays in memory.
pub fn properties_max_size() -> usize {
    PROPERTIES_MAX_SIZE.get() as usize * 1024
}

/// The scope of the running transaction as `scope` wrote it; `None` where nothing entered one.
pub fn scope() -> Option<CString> {
    SCOPE.get().filter(|value| !value.is_empty())
}

/// Names in a list that commas separate.
fn names(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    let text = setting.get().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Databases that the background worker looks after.
pub fn worker_databases() -> Vec<String> {
    names(&WORKER_DATABASES)
}

/// Pause between two rounds of the background worker. In 10 seconds a busy writer appends some tens of thousands of
/// pending rows: a fraction of a second to fold, some milliseconds for a reader.
pub fn worker_interval() -> std::time::Duration {
    std::time::Duration::from_secs(WORKER_INTERVAL.get() as u64)
}

/// Login role that the background worker acts as.
pub fn worker_role() -> Option<String> {
    names(&WORKER_ROLE).pop()
}

/// Defines the settings and reserves their prefix.
pub fn define() {
    GucRegistry::define_bool_guc(
        c"tally.allow_drop",
        c"Whether DROP EXTENSION pg_tally may drop the events with it.",
        c"Off, it is refused while there are events. Set it in the session that is to drop them.",
        &ALLOW_DROP,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tally.audit_buffer",
        c"Shared memory for audit entries that wait for the background worker, for each database in tally.worker_databases.",
        c"Taken when the server starts. Where it is full, entries go to the server's log alone, and one entry tells how many.",
        &AUDIT_BUFFER,
        256,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"tally.batch_max_events",
        c"Events that one ingest call may carry.",
        c"A larger batch is refused whole, with nothing stored.",
        &BATCH_MAX_EVENTS,
        1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"tally.incomplete",
        c"What a metric does where raw events that it needs are gone.",
        c"error raises SQLSTATE 55T20; mark answers with exact = false, says from when on the events are whole, and warns.",
        &INCOMPLETE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"tally.ingest_options",
        c"Options of ingest calls that don't give them: a JSON object, as the argument of tally.ingest().",
        c"Keys: all_or_nothing, on_conflict (quarantine, ignore, error), source, client, traceparent. Set it LOCAL in a pool.",
        &INGEST_OPTIONS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"tally.key_command",
        c"Command that prints the keys with which the keys of protected data are encrypted, where no file holds them.",
        c"Run in a shell by each session that first needs them. Put no secret into the command itself.",
        &KEY_COMMAND,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
    );
    GucRegistry::define_string_guc(
        c"tally.key_file",
        c"File with the keys with which the keys of protected data are encrypted.",
        c"A key of 32 bytes a line, in hexadecimal or base64; the server's user alone may read it.",
        &KEY_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
    );
    GucRegistry::define_int_guc(
        c"tally.pending_limit",
        c"Size of a rollup's pending rows within which ingest keeps them by folding.",
        c"Smaller makes reads faster, larger makes ingest steadier; maintain() folds before it is reached.",
        &PENDING_LIMIT,
        64,
        1_048_576,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"tally.properties_max_size",
        c"Size that the properties of one event may have as they are stored.",
        c"As jsonb that is not compressed, often more than as text. An event with larger properties is rejected.",
        &PROPERTIES_MAX_SIZE,
        1,
        1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_string_guc(
        c"tally.scope",
        c"The scope of the running transaction.",
        c"Written by tally.enter() alone; no user can set it.",
        &SCOPE,
        GucContext::Suset,
        GucFlags::NO_SHOW_ALL | GucFlags::NO_RESET_ALL | GucFlags::DISALLOW_IN_FILE,
    );
    GucRegistry::define_string_guc(
        c"tally.worker_databases",
        c"Databases, separated by commas, in which the background worker does the housekeeping of tally.maintain().",
        c"Needs shared_preload_libraries; a database added here gets its worker when the server restarts.",
        &WORKER_DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tally.worker_interval",
        c"Pause between two rounds of the background worker.",
        c"Shorter keeps readers faster, longer makes fewer small transactions.",
        &WORKER_INTERVAL,
        1,
        3600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"tally.worker_role",
        c"Login role that the background worker acts as.",
        c"A member of tally_admin, neither superuser nor BYPASSRLS: the worker refuses those.",
        &WORKER_ROLE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    session::reserve_prefix(c"tally");
}
