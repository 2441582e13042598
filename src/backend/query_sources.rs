//! Which columns, properties and functions the columns of a query, or generated columns of a table, come from, by the tree.

use super::list;
use super::{reads, schema, version};
use core::ffi::{CStr, c_void};
use core::ptr;
use pgrx::check_for_interrupts;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Queries inside of queries that are followed.
const MAX_DEPTH: usize = 200;
/// Sources that are remembered of a query's parts: some hundred megabytes.
const MAX_KNOWN: usize = 1_000_000;
/// How often a query is followed that has recursive ones: each time, more may flow from column to column.
const MAX_TIMES: usize = 8;
/// Bytes of a property's key that is followed by itself; a longer one stands for all properties, since each part remembers it.
const LONGEST_KEY: usize = 200;
/// Functions of Postgres that take one property out of an object: `->`, `->>`, `?`.
const TAKES_PROPERTY: [u32; 3] = [3478, 3214, 4047];

/// What a column of the query comes from. Column 0 stands for the conditions, which decide on rows and not on values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A column of a relation; 0 is the whole row.
    Column(Oid, i16),
    /// A property of tally.events, by its key.
    Property(String),
    Function(Oid),
}

/// Number of a column of the query, and a source of it.
pub type Edge = (i16, Source);

/// A query and those around it, the outermost first.
type Stack = Vec<*mut pg_sys::Query>;

/// What is followed once, however often it is named.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// A column of a query by its number.
    Column(*mut pg_sys::Query, i16),
    /// A column of an entry of a query's range table, by their numbers.
    Entry(*mut pg_sys::Query, i32, i16),
    Conditions(*mut pg_sys::Query),
}

struct Trace {
    stack: Stack,
    found: HashSet<Source>,
    /// What was found before. A query stands in one place, so that its parts always mean the same.
    known: HashMap<Part, Rc<HashSet<Source>>>,
    /// What is being followed; of what is named inside of itself, as a recursive query is, what the last time through said.
    open: HashSet<Part>,
    assumed: HashMap<Part, Rc<HashSet<Source>>>,
    /// Parts that were named inside of themselves.
    recursive: HashSet<Part>,
    begun: HashSet<*mut pg_sys::Query>,
    /// The properties of tally.events: the table and the column.
    properties: (Oid, i16),
    /// The table whose columns are meant outside of all queries.
    table: Oid,
    /// Where on the stack it began, and whether something was too deep, or too much, to be followed.
    began_at: usize,
    is_too_deep: bool,
    /// How many sources are known of all parts.
    remembered: usize,
}

impl Trace {
    fn new(properties: (Oid, i16)) -> Self {
        Self {
            stack: Vec::new(),
            found: HashSet::new(),
            known: HashMap::new(),
            open: HashSet::new(),
            assumed: HashMap::new(),
            recursive: HashSet::new(),
            begun: HashSet::new(),
            properties,
            table: Oid::INVALID,
            began_at: place_on_stack(),
            is_too_deep: false,
            remembered: 0,
        }
    }

    /// Whether two thirds of what a session may use of the stack are used: what is nested more deeply isn't followed, which would be an error
    /// for whoever asks. Postgres itself gets through more.
    fn is_deep(&mut self) -> bool {
        // SAFETY: reads backend state.
        let allowed = unsafe { pg_sys::max_stack_depth } as usize * 1024 / 3 * 2;
        self.is_too_deep |= self.began_at.abs_diff(place_on_stack()) > allowed;
        self.is_too_deep
    }
}

#[inline(never)]
fn place_on_stack() -> usize {
    let here = 0u8;
    core::hint::black_box(&raw const here) as usize
}

/// Of a view, or a materialized one, or of the generated columns of a table. What somebody is changing just now, or what is nested too
/// deeply, may come from anything: whoever asks waits for nobody, and fails for nobody.
pub fn of_relation(relation: Oid, properties: (Oid, i16)) -> Vec<Edge> {
    // SAFETY: the relation stays locked and open while the tree, which its cache entry owns, is read.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let Some(columns) = reads::number_of_columns(relation) else { return Vec::new() };
        if !pg_sys::ConditionalLockRelationOid(relation, lock) {
            return of_anything(columns, properties);
        }
        let opened = pg_sys::try_relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        if opened.is_null() {
            pg_sys::UnlockRelationOid(relation, lock);
            return Vec::new();
        }
        let kind = (*(*opened).rd_rel).relkind as u8;
        let edges = if matches!(kind, b'v' | b'm') && !(*opened).rd_rules.is_null() {
            edges(pg_sys::get_view_query(opened), properties)
        } else {
            generated(opened, properties)
        };
        pg_sys::relation_close(opened, lock);
        edges.unwrap_or_else(|| of_anything(columns, properties))
    }
}

/// Each column, and what rows are chosen by, as if it came from whole events.
fn of_anything(columns: i16, (events, _): (Oid, i16)) -> Vec<Edge> {
    (0..=columns).map(|number| (number, Source::Column(events, 0))).collect()
}

/// What the generated columns of an open table come from, also those that are computed when they are read. In a partition of tally.events
/// its own properties are meant. `None` where something is nested too deeply.
unsafe fn generated(relation: pg_sys::Relation, properties: (Oid, i16)) -> Option<Vec<Edge>> {
    let mut edges = Vec::new();
    // SAFETY: the descriptor is the open relation's; its defaults are texts that Postgres wrote.
    unsafe {
        let descriptor = (*relation).rd_att;
        let Some(constraints) = (*descriptor).constr.as_ref() else { return Some(edges) };
        let table = (*relation).rd_id;
        let is_of_events = (*(*relation).rd_rel).relispartition
            && pgrx::direct_function_call::<Oid>(pg_sys::pg_partition_root, &[Some(Datum::from(table))])
                == Some(properties.0);
        let properties = if is_of_events {
            (table, pg_sys::get_attnum(table, c"properties".as_ptr()))
        } else {
            properties
        };
        for place in 0..usize::from(constraints.num_defval) {
            let default = &*constraints.defval.add(place);
            if version::attribute(descriptor, default.adnum as usize - 1).attgenerated == 0 {
                continue;
            }
            let mut trace = Trace { table, ..Trace::new(properties) };
            trace.all(vec![pg_sys::stringToNode(default.adbin).cast()]);
            if trace.is_too_deep {
                return None;
            }
            edges.extend(trace.found.into_iter().map(|source| (default.adnum, source)));
        }
    }
    Some(edges)
}

/// `None` where it is nested too deeply.
unsafe fn edges(query: *mut pg_sys::Query, properties: (Oid, i16)) -> Option<Vec<Edge>> {
    let mut trace = Trace::new(properties);
    for _ in 0..MAX_TIMES {
        let mut edges = Vec::new();
        // SAFETY: a valid query, the caller's promise.
        unsafe {
            for entry in entries((*query).targetList) {
                if !(*entry).resjunk {
                    trace.column(query, (*entry).resno);
                    edges.extend(trace.found.drain().map(|source| ((*entry).resno, source)));
                }
            }
            trace.conditions(query);
            edges.extend(trace.found.drain().map(|source| (0, source)));
        }
        if trace.is_too_deep {
            return None;
        }
        if !trace.goes_again() {
            return Some(edges);
        }
    }
    None
}

impl Trace {
    /// Whether what is named inside of itself comes from more than was assumed, so that all has to be followed once more.
    fn goes_again(&mut self) -> bool {
        let found: HashMap<_, _> =
            self.recursive.drain().filter_map(|part| Some((part, self.known.get(&part)?.clone()))).collect();
        if found.iter().all(|(part, sources)| {
            self.assumed.get(part).map_or(sources.is_empty(), |assumed| assumed == sources)
        }) {
            return false;
        }
        self.assumed = found;
        self.known.clear();
        self.begun.clear();
        self.remembered = 0;
        true
    }

    /// Does something inside a query, in which `stack` are those around it.
    fn inside(&mut self, query: *mut pg_sys::Query, work: impl FnOnce(&mut Self)) {
        if self.stack.len() < MAX_DEPTH {
            self.stack.push(query);
            work(self);
            self.stack.pop();
        } else {
            self.is_too_deep = true;
        }
    }

    /// The same with those around it down to a level.
    unsafe fn at_level(&mut self, depth: usize, work: impl FnOnce(&mut Self)) {
        let inner = self.stack.split_off(depth);
        work(self);
        self.stack.extend(inner);
    }

    /// Adds what a part comes from, which is followed when it is named first.
    fn once(&mut self, part: Part, follow: impl FnOnce(&mut Self)) {
        if self.is_too_deep {
            return;
        }
        if self.open.contains(&part) {
            self.recursive.insert(part);
            let assumed = self.assumed.get(&part).cloned().unwrap_or_default();
            self.found.extend(assumed.iter().cloned());
            return;
        }
        let known = self.known.get(&part).cloned().unwrap_or_else(|| {
            check_for_interrupts!();
            let outer = core::mem::take(&mut self.found);
            self.open.insert(part);
            follow(self);
            self.open.remove(&part);
            let found = Rc::new(core::mem::replace(&mut self.found, outer));
            self.known.insert(part, found.clone());
            self.remembered += found.len();
            self.is_too_deep |= self.remembered > MAX_KNOWN;
            found
        });
        self.found.extend(known.iter().cloned());
    }

    /// Follows what a query names, in the order in which one may name another: a long row of names, followed from its end, would be as
    /// deep as it is long.
    unsafe fn begin(&mut self, query: *mut pg_sys::Query) {
        if !self.begun.insert(query) {
            return;
        }
        let outer = core::mem::take(&mut self.found);
        // SAFETY: a valid query.
        self.inside(query, |trace| unsafe {
            for with in nodes((*query).cteList) {
                let with = (*with.cast::<pg_sys::CommonTableExpr>()).ctequery;
                if (*with).type_ == NodeTag::T_Query {
                    let with = with.cast::<pg_sys::Query>();
                    for entry in entries((*with).targetList) {
                        trace.column(with, (*entry).resno);
                    }
                }
            }
            for (place, entry) in (1..).zip(nodes((*query).rtable)) {
                let entry = entry.cast::<pg_sys::RangeTblEntry>();
                let columns = match (*entry).rtekind {
                    pg_sys::RTEKind::RTE_RELATION => 0,
                    pg_sys::RTEKind::RTE_JOIN => (*entry).joinmergedcols,
                    _ => list::length((*(*entry).eref).colnames),
                };
                for number in 1..=columns {
                    trace.entry(place, number as i16);
                }
            }
        });
        self.found = outer;
    }

    /// What a column of a query comes from; 0 stands for all of them.
    unsafe fn column(&mut self, query: *mut pg_sys::Query, number: i16) {
        self.once(Part::Column(query, number), |trace| {
            // SAFETY: a valid query.
            unsafe {
                trace.begin(query);
                if !(*query).setOperations.is_null() {
                    let parts = (*query).setOperations;
                    return trace.inside(query, |trace| trace.parts(parts, number));
                }
                for entry in entries((*query).targetList) {
                    if number == 0 && !(*entry).resjunk {
                        trace.column(query, (*entry).resno);
                    } else if (*entry).resno == number {
                        trace.inside(query, |trace| {
                            walk((*entry).expr.cast(), ptr::from_mut(trace).cast());
                        });
                    }
                }
            }
        });
    }

    /// Of UNION, INTERSECT and EXCEPT: of each of the queries.
    unsafe fn parts(&mut self, part: *mut pg_sys::Node, number: i16) {
        // SAFETY: a tree of such operations, whose leaves are entries of the range table.
        unsafe {
            match (*part).type_ {
                NodeTag::T_SetOperationStmt => {
                    let operation = part.cast::<pg_sys::SetOperationStmt>();
                    self.parts((*operation).larg, number);
                    self.parts((*operation).rarg, number);
                }
                NodeTag::T_RangeTblRef => {
                    self.entry((*part.cast::<pg_sys::RangeTblRef>()).rtindex, number);
                }
                _ => {}
            }
        }
    }

    /// Of a column of an entry of the range table of the innermost query.
    unsafe fn entry(&mut self, place: i32, number: i16) {
        let Some(&query) = self.stack.last() else { return };
        // SAFETY: the innermost query is a valid one.
        self.once(Part::Entry(query, place, number), |trace| unsafe {
            trace.entry_of(query, place, number);
        });
    }

    unsafe fn entry_of(&mut self, query: *mut pg_sys::Query, place: i32, number: i16) {
        // SAFETY: the place, from 1, is one of the range table's; what an entry has is told by its kind.
        unsafe {
            if place < 1 || place > list::length((*query).rtable) {
                return;
            }
            let entry = pg_sys::list_nth((*query).rtable, place - 1).cast::<pg_sys::RangeTblEntry>();
            let numbered = |list| -> Vec<*mut pg_sys::Node> {
                let all = nodes(list);
                if number <= 0 {
                    return all;
                }
                all.get(number as usize - 1).copied().into_iter().collect()
            };
            match (*entry).rtekind {
                pg_sys::RTEKind::RTE_RELATION if number >= 0 => {
                    self.found.insert(Source::Column((*entry).relid, number));
                }
                pg_sys::RTEKind::RTE_SUBQUERY => self.column((*entry).subquery, number),
                pg_sys::RTEKind::RTE_JOIN => self.all(numbered((*entry).joinaliasvars)),
                pg_sys::RTEKind::RTE_FUNCTION => {
                    for function in nodes((*entry).functions) {
                        self.all(vec![(*function.cast::<pg_sys::RangeTblFunction>()).funcexpr]);
                    }
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    for row in nodes((*entry).values_lists) {
                        self.all(numbered(row.cast()));
                    }
                }
                pg_sys::RTEKind::RTE_TABLEFUNC => self.all(vec![(*entry).tablefunc.cast()]),
                pg_sys::RTEKind::RTE_CTE => {
                    let level = (*entry).ctelevelsup as usize;
                    if level >= self.stack.len() {
                        return;
                    }
                    let depth = self.stack.len() - level;
                    let name = CStr::from_ptr((*entry).ctename);
                    self.at_level(depth, |trace| {
                        let Some(&around) = trace.stack.last() else { return };
                        for with in nodes((*around).cteList) {
                            let with = with.cast::<pg_sys::CommonTableExpr>();
                            if CStr::from_ptr((*with).ctename) == name
                                && (*(*with).ctequery).type_ == NodeTag::T_Query
                            {
                                let query = (*with).ctequery.cast::<pg_sys::Query>();
                                // What SEARCH and CYCLE add is made of others of its columns.
                                let is_added = i32::from(number) > list::length((*query).targetList);
                                trace.column(query, if is_added { 0 } else { number });
                            }
                        }
                    });
                }
                _ => {
                    if let Some(groups) = version::group_expressions(entry) {
                        self.all(numbered(groups));
                    }
                }
            }
        }
    }

    unsafe fn all(&mut self, expressions: Vec<*mut pg_sys::Node>) {
        for expression in expressions {
            // SAFETY: expressions of the innermost query.
            unsafe { walk(expression, ptr::from_mut(self).cast()) };
        }
    }

    unsafe fn variable(&mut self, variable: *mut pg_sys::Var) {
        // SAFETY: a variable of the innermost query or of one around it.
        unsafe {
            let level = (*variable).varlevelsup as usize;
            if level < self.stack.len() {
                let depth = self.stack.len() - level;
                self.at_level(depth, |trace| trace.entry((*variable).varno, (*variable).varattno));
            } else if self.table != Oid::INVALID && (*variable).varattno >= 0 {
                self.found.insert(Source::Column(self.table, (*variable).varattno));
            }
        }
    }

    /// What a query is made of besides the columns that it returns, and what those inside of it are.
    unsafe fn conditions(&mut self, query: *mut pg_sys::Query) {
        // SAFETY: a valid query.
        self.once(Part::Conditions(query), |trace| unsafe {
            trace.begin(query);
            for entry in entries((*query).targetList) {
                if (*entry).resjunk || is_grouped((*query).groupClause, (*entry).ressortgroupref) {
                    trace.column(query, (*entry).resno);
                }
            }
            trace.inside(query, |trace| {
                trace.all(vec![(*query).jointree.cast(), (*query).havingQual]);
                for entry in nodes((*query).rtable) {
                    let entry = entry.cast::<pg_sys::RangeTblEntry>();
                    if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
                        trace.conditions((*entry).subquery);
                    }
                }
                for with in nodes((*query).cteList) {
                    let with = (*with.cast::<pg_sys::CommonTableExpr>()).ctequery;
                    if (*with).type_ == NodeTag::T_Query {
                        trace.conditions(with.cast());
                    }
                }
            });
        });
    }

    /// `properties -> 'key'` and the like of tally.events: one property, not all of them. Follows such a call, of whatever object, and
    /// says whether it is one.
    unsafe fn property(&mut self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the tag says which struct a node is.
        unsafe {
            let (function, arguments) = match (*node).type_ {
                NodeTag::T_OpExpr => {
                    let operation = node.cast::<pg_sys::OpExpr>();
                    let function = (*operation).opfuncid;
                    let known = if function == Oid::INVALID {
                        pg_sys::get_opcode((*operation).opno)
                    } else {
                        function
                    };
                    (known, (*operation).args)
                }
                NodeTag::T_FuncExpr => {
                    let call = node.cast::<pg_sys::FuncExpr>();
                    ((*call).funcid, (*call).args)
                }
                _ => return false,
            };
            let arguments = nodes(arguments);
            let [object, key] = arguments[..] else { return false };
            if (*key).type_ != NodeTag::T_Const || !takes_property(function) {
                return false;
            }
            let key = &*key.cast::<pg_sys::Const>();
            if key.constisnull || key.consttype != pg_sys::TEXTOID {
                return false;
            }
            // Of a column that is the properties, by whatever views and names it comes.
            let outer = core::mem::take(&mut self.found);
            walk(object, ptr::from_mut(self).cast());
            let of = core::mem::replace(&mut self.found, outer);
            let (table, column) = self.properties;
            let is_properties = of.len() == 1 && of.contains(&Source::Column(table, column));
            match String::from_datum(key.constvalue, false)
                .filter(|key| is_properties && key.len() <= LONGEST_KEY)
            {
                Some(key) => {
                    self.found.insert(Source::Property(key));
                }
                None => self.found.extend(of),
            }
            self.found.insert(Source::Function(function));
            true
        }
    }
}

/// Whether a function takes one property out of an object.
fn takes_property(function: Oid) -> bool {
    if TAKES_PROPERTY.contains(&function.to_u32()) {
        return true;
    }
    // SAFETY: syscache look-ups; the name is a palloc'd C string, or null.
    unsafe {
        let name = pg_sys::get_func_name(function);
        !name.is_null()
            && [c"property_number", c"property_float"].contains(&CStr::from_ptr(name))
            && schema::has_function(function)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, trace: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes of a valid tree, and the context that it was given.
    unsafe {
        if node.is_null() {
            return false;
        }
        check_for_interrupts!();
        let found = &mut *trace.cast::<Trace>();
        if found.is_deep() {
            return true;
        }
        match (*node).type_ {
            NodeTag::T_Var => {
                found.variable(node.cast());
                return false;
            }
            // What a query inside an expression returns, and what it is decided by.
            NodeTag::T_Query => {
                found.column(node.cast(), 0);
                found.conditions(node.cast());
                return false;
            }
            NodeTag::T_RangeTblRef => return false,
            _ => {}
        }
        if found.property(node) {
            return false;
        }
        pg_sys::check_functions_in_node(node, Some(note_function), trace);
        pg_sys::expression_tree_walker(node, Some(walk), trace)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: Oid, trace: *mut c_void) -> bool {
    // SAFETY: the context that `walk` was given.
    unsafe { (*trace.cast::<Trace>()).found.insert(Source::Function(function)) };
    false
}

unsafe fn is_grouped(clauses: *mut pg_sys::List, reference: u32) -> bool {
    // SAFETY: a list of clauses.
    reference != 0
        && unsafe { nodes(clauses) }
            .into_iter()
            .any(|clause| unsafe { (*clause.cast::<pg_sys::SortGroupClause>()).tleSortGroupRef } == reference)
}

unsafe fn entries(list: *mut pg_sys::List) -> Vec<*mut pg_sys::TargetEntry> {
    // SAFETY: the caller's promise, of a list of target entries.
    unsafe { list::items(list) }.collect()
}

unsafe fn nodes(list: *mut pg_sys::List) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise, of a list of pointers.
    unsafe { list::items(list) }.collect()
}
