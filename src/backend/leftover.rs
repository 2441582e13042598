//! What an earlier client of a session may have left for the next one to fall into.
//!
//! A setting is compared with what it was when the transaction began: what the transaction itself has set is its client's own
//! doing, and what the session began with nobody left.

use super::version::{RESOURCES, settings};
use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, GucSource, Oid, config_group as group, config_type as kind};
use std::cell::RefCell;
use std::collections::HashMap;

/// pg_depend, its index by what is depended on, two of its columns, and `oideq`: fixed numbers of the catalogue.
const PG_DEPEND: u32 = 2608;
const PG_DEPEND_REFERENCE_INDEX: u32 = 2674;
const PG_DEPEND_REFCLASSID: i16 = 4;
const PG_DEPEND_REFOBJID: i16 = 5;
const OID_EQ: u32 = 184;

/// Settings that can't change an answer, beside those of the planner and of memory; and those that Postgres sets by itself.
const HARMLESS: [&[u8]; 15] = [
    b"application_name",
    b"client_connection_check_interval",
    b"client_encoding",
    b"client_min_messages",
    b"debug_pretty_print",
    b"lc_messages",
    b"seed",
    b"session_authorization",
    b"tcp_keepalives_count",
    b"tcp_keepalives_idle",
    b"tcp_keepalives_interval",
    b"tcp_user_timeout",
    b"transaction_deferrable",
    b"transaction_isolation",
    b"transaction_read_only",
];
/// Settings by which a client says how it reads and prints values. Drivers and frameworks send their own, the same for all
/// clients of an application, once they are connected.
const PRESENTATION: [&[u8]; 10] = [
    b"DateStyle",
    b"IntervalStyle",
    b"TimeZone",
    b"bytea_output",
    b"extra_float_digits",
    b"lc_monetary",
    b"lc_numeric",
    b"lc_time",
    b"xmlbinary",
    b"xmloption",
];
/// Milliseconds after which something ends, 0 for never: a lower one makes the next client's statements fail.
const TIMEOUTS: [&[u8]; 5] = [
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"lock_timeout",
    b"statement_timeout",
    b"transaction_timeout",
];

/// Something left.
pub enum Leftover {
    /// By an earlier client of the session.
    Session(String),
    /// For every session of the role, perhaps by one of its clients: the name of a setting.
    Role(String),
}

/// A setting's value.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(i64),
    Real(f64),
    Text(Vec<u8>),
}

thread_local! {
    /// What the presentation settings and timeouts were when the session first entered a scope.
    static FIRST: RefCell<Option<HashMap<&'static [u8], Value>>> = const { RefCell::new(None) };
}

/// What was left; `None` in a fresh session. `of_pool` also where a role's own settings are compared: those of a pool role, which
/// its clients could set.
pub fn leftover(of_pool: bool) -> Option<Leftover> {
    // SAFETY: reads backend state and catalogues.
    unsafe {
        let (mut schema, mut toast) = (Oid::INVALID, Oid::INVALID);
        pg_sys::GetTempNamespaceState(&raw mut schema, &raw mut toast);
        if schema != Oid::INVALID && schema_has_objects(schema) {
            return Some(Leftover::Session("temporary objects".to_owned()));
        }
        // The portal that runs this statement is active, not ready.
        if !pg_sys::ThereAreNoReadyPortals() {
            return Some(Leftover::Session("an open cursor".to_owned()));
        }
    }
    changed_setting(of_pool)
}

/// Whether anything depends on a schema, as everything does that lies in it.
unsafe fn schema_has_objects(schema: Oid) -> bool {
    let mut keys = [pg_sys::ScanKeyData::default(); 2];
    let wanted = [(PG_DEPEND_REFCLASSID, pg_sys::NamespaceRelationId), (PG_DEPEND_REFOBJID, schema)];
    // SAFETY: an index scan of a catalogue with two keys of type oid, closed again.
    unsafe {
        for (key, (column, value)) in keys.iter_mut().zip(wanted) {
            pg_sys::ScanKeyInit(
                key,
                column,
                pg_sys::BTEqualStrategyNumber as u16,
                Oid::from(OID_EQ),
                value.into(),
            );
        }
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::table_open(Oid::from(PG_DEPEND), lock);
        let index = Oid::from(PG_DEPEND_REFERENCE_INDEX);
        let scan =
            pg_sys::systable_beginscan(table, index, true, core::ptr::null_mut(), 2, keys.as_mut_ptr());
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, lock);
        found
    }
}

fn changed_setting(of_pool: bool) -> Option<Leftover> {
    FIRST.with_borrow_mut(|first| {
        let mut own_values = HashMap::new();
        for setting in settings() {
            // SAFETY: a setting of this backend.
            let setting = unsafe { &**setting };
            let by_role =
                matches!(setting.reset_source, GucSource::PGC_S_USER | GucSource::PGC_S_DATABASE_USER);
            // Nearly all settings end here, and there are hundreds: their names and values need not be read.
            let was_set = !setting.stack.is_null() || setting.source >= GucSource::PGC_S_INTERACTIVE;
            if !(was_set || of_pool && by_role) {
                continue;
            }
            // SAFETY: names are C strings that live as long as the setting.
            let name = unsafe { CStr::from_ptr(setting.name) };
            if of_pool && by_role && !may_be_set_for_a_pool(name, setting) {
                return Some(Leftover::Role(name.to_string_lossy().into_owned()));
            }
            // SAFETY: the stack's entries are Postgres' own and end with the one that the transaction began with.
            let (source, now) = unsafe { at_start(setting) };
            if source < GucSource::PGC_S_INTERACTIVE || is_harmless(name, setting) {
                continue;
            }
            // SAFETY: as its type says.
            let reset = unsafe { reset_value(setting) };
            if now == reset {
                continue;
            }
            if let Some(own) =
                PRESENTATION.into_iter().chain(TIMEOUTS).find(|listed| *listed == name.to_bytes())
            {
                let is_longer = TIMEOUTS.contains(&own) && is_longer(&now, &reset);
                if is_longer || first.as_ref().is_none_or(|first| first.get(own) == Some(&now)) {
                    own_values.insert(own, now);
                    continue;
                }
            }
            return Some(Leftover::Session(format!("a changed {}", name.to_string_lossy())));
        }
        first.get_or_insert(own_values);
        None
    })
}

fn is_longer(now: &Value, reset: &Value) -> bool {
    match (now, reset) {
        (Value::Number(0), _) => true,
        (Value::Number(now), Value::Number(reset)) => *reset != 0 && now >= reset,
        _ => false,
    }
}

/// Whether a setting can't change an answer, whatever its value.
fn is_harmless(name: &CStr, setting: &pg_sys::config_generic) -> bool {
    matches!(
        setting.group,
        group::QUERY_TUNING_METHOD
            | group::QUERY_TUNING_COST
            | group::QUERY_TUNING_GEQO
            | group::QUERY_TUNING_OTHER
            | group::RESOURCES_MEM
            | group::STATS_MONITORING
    ) || RESOURCES.contains(&setting.group)
        || HARMLESS.binary_search(&name.to_bytes()).is_ok()
        || matches!(name.to_bytes(), b"tally.scope" | b"force_parallel_mode" | b"debug_parallel_query")
}

/// Whether an administrator may set this for a pool role: what a client would have gained by setting it is nothing, or looked
/// after otherwise (`search_path` by the lint).
fn may_be_set_for_a_pool(name: &CStr, setting: &pg_sys::config_generic) -> bool {
    let name_bytes = name.to_bytes();
    is_harmless(name, setting)
        || setting.context < pg_sys::GucContext::PGC_USERSET
        || PRESENTATION.contains(&name_bytes)
        || TIMEOUTS.contains(&name_bytes)
        || matches!(name_bytes, b"search_path" | b"default_transaction_isolation" | b"local_preload_libraries")
        // SAFETY: as its type says.
        || unsafe { reset_value(setting) == boot_value(setting) }
}

/// Source and value of a setting when the transaction began.
unsafe fn at_start(setting: &pg_sys::config_generic) -> (GucSource::Type, Value) {
    // SAFETY: each entry of the stack leads to the one that lies around it, and keeps what was before.
    unsafe {
        let mut entry = setting.stack;
        if entry.is_null() {
            return (setting.source, present_value(setting));
        }
        while !(*entry).prev.is_null() {
            entry = (*entry).prev;
        }
        let prior = &(*entry).prior.val;
        let value = match setting.vartype {
            kind::PGC_BOOL => Value::Number(prior.boolval.into()),
            kind::PGC_INT => Value::Number(prior.intval.into()),
            kind::PGC_ENUM => Value::Number(prior.enumval.into()),
            kind::PGC_REAL => Value::Real(prior.realval),
            _ => text(prior.stringval),
        };
        ((*entry).source, value)
    }
}

/// A value of a setting's, one of those that every type of setting has.
macro_rules! value_of {
    ($setting:expr, |$typed:ident| $value:expr) => {{
        let setting: *const pg_sys::config_generic = $setting;
        match (*setting).vartype {
            kind::PGC_BOOL => {
                let $typed = &*setting.cast::<pg_sys::config_bool>();
                Value::Number(i64::from($value))
            }
            kind::PGC_INT => {
                let $typed = &*setting.cast::<pg_sys::config_int>();
                Value::Number(i64::from($value))
            }
            kind::PGC_ENUM => {
                let $typed = &*setting.cast::<pg_sys::config_enum>();
                Value::Number(i64::from($value))
            }
            kind::PGC_REAL => {
                let $typed = &*setting.cast::<pg_sys::config_real>();
                Value::Real($value)
            }
            _ => {
                let $typed = &*setting.cast::<pg_sys::config_string>();
                text($value)
            }
        }
    }};
}

unsafe fn present_value(setting: &pg_sys::config_generic) -> Value {
    // SAFETY: the type says which struct the setting is the beginning of.
    unsafe { value_of!(setting, |setting| *setting.variable) }
}

unsafe fn reset_value(setting: &pg_sys::config_generic) -> Value {
    // SAFETY: the type says which struct the setting is the beginning of.
    unsafe { value_of!(setting, |setting| setting.reset_val) }
}

unsafe fn boot_value(setting: &pg_sys::config_generic) -> Value {
    // SAFETY: the type says which struct the setting is the beginning of.
    unsafe { value_of!(setting, |setting| setting.boot_val) }
}

/// A text; none is like an empty one.
unsafe fn text(value: *const c_char) -> Value {
    Value::Text(if value.is_null() {
        Vec::new()
    } else {
        // SAFETY: a C string, since it isn't null.
        unsafe { CStr::from_ptr(value) }.to_bytes().to_vec()
    })
}
