//! What a planned statement reads: whether a policy binds the one who runs it.

use super::list;
use super::version;
use core::ffi::CStr;
use pgrx::pg_sys::{self, CheckEnableRlsResult, Oid};

/// A statement that reads tables or functions.
pub struct Reads<'a>(&'a pg_sys::PlannedStmt);

impl<'a> Reads<'a> {
    /// `None` where it reads nothing.
    ///
    /// # Safety
    /// The statement is one that is about to be executed, or null.
    pub unsafe fn of(statement: *const pg_sys::PlannedStmt) -> Option<Self> {
        // SAFETY: the caller's promise.
        let statement = unsafe { statement.as_ref() }?;
        (!statement.rtable.is_null()).then_some(Self(statement))
    }

    /// Whether a table of the statement that is `meant`, also one that the plan leaves out, has a policy of this name that holds for
    /// whoever reads it.
    pub fn are_bound_by(&self, policy: &CStr, meant: impl Fn(Oid) -> bool) -> bool {
        // SAFETY: the range table is a list of its entries, whose relations the statement has locked.
        unsafe {
            list::items::<pg_sys::RangeTblEntry>(self.0.rtable).any(|entry| {
                let entry = &*entry;
                entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                    && pg_sys::check_enable_rls(entry.relid, version::reader(self.0, entry), true)
                        == CheckEnableRlsResult::RLS_ENABLED as core::ffi::c_int
                    && has_policy(entry.relid, policy)
                    && meant(entry.relid)
            })
        }
    }

    /// Hands each relation to `take`, with a way to ask which of its columns are read; column 0 stands for all of them.
    pub fn relations(&self, mut take: impl FnMut(Oid, &dyn Fn() -> Vec<Column>)) {
        // SAFETY: the range table is a list of its entries.
        unsafe {
            for entry in list::items::<pg_sys::RangeTblEntry>(self.0.rtable) {
                let entry = &*entry;
                if entry.rtekind == pg_sys::RTEKind::RTE_RELATION {
                    take(entry.relid, &|| columns(version::selected(self.0, entry)));
                }
            }
        }
    }

    /// What Postgres computes to tell statements apart; 0 where it doesn't.
    pub fn query_id(&self) -> i64 {
        self.0.queryId as i64
    }
}

/// Number of a column.
pub type Column = i16;

/// The columns that a set of them has; their numbers are shifted, so that system columns have one, too.
unsafe fn columns(set: *const pg_sys::Bitmapset) -> Vec<Column> {
    let (mut found, mut last) = (Vec::new(), -1);
    loop {
        // SAFETY: a set of the statement's, or null, which is the empty one.
        last = unsafe { pg_sys::bms_next_member(set, last) };
        if last < 0 {
            return found;
        }
        found.push((last + pg_sys::FirstLowInvalidHeapAttributeNumber) as Column);
    }
}

/// Name of a relation of the schema tally; `None` of any other.
pub fn own_name(relation: Oid) -> Option<String> {
    // SAFETY: syscache look-ups; the name is a palloc'd C string, or null where there is no such relation.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"tally".as_ptr(), true);
        if schema == Oid::INVALID || pg_sys::get_rel_namespace(relation) != schema {
            return None;
        }
        let name = pg_sys::get_rel_name(relation);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// A relation's kind, and the transaction that wrote last what Postgres' catalogue has of it or of its generated columns; the frozen one
/// where that was long ago. Who says anew what such a column is made of may write the column's row alone.
pub fn kind_and_writer(relation: Oid) -> Option<(u8, u32)> {
    let read = |row: pg_sys::HeapTuple, class: &pg_sys::FormData_pg_class| {
        // SAFETY: a row of the catalogue.
        (class.relkind as u8, unsafe { writer(row) })
    };
    let (kind, mut last) = of_class(relation, read)?;
    // SAFETY: look-ups in the cache, whose rows are read before they are released.
    unsafe {
        for column in generated(relation) {
            let cache = pg_sys::SysCacheIdentifier::ATTNUM as core::ffi::c_int;
            let keys = (pg_sys::Datum::from(relation), pg_sys::Datum::from(column));
            let row = pg_sys::SearchSysCache2(cache, keys.0, keys.1);
            if !row.is_null() {
                let writer = writer(row);
                pg_sys::ReleaseSysCache(row);
                last = if is_before(last, writer) { writer } else { last };
            }
        }
        Some((kind, last))
    }
}

/// # Safety
/// The tuple is a row of a table.
unsafe fn writer(row: pg_sys::HeapTuple) -> u32 {
    // SAFETY: the caller's promise.
    let header = unsafe { &*(*row).t_data };
    let is_frozen = u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN;
    // SAFETY: a row that is no part of a tuple in memory has a transaction there.
    u32::from(if is_frozen { pg_sys::FrozenTransactionId } else { unsafe { header.t_choice.t_heap.t_xmin } })
}

/// How many columns a relation has, with those that were dropped; `None` where there is no such relation. Locks nothing.
pub fn number_of_columns(relation: Oid) -> Option<Column> {
    of_class(relation, |_, class| class.relnatts)
}

/// What `read` takes of a relation's row of pg_class; `None` where there is no such relation.
fn of_class<T>(
    relation: Oid,
    read: impl FnOnce(pg_sys::HeapTuple, &pg_sys::FormData_pg_class) -> T,
) -> Option<T> {
    let cache = pg_sys::SysCacheIdentifier::RELOID as core::ffi::c_int;
    // SAFETY: the row is read before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(relation));
        if row.is_null() {
            return None;
        }
        let taken = read(row, &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>());
        pg_sys::ReleaseSysCache(row);
        Some(taken)
    }
}

/// Whether a relation has a column that is made of others.
pub fn has_generated(relation: Oid) -> bool {
    !generated(relation).is_empty()
}

/// The columns of a relation that are made of others.
fn generated(relation: Oid) -> Vec<Column> {
    // SAFETY: the relation is closed again; its columns are read while it is open.
    unsafe {
        let opened = pg_sys::RelationIdGetRelation(relation);
        if opened.is_null() {
            return Vec::new();
        }
        let descriptor = (*opened).rd_att;
        let mut found = Vec::new();
        // Without defaults there are none.
        if !(*descriptor).constr.is_null() {
            found.extend(
                (0..(*descriptor).natts as usize)
                    .filter(|&place| version::attribute(descriptor, place).attgenerated != 0)
                    .map(|place| place as Column + 1),
            );
        }
        pg_sys::RelationClose(opened);
        found
    }
}

/// Whether one transaction began before another, by their numbers.
pub fn is_before(transaction: u32, other: u32) -> bool {
    // SAFETY: compares numbers.
    unsafe { pg_sys::TransactionIdPrecedes(transaction.into(), other.into()) }
}

/// Whether statements run as a role that nobody logs in as and that our own functions act as.
pub fn are_our_own() -> bool {
    // SAFETY: reads backend state, and syscache look-ups of constant names.
    unsafe {
        let acts = pg_sys::GetUserId();
        [c"tally_owner", c"tally_security", c"tally_evaluator"]
            .into_iter()
            .any(|role| acts == pg_sys::get_role_oid(role.as_ptr(), true))
    }
}

/// Whether a relation has a column of this name.
pub fn has_column(relation: Oid, column: &CStr) -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::get_attnum(relation, column.as_ptr()) != 0 }
}

/// The type of the column of this name; `None` where there is none.
pub fn column_type(relation: Oid, column: &CStr) -> Option<Oid> {
    // SAFETY: syscache look-ups.
    unsafe {
        let number = pg_sys::get_attnum(relation, column.as_ptr());
        (number > 0).then(|| pg_sys::get_atttype(relation, number))
    }
}

/// Whether a relation is a table, partitioned or not.
pub fn is_table(relation: Oid) -> bool {
    // SAFETY: a syscache look-up.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE
}

/// Whether a relation came with the extension, or is a partition, which no declaration makes.
pub fn is_of_extension(relation: Oid) -> bool {
    // SAFETY: catalogue look-ups, of a constant name and of a number.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_tally".as_ptr(), true);
        pg_sys::get_rel_relispartition(relation)
            || extension != Oid::INVALID
                && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) == extension
    }
}

/// Number of the column of this name; 0 where there is none.
pub fn column_number(relation: Oid, column: &CStr) -> Column {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::get_attnum(relation, column.as_ptr()) }
}

/// Schema and name of a relation.
pub fn qualified_name(relation: Oid) -> Option<String> {
    // SAFETY: syscache look-ups; each name is a palloc'd C string, or null.
    unsafe {
        let (name, schema) =
            (pg_sys::get_rel_name(relation), pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)));
        (!name.is_null() && !schema.is_null()).then(|| {
            format!("{}.{}", CStr::from_ptr(schema).to_string_lossy(), CStr::from_ptr(name).to_string_lossy())
        })
    }
}

unsafe fn has_policy(relation: Oid, name: &CStr) -> bool {
    // SAFETY: the relation is closed again; its policies live as long as it is open.
    unsafe {
        let opened = pg_sys::RelationIdGetRelation(relation);
        if opened.is_null() {
            return false;
        }
        let found = (*opened).rd_rsdesc.as_ref().is_some_and(|security| {
            (0..list::length(security.policies)).any(|place| {
                let policy = pg_sys::list_nth(security.policies, place).cast::<pg_sys::RowSecurityPolicy>();
                CStr::from_ptr((*policy).policy_name) == name
            })
        });
        pg_sys::RelationClose(opened);
        found
    }
}
