//! Code that was added to a table of ours: what of it the guard of ingest and folds refuses (`additions`), and what statements of our own
//! would run with the rights of the table's owner. The executor runs those, and no guard fits around them, since they call functions that
//! only the owner may: such a statement is refused.

use super::added_keys;
use super::changes::{self, Heard};
use super::evaluator;
use super::expression_code::Code;
use super::guarded;
use super::heap::name;
use super::list;
use super::made_types::{is_kind, may_run_code, runs_code};
use super::reads;
use super::report::Report;
use super::schema;
use super::session;
use super::stored_code::{self, checks};
use super::types::type_name;
use super::version::attribute;
use core::ffi::{CStr, c_int};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::thread::LocalKey;

/// Tables, and functions, of which it is remembered at most.
const MAX_REMEMBERED: usize = 1_000;

/// What a statement does with rows, as a trigger's own bits.
const INSERT: u32 = pg_sys::TRIGGER_TYPE_INSERT;
const UPDATE: u32 = pg_sys::TRIGGER_TYPE_UPDATE;
const DELETE: u32 = pg_sys::TRIGGER_TYPE_DELETE;
/// As Postgres marks a rule that is disabled.
const RULE_DISABLED: u8 = b'D';

/// What was found right, with what the backend had heard of changes before.
type Right = LocalKey<RefCell<HashMap<Oid, Heard>>>;

thread_local! {
    /// Tables in whose expressions nobody's code was found.
    static CLEAN: RefCell<HashMap<Oid, Heard>> = RefCell::new(HashMap::new());
    /// Functions that may run as the owner.
    static ALLOWED: RefCell<HashMap<Oid, Heard>> = RefCell::new(HashMap::new());
}

fn is_known(right: &'static Right, id: Oid, heard: &Heard) -> bool {
    right.with_borrow(|right| right.get(&id) == Some(heard))
}

fn remember(right: &'static Right, id: Oid, heard: Heard) {
    right.with_borrow_mut(|right| {
        if right.len() >= MAX_REMEMBERED {
            right.clear();
        }
        right.insert(id, heard);
    });
}

/// What of a table has an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Default,
    Generated,
    Constraint,
    Index,
}

impl Place {
    /// What users call it.
    fn noun(self) -> &'static str {
        match self {
            Self::Default | Self::Generated => "column",
            Self::Constraint => "constraint",
            Self::Index => "index",
        }
    }
}

/// Code that was added to a table and that the guard refuses wherever it runs.
pub struct Refused {
    /// What has it: a column, a constraint or an index.
    pub of: &'static str,
    pub name: String,
    pub function: String,
    /// What the function does.
    pub problem: String,
}

/// What of a table's defaults, generated columns, constraints and indexes calls functions that the guard refuses. What their bodies do is found
/// when they run.
pub fn refused(table: Oid) -> Vec<Refused> {
    let mut found = Vec::new();
    let mut look = |place: Place, name: String, node: *mut pg_sys::Node| {
        // SAFETY: a valid tree, or null.
        for function in distinct(unsafe { Code::of(node) }.functions) {
            if let Some(problem) = evaluator::problem_of_added(function) {
                let function = guarded::name_of(function);
                found.push(Refused { of: place.noun(), name: name.clone(), function, problem });
            }
        }
    };
    // SAFETY: the relation is open while it is read.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(table, lock);
        if !relation.is_null() {
            each_expression(relation, &mut look);
            pg_sys::relation_close(relation, lock);
        }
    }
    found
}

/// Functions or types, each once.
fn distinct(mut ids: Vec<Oid>) -> Vec<Oid> {
    ids.sort_by_key(|id| id.to_u32());
    ids.dedup();
    ids
}

/// Hands the expressions of a table's columns, constraints and indexes to `look`, as they are stored: nothing of them runs.
///
/// # Safety
/// The relation is open, with a lock.
unsafe fn each_expression(
    relation: pg_sys::Relation,
    look: &mut impl FnMut(Place, String, *mut pg_sys::Node),
) {
    // SAFETY: the caller's promise; indexes are open while they are read.
    unsafe {
        let descriptor = (*relation).rd_att;
        for place in 0..(*descriptor).natts as usize {
            let column = attribute(descriptor, place);
            if !column.attisdropped && column.atthasdef {
                let node = pg_sys::build_column_default(relation, place as i32 + 1);
                let kind = if column.attgenerated == 0 { Place::Default } else { Place::Generated };
                look(kind, pgrx::name_data_to_str(&column.attname).to_owned(), node);
            }
        }
        for check in checks(descriptor) {
            let name = CStr::from_ptr(check.ccname).to_string_lossy().into_owned();
            look(Place::Constraint, name, pg_sys::stringToNode(check.ccbin).cast());
        }
        each_index(relation, |index| {
            for node in stored_code::of_index(index) {
                look(Place::Index, name(index), node);
            }
        });
    }
}

/// Hands each index of a table to `look`.
///
/// # Safety
/// The relation is open, with a lock.
unsafe fn each_index(relation: pg_sys::Relation, mut look: impl FnMut(pg_sys::Relation)) {
    // SAFETY: the caller's promise; an index is open while it is read.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        for index in list::ids(pg_sys::RelationGetIndexList(relation)) {
            let index = pg_sys::index_open(index, lock);
            look(index);
            pg_sys::index_close(index, lock);
        }
    }
}

/// Refuses a query of our own before anything of it is computed: constants are, where it is planned. Whatever it changes, rules have put
/// something of theirs into it, and policies their conditions.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_in_query(query: *mut pg_sys::Query) {
    // SAFETY: a query that is about to be planned; what changes rows inside another one is a common table expression.
    unsafe {
        if !is_our_own() {
            return;
        }
        // What only reads has something of a rule's where a rule made a SELECT of what was to change rows.
        let only_reads = (*query).commandType == pg_sys::CmdType::CMD_SELECT && !(*query).hasModifyingCTE;
        if only_reads && (*query).querySource == pg_sys::QuerySource::QSRC_ORIGINAL {
            return;
        }
        for entry in list::items::<pg_sys::RangeTblEntry>((*query).rtable) {
            if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION {
                refuse_rules((*entry).relid);
            }
        }
        if only_reads {
            return;
        }
        let all = list::items::<pg_sys::CommonTableExpr>((*query).cteList)
            .map(|part| (*part).ctequery.cast::<pg_sys::Query>())
            .filter(|&part| (*part.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_Query);
        for part in all.chain([query]) {
            let part = &*part;
            let on_conflict = part.onConflict.as_ref().map(|conflict| conflict.action);
            let changes = changes_of(part.commandType, on_conflict);
            if changes != 0 && part.resultRelation > 0 {
                let entry =
                    pg_sys::list_nth(part.rtable, part.resultRelation - 1).cast::<pg_sys::RangeTblEntry>();
                refuse_changes((*entry).relid, changes);
            }
        }
        let code = Code::made_by(query.cast());
        let strange = distinct(code.functions).into_iter().find(|&function| !may_run(function));
        let does = match strange {
            Some(function) => format!("calls {}()", guarded::name_of(function)),
            None => match distinct(code.types).into_iter().find(|&of| may_run_code(of)) {
                Some(of) => format!("makes values of type {}", type_name(of)),
                None => return,
            },
        };
        refuse(&format!("a policy, a default or a rule of somebody's {does}, which"));
    }
}

/// Whether statements run as the owner of our tables, and nothing guards what they run. Nobody logs in as that one.
fn is_our_own() -> bool {
    // SAFETY: reads backend state.
    let is_the_sessions = unsafe { pg_sys::GetUserId() } == session::session_role();
    !is_the_sessions && !evaluator::is_running() && reads::are_our_own()
}

/// Whether a function may stand in a statement of our own, which calls what it likes of Postgres'; with what was found before.
fn may_run(function: Oid) -> bool {
    if schema::is_of_postgres(function) {
        return !guarded::makes_by_type(function);
    }
    let heard = changes::heard_so_far();
    if is_known(&ALLOWED, function, &heard) {
        return true;
    }
    let may_run = evaluator::may_run_as_owner(function);
    if may_run {
        remember(&ALLOWED, function, heard);
    }
    may_run
}

/// Refuses a table of ours with a rule, which puts what it likes in the place of a statement.
unsafe fn refuse_rules(table: Oid) {
    // SAFETY: the relation is open while it is looked at; its description has as many rules as it says. A view's are what it is made of.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(table, lock);
        if relation.is_null() {
            return;
        }
        let form = &*(*relation).rd_rel;
        let is_view = [pg_sys::RELKIND_VIEW, pg_sys::RELKIND_MATVIEW].contains(&(form.relkind as u8));
        let has_rule = !is_view
            && form.relowner == pg_sys::GetUserId()
            && (*relation).rd_rules.as_ref().is_some_and(|rules| {
                core::slice::from_raw_parts(rules.rules, rules.numLocks as usize)
                    .iter()
                    .any(|&rule| (*rule).enabled as u8 != RULE_DISABLED)
            });
        let table = name(relation);
        pg_sys::relation_close(relation, lock);
        if has_rule {
            refuse(&format!("table \"{table}\" has a rule, which"));
        }
    }
}

fn refuse(what: &str) -> ! {
    Report::new("0A000", format!("{what} would run with the rights of the owner of pg_tally's tables"))
        .hint(
            "pg_tally changes rows of its tables as their owner, who sees every tenant: drop it, or have it call Postgres' own functions alone; tally.audit and publications tell of changes, tally.lint() lists such code",
        )
        .raise()
}

/// Refuses a plan of our own that is about to be executed: what was planned before it was guarded, and partitions that the query doesn't name.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_in_plan(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: a plan that is about to be executed, whose tables are locked.
    unsafe {
        let changes = (*plan).hasModifyingCTE || changes_of((*plan).commandType, None) != 0;
        if !changes || !is_our_own() {
            return;
        }
        for part in list::items::<pg_sys::Plan>((*plan).subplans).chain([(*plan).planTree]) {
            if part.is_null() || (*part).type_ != pg_sys::NodeTag::T_ModifyTable {
                continue;
            }
            let part = &*part.cast::<pg_sys::ModifyTable>();
            let changes = changes_of(part.operation, Some(part.onConflictAction));
            let targets = part.resultRelations;
            for place in 0..list::length(targets) {
                let number = pg_sys::list_nth_int(targets, place);
                let entry = pg_sys::list_nth((*plan).rtable, number - 1).cast::<pg_sys::RangeTblEntry>();
                refuse_changes((*entry).relid, changes);
            }
        }
    }
}

fn changes_of(command: pg_sys::CmdType::Type, on_conflict: Option<pg_sys::OnConflictAction::Type>) -> u32 {
    match command {
        pg_sys::CmdType::CMD_INSERT if on_conflict == Some(pg_sys::OnConflictAction::ONCONFLICT_UPDATE) => {
            INSERT | UPDATE
        }
        pg_sys::CmdType::CMD_INSERT => INSERT,
        pg_sys::CmdType::CMD_UPDATE => UPDATE,
        pg_sys::CmdType::CMD_DELETE => DELETE,
        pg_sys::CmdType::CMD_MERGE => INSERT | UPDATE | DELETE,
        _ => 0,
    }
}

/// Code of somebody's on a table.
pub struct Strange {
    /// What has it: a trigger, a foreign key, a column, a constraint or an index.
    pub of: &'static str,
    pub name: String,
    /// What it does.
    pub problem: String,
    /// Which changes run it.
    changes: u32,
}

/// What of a table our own statements that change its rows would run with the rights of its owner, and are refused for.
pub fn strange(table: Oid) -> Vec<Strange> {
    // SAFETY: the relation is open while it is looked at.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(table, lock);
        if relation.is_null() {
            return Vec::new();
        }
        let mut found = strange_triggers(relation, INSERT | UPDATE | DELETE);
        found.extend(strange_expressions(relation));
        pg_sys::relation_close(relation, lock);
        found
    }
}

/// Refuses to change a table's rows where that would run code of somebody's.
unsafe fn refuse_changes(table: Oid, changes: u32) {
    // SAFETY: the relation is open while it is looked at.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::try_relation_open(table, lock);
        if relation.is_null() {
            return;
        }
        let mut found = strange_triggers(relation, changes);
        if found.is_empty() && changes & (INSERT | UPDATE) != 0 {
            let heard = changes::heard();
            if !is_known(&CLEAN, table, &heard) {
                found = strange_expressions(relation);
                if found.is_empty() {
                    remember(&CLEAN, table, heard);
                }
            }
        }
        let table = name(relation);
        pg_sys::relation_close(relation, lock);
        if let Some(Strange { of, name, problem, .. }) =
            found.into_iter().find(|found| found.changes & changes != 0)
        {
            refuse(&format!("the {of} \"{name}\" of table \"{table}\", which {problem},"));
        }
    }
}

/// What code does that may not run as the owner; `None` where it may.
fn problem(code: Code) -> Option<String> {
    let strange =
        distinct(code.functions).into_iter().find(|&function| !evaluator::may_run_as_owner(function));
    if let Some(function) = strange {
        return Some(format!("calls {}()", guarded::name_of(function)));
    }
    code.types
        .into_iter()
        .find(|&of| may_run_code(of))
        .map(|of| format!("has values of type {}", type_name(of)))
}

/// What of a table runs code of somebody's where it is planned.
///
/// # Safety
/// The relation is open.
unsafe fn code_of_plans(relation: pg_sys::Relation) -> Option<String> {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(found) =
            strange_expressions(relation).into_iter().find(|found| found.changes & UPDATE != 0)
        {
            return Some(format!("its {} \"{}\" {}", found.of, found.name, found.problem));
        }
        let statistics = stored_code::of_statistics(relation).into_iter();
        let found = statistics.filter_map(|node| problem(Code::of(node))).next()?;
        Some(format!("statistics of it {found}"))
    }
}

/// Triggers that such changes fire and that call functions which are neither ours, nor Postgres', nor in C, and those of foreign keys that
/// reach into tables of somebody's.
///
/// # Safety
/// The relation is open.
unsafe fn strange_triggers(relation: pg_sys::Relation, changes: u32) -> Vec<Strange> {
    // SAFETY: the caller's promise; the description has `numtriggers` triggers, and conditions are stored as trees.
    unsafe {
        // A copy: while other tables are looked at, this one's may be read anew.
        let Some(triggers) = pg_sys::CopyTriggerDesc((*relation).trigdesc).as_ref() else {
            return Vec::new();
        };
        let triggers = core::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize);
        let owner = (*(*relation).rd_rel).relowner;
        let replica = pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as c_int;
        let fires = |trigger: &&pg_sys::Trigger| match trigger.tgenabled as u8 {
            pg_sys::TRIGGER_DISABLED => false,
            pg_sys::TRIGGER_FIRES_ON_ORIGIN => !replica,
            pg_sys::TRIGGER_FIRES_ON_REPLICA => replica,
            _ => true,
        };
        let fired = triggers.iter().filter(|trigger| u32::from(trigger.tgtype as u16) & changes != 0);
        let strange = fired.filter(fires).filter_map(|trigger| {
            let changes = u32::from(trigger.tgtype as u16);
            if let Some(problem) = added_keys::problem(trigger, owner, |other| code_of_plans(other)) {
                let name = pg_sys::get_constraint_name(trigger.tgconstraint);
                // Of one that is dropped meanwhile, the trigger says it.
                let name = CStr::from_ptr(if name.is_null() { trigger.tgname } else { name });
                let name = name.to_string_lossy().into_owned();
                return Some(Strange { of: "foreign key", name, problem, changes });
            }
            let mut code = if trigger.tgqual.is_null() {
                Code::default()
            } else {
                Code::made_by(pg_sys::stringToNode(trigger.tgqual).cast())
            };
            // Postgres' own triggers write, as that is what they are for.
            if !schema::is_of_postgres(trigger.tgfoid) {
                code.functions.push(trigger.tgfoid);
            }
            let problem = problem(code)?;
            let name = CStr::from_ptr(trigger.tgname).to_string_lossy().into_owned();
            Some(Strange { of: "trigger", name, problem, changes })
        });
        strange.collect()
    }
}

/// What of a table's columns, constraints and indexes runs code of somebody's.
///
/// # Safety
/// As above.
unsafe fn strange_expressions(relation: pg_sys::Relation) -> Vec<Strange> {
    let mut found = Vec::new();
    // SAFETY: the caller's promise.
    unsafe {
        each_expression(relation, &mut |place, name, node| {
            let Some(problem) = problem(Code::of(node)) else { return };
            let changes = if place == Place::Default { INSERT } else { INSERT | UPDATE };
            found.push(Strange { of: place.noun(), name, problem, changes });
        });
        let descriptor = (*relation).rd_att;
        for place in 0..(*descriptor).natts as usize {
            let column = attribute(descriptor, place);
            // What has no default gets a null, which the domain judges.
            if !column.attisdropped && !column.atthasdef && runs_code(column.atttypid) {
                found.push(Strange {
                    of: "column",
                    name: pgrx::name_data_to_str(&column.attname).to_owned(),
                    problem: format!(
                        "is of the domain {}, which has constraints",
                        type_name(column.atttypid)
                    ),
                    changes: INSERT,
                });
            }
        }
        each_index(relation, |index| {
            if takes_differences(index) {
                let problem = "has ranges of a type that somebody made".to_owned();
                found.push(Strange { of: "index", name: name(index), problem, changes: INSERT | UPDATE });
            }
        });
    }
    found
}

/// Whether an index is of a kind that calls a function which somebody gave a type of ranges.
unsafe fn takes_differences(index: pg_sys::Relation) -> bool {
    // SAFETY: the index is open.
    unsafe {
        let columns = (*index).rd_att;
        ![pg_sys::BTREE_AM_OID, pg_sys::HASH_AM_OID].contains(&(*(*index).rd_rel).relam)
            && (0..(*columns).natts as usize).any(|place| {
                let of = attribute(columns, place).atttypid;
                is_kind(of, pg_sys::TYPTYPE_RANGE) || is_kind(of, pg_sys::TYPTYPE_MULTIRANGE)
            })
    }
}
