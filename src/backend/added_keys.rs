//! Foreign keys between a table of ours and one of somebody else's. Postgres changes rows of the table that refers, or looks for them, as
//! that table's owner, inside the statement that changes ours: its triggers fire as whoever that runs as, those that wait as who commits.

use super::heap::name;
use super::list;
use super::schema;
use super::types::type_name;
use super::version::attribute;
use pgrx::pg_sys::{self, Oid};

/// Triggers of foreign keys that change rows of the table which refers.
const ACTING: [u32; 6] = [
    pg_sys::F_RI_FKEY_CASCADE_DEL,
    pg_sys::F_RI_FKEY_CASCADE_UPD,
    pg_sys::F_RI_FKEY_SETDEFAULT_DEL,
    pg_sys::F_RI_FKEY_SETDEFAULT_UPD,
    pg_sys::F_RI_FKEY_SETNULL_DEL,
    pg_sys::F_RI_FKEY_SETNULL_UPD,
];

/// What is wrong with a foreign key of a table that belongs to `owner`; `code_of`
/// tells what runs where a table is planned.
///
/// # Safety
/// The trigger is one of an open relation.
pub(super) unsafe fn problem(
    trigger: &pg_sys::Trigger,
    owner: Oid,
    code_of: impl FnOnce(pg_sys::Relation) -> Option<String>,
) -> Option<String> {
    let other = trigger.tgconstrrelid;
    if !trigger.tgisinternal || other == Oid::INVALID {
        return None;
    }
    // SAFETY: the relation is open while it is looked at.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(other, lock);
        if relation.is_null() {
            return None;
        }
        let form = &*(*relation).rd_rel;
        let problem = if form.relowner == owner {
            None
        } else if ACTING.contains(&trigger.tgfoid.to_u32()) {
            Some("it changes rows of it".to_owned())
        } else if form.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            // Reading what it is partitioned by computes what is constant of it.
            Some("that one is partitioned".to_owned())
        } else {
            strange_column(relation, trigger.tgconstraint).or_else(|| code_of(relation))
        };
        let other = name(relation);
        pg_sys::relation_close(relation, lock);
        problem.map(|problem| format!("ties it to table \"{other}\" of somebody's ({problem})"))
    }
}

/// A column of the key that isn't of a type of Postgres', so that a cast of somebody's may make it comparable.
///
/// # Safety
/// The relation is open.
unsafe fn strange_column(relation: pg_sys::Relation, key: Oid) -> Option<String> {
    // SAFETY: the caller's promise; a key has as many columns as it says, by their numbers from 1.
    unsafe {
        let keys = pg_sys::RelationGetFKeyList(relation);
        let key = list::items::<pg_sys::ForeignKeyCacheInfo>(keys)
            .map(|key| &*key)
            .find(|one| one.conoid == key)?;
        let of = |&number: &i16| attribute((*relation).rd_att, number as usize - 1).atttypid;
        let columns = key.conkey[..key.nkeys as usize].to_vec();
        columns
            .iter()
            .map(of)
            .find(|&of| !schema::is_of_postgres(pg_sys::getBaseType(of)))
            .map(|of| format!("a column of it has type {}", type_name(of)))
    }
}
