//! Whether a table may be written below the executor: not where something that only the executor heeds would be skipped.

use super::heap::{TableError, name};
use super::types::OID_EQ;
use core::ffi::CStr;
use core::ptr;
use pgrx::pg_sys::{self, Oid, ffi::pg_guard_ffi_boundary};

/// What is to be done with a table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Append,
    /// Rows are replaced; their key stays.
    Replace,
    Delete,
}

unsafe extern "C-unwind" {
    /// Postgres' own: the tables that inherit from one.
    fn find_inheritance_children(parent: Oid, lock: pg_sys::LOCKMODE) -> *mut pg_sys::List;
}

/// Refuses a table that isn't a plain heap, or that has something that a write below the executor would skip.
///
/// # Safety
/// The relation is open, with a lock.
pub(super) unsafe fn check(relation: pg_sys::Relation, write: Write) -> Result<(), TableError> {
    // SAFETY: the caller's promise; what the relcache entry points to lives as long as the relation is open.
    unsafe {
        let form = &*(*relation).rd_rel;
        let refuse = |problem: &str, hint: &'static str| {
            Err(TableError::Kind { table: name(relation), problem: problem.to_owned(), hint })
        };
        let restore = "pg_tally writes below the executor, to plain heap tables of its own alone; put the table back as it was";
        let kind = form.relkind as u8;
        if kind != pg_sys::RELKIND_RELATION {
            return refuse(
                match kind {
                    pg_sys::RELKIND_VIEW => "is a view",
                    pg_sys::RELKIND_MATVIEW => "is a materialized view",
                    pg_sys::RELKIND_FOREIGN_TABLE => "is a foreign table",
                    pg_sys::RELKIND_PARTITIONED_TABLE => "is partitioned",
                    _ => "is not an ordinary heap table",
                },
                restore,
            );
        }
        if form.relam != pg_sys::HEAP_TABLE_AM_OID {
            return refuse("has another access method than heap", "ALTER TABLE ... SET ACCESS METHOD heap");
        }
        match form.relpersistence as u8 {
            pg_sys::RELPERSISTENCE_PERMANENT => {}
            pg_sys::RELPERSISTENCE_UNLOGGED => {
                return refuse(
                    "is unlogged: a crash would empty it",
                    "ALTER TABLE ... SET LOGGED; what is acknowledged must outlive a crash",
                );
            }
            _ => return refuse("is temporary", restore),
        }
        if !(*relation).rd_rules.is_null() {
            return refuse(
                "has a rule",
                "rules don't fire below the executor: DROP RULE, and use a view of your own",
            );
        }
        if let Some(trigger) = skipped(relation, write) {
            return refuse(
                &format!(
                    "has the {} \"{trigger}\"",
                    if write == Write::Append { "insert trigger" } else { "trigger" }
                ),
                "pg_tally writes below the executor, where neither triggers nor foreign keys fire: drop it; tally.ingest_batch and the views tell what came in",
            );
        }
        let id = (*relation).rd_id;
        if form.relhassubclass
            && !pg_guard_ffi_boundary(move || find_inheritance_children(id, pg_sys::NoLock as _)).is_null()
        {
            return refuse(
                "has tables that inherit from it",
                "ALTER TABLE ... NO INHERIT; their rows would be read and never folded",
            );
        }
        if is_distributed((*relation).rd_id) {
            return refuse(
                "is distributed by Citus",
                "rows appended here would lie in the local shell of the table, where nobody reads them: undistribute_table() it; docs/SCALING.md says how tenants are spread",
            );
        }
        Ok(())
    }
}

/// Whether Citus has a table in its catalogue.
unsafe fn is_distributed(table: Oid) -> bool {
    let catalogue = Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
    // SAFETY: cached look-ups of constant names, remembered also where there is none; a catalogue scan that is closed again.
    unsafe {
        let list = pg_sys::get_relname_relid(c"pg_dist_partition".as_ptr(), catalogue);
        if list == Oid::INVALID {
            return false;
        }
        let column = pg_sys::get_attnum(list, c"logicalrelid".as_ptr());
        if column <= 0 {
            return false;
        }
        let index = pg_sys::get_relname_relid(c"pg_dist_partition_logical_relid_index".as_ptr(), catalogue);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut key,
            column,
            pg_sys::BTEqualStrategyNumber as u16,
            Oid::from(OID_EQ),
            table.into(),
        );
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let list = pg_sys::table_open(list, lock);
        let scan =
            pg_sys::systable_beginscan(list, index, index != Oid::INVALID, ptr::null_mut(), 1, &raw mut key);
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(list, lock);
        found
    }
}

/// A trigger that should fire for such a write and wouldn't below the executor. Of foreign keys, those that refer to the table
/// matter only where a row goes: a row that is replaced keeps its key.
///
/// # Safety
/// The relation is open.
unsafe fn skipped(relation: pg_sys::Relation, write: Write) -> Option<String> {
    let wanted = match write {
        Write::Append => pg_sys::TRIGGER_TYPE_INSERT,
        Write::Replace => pg_sys::TRIGGER_TYPE_UPDATE,
        Write::Delete => pg_sys::TRIGGER_TYPE_DELETE,
    };
    // SAFETY: the caller's promise; the description has `numtriggers` triggers.
    unsafe {
        let triggers = (*relation).trigdesc.as_ref()?;
        let triggers = core::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize);
        let skipped = triggers.iter().find(|trigger| {
            let is_ours_to_skip = write == Write::Replace
                && pg_sys::RI_FKey_trigger_type(trigger.tgfoid) == pg_sys::RI_TRIGGER_PK as i32;
            trigger.tgtype as u32 & wanted != 0
                && trigger.tgenabled as u8 != pg_sys::TRIGGER_DISABLED
                && !is_ours_to_skip
        })?;
        Some(CStr::from_ptr(skipped.tgname).to_string_lossy().into_owned())
    }
}
