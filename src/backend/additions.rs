//! What an administrator has added to a table of ours, into which is written below the executor: defaults of columns, generated columns,
//! constraints, and expressions of indexes. Their code may be anybody's, and the caller a superuser: it runs as nobody, under a guard
//! that a batch of rows begins once. Code that can do nothing but compute, as all of a table as it was made, needs none.

use super::changes::{self, Heard};
use super::evaluator;
use super::expression_code;
use super::heap::{Layout, TableError, form_tuple, name};
use super::list;
use super::stored_code::{self, checks};
use super::version::attribute;
use pgrx::pg_sys::{self, Oid, ffi::pg_guard_ffi_boundary};
use std::cell::RefCell;
use std::collections::HashMap;

unsafe extern "C-unwind" {
    /// Postgres' own, which pgrx doesn't bind: computes the stored generated columns of a row in a slot.
    fn ExecComputeStoredGenerated(
        target: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
    );
}

/// Tables whose code is remembered at most.
const MAX_REMEMBERED: usize = 1_000;

/// A column that an administrator added.
struct Own {
    place: usize,
    default: *mut pg_sys::ExprState,
}

/// Where a table, as it is stored, has code that needs a guard.
#[derive(Clone, Copy, Default)]
struct Guarded {
    rows: bool,
    /// Opening its indexes: they are computed as far as they can be, and that anew whenever a change of one is heard of.
    opening: bool,
}

thread_local! {
    /// By table, with what the backend had heard of changes when it was found.
    static KNOWN: RefCell<HashMap<Oid, (Heard, Guarded)>> = RefCell::new(HashMap::new());
}

/// What is written to columns that an administrator added, and which constraints the executor would check.
pub(super) struct Additions {
    own: Vec<Own>,
    has_generated: bool,
    has_checks: bool,
    guarded: Guarded,
    /// Whether making index entries needs a guard: of the indexes as they were opened.
    guarded_indexes: bool,
}

impl Additions {
    /// Of an open table and its indexes, which were listed when so much had been `heard` of; expressions are prepared in the executor
    /// state's own memory.
    ///
    /// # Safety
    /// The target stays open as long as this is used, and so does the executor state.
    pub unsafe fn of(
        target: *mut pg_sys::ResultRelInfo,
        layout: &Layout,
        estate: *mut pg_sys::EState,
        heard: Heard,
    ) -> Result<Self, TableError> {
        // SAFETY: the caller's promise.
        unsafe {
            let relation = (*target).ri_RelationDesc;
            let descriptor = (*relation).rd_att;
            let has_checks = checks(descriptor).next().is_some();
            let guarded = guarded(target, layout, heard);
            let guarded_indexes = has_code_of_entries(target);
            let mut additions =
                Self { own: Vec::new(), has_generated: false, has_checks, guarded, guarded_indexes };
            for place in layout.others() {
                let found = attribute(descriptor, place);
                if found.attisdropped {
                    continue;
                }
                additions.has_checks |= found.attnotnull;
                if found.attgenerated != 0 {
                    additions.has_generated |= found.attgenerated as u8 == pg_sys::ATTRIBUTE_GENERATED_STORED;
                    continue;
                }
                let default = default_of(relation, place);
                if default.is_null() {
                    if found.attnotnull {
                        let column = pgrx::name_data_to_str(&found.attname);
                        return Err(TableError::Column {
                            table: name(relation),
                            problem: format!("column \"{column}\" was added NOT NULL and has no default"),
                        });
                    }
                    continue;
                }
                additions.own.push(Own { place, default: default.cast() });
            }
            // Constants are computed where an expression is prepared.
            if !additions.own.is_empty() {
                guard(guarded.rows, || {
                    for own in &mut additions.own {
                        own.default = pg_sys::ExecPrepareExpr(own.default.cast(), estate);
                    }
                });
            }
            Ok(additions)
        }
    }

    /// Completes rows as `complete` does, and before that fills the defaults of new ones in, whose columns are null. The rows are formed
    /// in the current memory context.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn complete_new(
        &self,
        target: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slots: &[*mut pg_sys::TupleTableSlot],
    ) {
        if self.is_empty() {
            return;
        }
        // SAFETY: the caller's promise.
        guard(self.guarded.rows, || unsafe {
            for &slot in slots {
                self.fill(target, estate, slot);
                self.compute(target, estate, slot);
            }
        });
    }

    /// Computes generated columns of a row in a slot and checks it against the table's constraints.
    ///
    /// # Safety
    /// Target and executor state are those of `of`, and the slot holds a row of the target's.
    pub unsafe fn complete(
        &self,
        target: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
    ) {
        if self.has_generated || self.has_checks {
            // SAFETY: the caller's promise.
            guard(self.guarded.rows, || unsafe { self.compute(target, estate, slot) });
        }
    }

    /// Runs `work`, which makes index entries.
    pub fn while_indexing<T>(&self, work: impl FnOnce() -> T) -> T {
        guard(self.guarded_indexes, work)
    }

    /// Whether a row is complete without them.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && !self.has_generated && !self.has_checks
    }

    unsafe fn fill(
        &self,
        target: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
    ) {
        if self.own.is_empty() {
            return;
        }
        // SAFETY: as `complete`; the slot has a value for each column, and the tuple that these lie in outlives the new one's making.
        // The boundary hands on an error of an expression's.
        unsafe {
            let relation = (*target).ri_RelationDesc;
            let columns = (*(*relation).rd_att).natts as usize;
            pg_sys::slot_getallattrs(slot);
            let values = core::slice::from_raw_parts_mut((*slot).tts_values, columns);
            let nulls = core::slice::from_raw_parts_mut((*slot).tts_isnull, columns);
            let context = per_tuple(estate);
            let outer = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            for own in &self.own {
                let default = own.default;
                (values[own.place], nulls[own.place]) = pg_guard_ffi_boundary(move || {
                    let mut is_null = false;
                    let evaluate = (*default).evalfunc.unwrap_unchecked();
                    let value = evaluate(default, context, &raw mut is_null);
                    (value, is_null)
                });
            }
            pg_sys::MemoryContextSwitchTo(outer);
            let tuple = form_tuple(relation, values, nulls);
            pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        }
    }

    unsafe fn compute(
        &self,
        target: *mut pg_sys::ResultRelInfo,
        estate: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
    ) {
        // SAFETY: as `complete`; the boundary hands on an error of an expression's.
        unsafe {
            if self.has_generated {
                pg_guard_ffi_boundary(move || {
                    ExecComputeStoredGenerated(target, estate, slot, pg_sys::CmdType::CMD_INSERT);
                });
            }
            if self.has_checks {
                pg_sys::ExecConstraints(target, slot, estate);
            }
            pg_sys::MemoryContextReset((*per_tuple(estate)).ecxt_per_tuple_memory);
        }
    }
}

/// Runs `work`, guarded where it needs that.
fn guard<T>(needs_guard: bool, work: impl FnOnce() -> T) -> T {
    if needs_guard { evaluator::as_added(work) } else { work() }
}

/// The executor state's context for one row.
unsafe fn per_tuple(estate: *mut pg_sys::EState) -> *mut pg_sys::ExprContext {
    // SAFETY: an executor state that the caller made.
    unsafe {
        if (*estate).es_per_tuple_exprcontext.is_null() {
            pg_sys::MakePerTupleExprContext(estate)
        } else {
            (*estate).es_per_tuple_exprcontext
        }
    }
}

/// The descriptions of a target's open indexes.
///
/// # Safety
/// The target stays open for as long as they are used.
pub(super) unsafe fn indexes<'a>(
    target: *mut pg_sys::ResultRelInfo,
) -> impl Iterator<Item = &'a pg_sys::IndexInfo> {
    // SAFETY: the array of an open target has an entry for each index.
    (0..unsafe { (*target).ri_NumIndices } as usize)
        .map(move |place| unsafe { &**(*target).ri_IndexRelationInfo.add(place) })
}

/// What was found of a table when so much had been heard of.
fn known(table: Oid, heard: Heard) -> Option<Guarded> {
    KNOWN.with_borrow(|known| known.get(&table).filter(|known| known.0 == heard).map(|known| known.1))
}

/// Where a table has code that needs a guard.
unsafe fn guarded(target: *mut pg_sys::ResultRelInfo, layout: &Layout, heard: Heard) -> Guarded {
    // SAFETY: the target is open.
    let table = unsafe { (*(*target).ri_RelationDesc).rd_id };
    known(table, heard).unwrap_or_else(|| {
        // SAFETY: the caller's promise.
        let found = unsafe { look_for_code(target, layout) };
        // Under the number from before they were opened: an index that was made since is not among them.
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
            known.insert(table, (heard, found));
        });
        found
    })
}

/// Whether an index has a column of a type that somebody made: a range's can have a function that the index calls.
unsafe fn has_strange_column(columns: pg_sys::TupleDesc) -> bool {
    // SAFETY: the descriptor of an open index.
    unsafe {
        (0..(*columns).natts as usize)
            .any(|place| attribute(columns, place).atttypid.to_u32() >= pg_sys::FirstNormalObjectId)
    }
}

/// Opens a target's indexes. Where their expressions are read, which is once after each change, calls with constants are computed. Returns
/// what the backend had heard of changes when it listed them.
///
/// # Safety
/// The target's relation is open.
pub(super) unsafe fn open_indexes(target: *mut pg_sys::ResultRelInfo) -> Heard {
    // SAFETY: the caller's promise.
    unsafe {
        let relation = (*target).ri_RelationDesc;
        // What is known is of the indexes that are opened: the relation keeps the list until a change is heard of.
        let (heard, needs_guard) = loop {
            let heard = changes::heard();
            let list = pg_sys::RelationGetIndexList(relation);
            let needs_guard = known((*relation).rd_id, heard)
                .map_or_else(|| has_index_code(list), |guarded| guarded.opening);
            if changes::heard_so_far() == heard {
                break (heard, needs_guard);
            }
        };
        guard(needs_guard, || pg_sys::ExecOpenIndices(target, false));
        heard
    }
}

/// Whether one of some indexes has an expression or a predicate.
unsafe fn has_index_code(list: *mut pg_sys::List) -> bool {
    // SAFETY: look-ups in the cache, whose rows are released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as core::ffi::c_int;
        list::ids(list).any(|index| {
            let row = pg_sys::SearchSysCache1(cache, index.into());
            if row.is_null() {
                return false;
            }
            let has = |part: u32| {
                let mut is_null = false;
                pg_sys::SysCacheGetAttr(cache, row, part as i16, &raw mut is_null);
                !is_null
            };
            let found = has(pg_sys::Anum_pg_index_indexprs) || has(pg_sys::Anum_pg_index_indpred);
            pg_sys::ReleaseSysCache(row);
            found
        })
    }
}

/// What a column gets where a row has nothing for it, or what computes it; null where that is a null which nothing judges, as a domain's
/// constraints do.
unsafe fn default_of(relation: pg_sys::Relation, place: usize) -> *mut pg_sys::Node {
    // SAFETY: the relation is open; the trees are made in the current memory context.
    unsafe {
        let column = attribute((*relation).rd_att, place);
        let default = pg_sys::build_column_default(relation, place as i32 + 1);
        if !default.is_null() || !pg_sys::DomainHasConstraints(column.atttypid) {
            return default;
        }
        let mut modifier = column.atttypmod;
        let base = pg_sys::getBaseTypeAndTypmod(column.atttypid, &raw mut modifier);
        pg_sys::coerce_to_domain(
            pg_sys::makeNullConst(base, modifier, column.attcollation).cast(),
            base,
            modifier,
            column.atttypid,
            pg_sys::CoercionContext::COERCION_IMPLICIT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
            false,
        )
    }
}

unsafe fn look_for_code(target: *mut pg_sys::ResultRelInfo, layout: &Layout) -> Guarded {
    // SAFETY: the relation and its indexes are open; constraints and expressions are valid trees.
    unsafe {
        let relation = (*target).ri_RelationDesc;
        let descriptor = (*relation).rd_att;
        let of_columns = layout
            .others()
            .filter(|&place| !attribute(descriptor, place).attisdropped)
            .any(|place| needs_guard(default_of(relation, place)));
        let of_checks = checks(descriptor).any(|check| needs_guard(pg_sys::stringToNode(check.ccbin).cast()));
        let opening = (0..(*target).ri_NumIndices as usize).any(|place| {
            let index = *(*target).ri_IndexRelationDescs.add(place);
            stored_code::of_index(index).into_iter().any(|node| needs_guard(node))
        });
        Guarded { rows: of_columns || of_checks, opening }
    }
}

/// Whether one of a target's open indexes has code that needs a guard where entries are made.
unsafe fn has_code_of_entries(target: *mut pg_sys::ResultRelInfo) -> bool {
    // SAFETY: the indexes are open.
    unsafe {
        indexes(target)
            .any(|index| needs_guard(index.ii_Expressions.cast()) || needs_guard(index.ii_Predicate.cast()))
            || (0..(*target).ri_NumIndices as usize)
                .any(|place| has_strange_column((*(*(*target).ri_IndexRelationDescs.add(place))).rd_att))
    }
}

/// Whether an expression, or null, may do more than compute.
unsafe fn needs_guard(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid tree.
    !node.is_null() && unsafe { !expression_code::computes_alone(node) }
}
