//! SQL expressions over a row of `tally.events`: analysed once, evaluated for each event, without SPI.

use super::expression_code::Code;
use super::expression_reads::Reads;
use super::heap::{Declared, Layout, TableError};
use super::list;
use super::moment;
use super::mutable_parts;
use super::report::Report;
use super::session;
use super::sql;
pub use super::types::type_name;
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid, ffi::pg_guard_ffi_boundary};
use std::ffi::{CStr, CString};

/// Why an expression can't be used; what Postgres' own parser refuses is raised as its own error.
#[derive(Debug)]
pub enum ExpressionError {
    /// More than one plain expression over the event: a query, an aggregate, a sub-select, a set.
    NotPlain(String),
    /// Its value may differ from one evaluation to the next.
    NotImmutable(String),
    /// It reads a system column or the whole row.
    SystemColumn(String),
    /// It reads a column that an administrator added, which no event brings.
    OwnColumn { expression: String, column: String },
    /// It can't be cast to the type that is needed.
    Type { expression: String, found: String, needed: String },
}

impl From<ExpressionError> for Report {
    fn from(error: ExpressionError) -> Self {
        match error {
            ExpressionError::NotPlain(text) => {
                Report::new("42601", format!("\"{text}\" is not one plain expression over an event"))
                    .hint("sub-selects, aggregates, window functions and sets of rows can't be used here")
            }
            ExpressionError::NotImmutable(text) => Report::new(
                "42P17",
                format!("\"{text}\" is not immutable"),
            )
            .hint(
                "its value may depend on settings, on other rows or on the moment, so a rebuild could differ",
            ),
            ExpressionError::SystemColumn(text) => {
                Report::new("0A000", format!("\"{text}\" reads a system column or the whole row"))
            }
            ExpressionError::OwnColumn { expression, column } => Report::new(
                "0A000",
                format!("\"{expression}\" reads column \"{column}\", which was added to tally.events"),
            )
            .hint("a rollup is made of what the event itself says; read it from properties"),
            ExpressionError::Type { expression, found, needed } => Report::new(
                "42804",
                format!("\"{expression}\" has type {found}, which can't be cast to {needed}"),
            ),
        }
    }
}

/// An analysed expression. The tree lives in the memory context that was current in `analyse`.
#[derive(Clone, Copy)]
pub struct Expression {
    pub(super) node: *mut pg_sys::Node,
    pub type_oid: Oid,
    pub collation: Oid,
    pub length: i16,
    pub by_value: bool,
    /// Whether it calls Postgres' own functions and ours alone, on types of Postgres' own.
    pub is_built_in: bool,
}

impl Expression {
    /// Whether both have the same value for every event.
    pub fn is_same(&self, other: &Expression) -> bool {
        // SAFETY: both trees live; places in the text are not compared.
        self.type_oid == other.type_oid && unsafe { pg_sys::equal(self.node.cast(), other.node.cast()) }
    }

    /// Whether it is a column of the event, so that its value lives as long as the event's.
    pub fn is_column(&self) -> bool {
        // SAFETY: the tree lives.
        unsafe { (*self.node).type_ == pg_sys::NodeTag::T_Var }
    }
}

/// An expression with what was found out about it.
pub struct Analysis {
    pub expression: Expression,
    /// The name that a SELECT would give the column.
    pub name: String,
    pub code: Code,
    /// Whether a literal in it says a moment by a word, as `'now'`: what it counts depends on who analyses it, and when.
    pub says_moment: bool,
    /// Whether a part of it that Postgres takes for immutable goes by settings, other rows or the moment.
    pub has_mutable_part: bool,
    /// The type whose values are written out and read anew as the type that was asked for: most texts are none of that type.
    pub read_from: Option<Oid>,
    /// Whether it reads the event's properties, which may have anything.
    pub has_properties: bool,
}

/// Analyses `text`, which may end in `AS name`. Code of anybody's may run: input functions of literals, and functions of
/// constants.
pub fn analyse(text: &str, cast_to: Option<Oid>, declared: &Declared) -> Result<Analysis, ExpressionError> {
    let (query, words) = parsed(text)?;
    // SAFETY: the query's nodes live in the current memory context; each pointer is checked or guaranteed by the node's type.
    unsafe {
        let query = &*query;
        let entry = &*pg_sys::list_nth(query.targetList, 0).cast::<pg_sys::TargetEntry>();
        let name = CStr::from_ptr(entry.resname).to_string_lossy().into_owned();
        let mut node = entry.expr.cast::<pg_sys::Node>();
        // What is kept of a domain is a value of the type beneath: kept values are read by whoever reads the rollup, and a
        // domain's checks are somebody's code.
        let beneath = pg_sys::getBaseType(pg_sys::exprType(node));
        let found = pg_sys::exprType(node);
        let cast_to = cast_to.or_else(|| (beneath != pg_sys::exprType(node)).then_some(beneath));
        let is_literal = (*node).type_ == pg_sys::NodeTag::T_Const;
        if let Some(needed) = cast_to {
            node = pg_sys::coerce_to_target_type(
                ptr::null_mut(),
                node,
                found,
                needed,
                -1,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
                -1,
            );
            if node.is_null() {
                return Err(ExpressionError::Type {
                    expression: text.to_owned(),
                    found: type_name(found),
                    needed: type_name(needed),
                });
            }
        }
        // A literal is read here, once for all.
        let is_read_anew = !is_literal
            && cast_to.is_some_and(|needed| needed != found)
            && (*node).type_ == pg_sys::NodeTag::T_CoerceViaIO;
        let mut has_properties = false;
        // The parser did so before the cast was put around.
        pg_sys::assign_expr_collations(ptr::null_mut(), node);
        let mut columns: *mut pg_sys::Bitmapset = ptr::null_mut();
        pg_sys::pull_varattnos(node, 1, &raw mut columns);
        let first = pg_sys::bms_next_member(columns, -1);
        if first >= 0 && first + pg_sys::FirstLowInvalidHeapAttributeNumber <= 0 {
            return Err(ExpressionError::SystemColumn(text.to_owned()));
        }
        let mut column = -1;
        loop {
            column = pg_sys::bms_next_member(columns, column);
            if column < 0 {
                break;
            }
            let number = (column + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16;
            let table = &*pg_sys::list_nth(query.rtable, 0).cast::<pg_sys::RangeTblEntry>();
            let name = CStr::from_ptr(pg_sys::get_attname(table.relid, number, false)).to_string_lossy();
            has_properties |= name == "properties";
            if !declared.columns.iter().any(|(declared, _)| *declared == name) {
                return Err(ExpressionError::OwnColumn {
                    expression: text.to_owned(),
                    column: name.into_owned(),
                });
            }
        }
        if pg_sys::contain_mutable_functions(node) {
            return Err(ExpressionError::NotImmutable(text.to_owned()));
        }
        // Before planning, which puts the bodies of functions in the place of their calls.
        let code = Code::of(node);
        let says_moment = moment::is_read(node, &words);
        let has_mutable_part = mutable_parts::has_any(node);
        let node = pg_sys::expression_planner(node.cast()).cast::<pg_sys::Node>();
        let type_oid = pg_sys::exprType(node);
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(type_oid, &raw mut length, &raw mut by_value, &raw mut align);
        let collation = pg_sys::exprCollation(node);
        let is_built_in = code.is_built_in();
        Ok(Analysis {
            expression: Expression { node, type_oid, collation, length, by_value, is_built_in },
            name,
            code,
            says_moment,
            has_mutable_part,
            read_from: is_read_anew.then_some(found),
            has_properties,
        })
    }
}

/// The query over events whose only column is the expression, in the current memory context.
fn parsed(text: &str) -> Result<(*mut pg_sys::Query, Vec<i32>), ExpressionError> {
    let not_plain = || ExpressionError::NotPlain(text.to_owned());
    // A newline before FROM, so that a comment at the end can't swallow it.
    let query = CString::new(format!("SELECT {text}\nFROM tally.events")).map_err(|_| not_plain())?;
    // SAFETY: the parser's nodes are read while the context they were palloc'd in lives; each pointer is checked or
    // guaranteed by the node's type.
    unsafe {
        let statements = pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if list::length(statements) != 1 {
            return Err(not_plain());
        }
        let statement = pg_sys::list_nth(statements, 0).cast::<pg_sys::RawStmt>();
        if (*(*statement).stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            return Err(not_plain());
        }
        // Analysing changes the tree.
        let words = moment::words((*statement).stmt);
        let found =
            pg_sys::parse_analyze_fixedparams(statement, query.as_ptr(), ptr::null(), 0, ptr::null_mut());
        let query = &*found;
        // SELECT INTO is a command, which has nothing of what is read below.
        if query.commandType != pg_sys::CmdType::CMD_SELECT || query.jointree.is_null() {
            return Err(not_plain());
        }
        let from = (*query.jointree).fromlist;
        let plain = list::length(query.targetList) == 1
            && list::length(query.rtable) == 1
            && list::length(from) == 1
            && (*query.jointree).quals.is_null()
            && !query.hasAggs
            && !query.hasWindowFuncs
            && !query.hasTargetSRFs
            && !query.hasSubLinks
            && [query.cteList, query.groupClause, query.distinctClause, query.sortClause, query.rowMarks]
                .iter()
                .all(|list| list.is_null())
            && query.setOperations.is_null()
            && query.limitCount.is_null()
            && query.limitOffset.is_null();
        if plain { Ok((found, words)) } else { Err(not_plain()) }
    }
}

/// What an expression reads; nothing of it is evaluated, but code of anybody's may run: input functions of literals.
pub fn reads(text: &str) -> Result<Reads, ExpressionError> {
    let (query, _) = parsed(text)?;
    // SAFETY: as in `analyse`.
    unsafe {
        let entry = pg_sys::list_nth((*query).targetList, 0).cast::<pg_sys::TargetEntry>();
        let table = pg_sys::list_nth((*query).rtable, 0).cast::<pg_sys::RangeTblEntry>();
        Ok(Reads::of((*entry).expr.cast(), (*table).relid))
    }
}

/// Whether `text` is one item of a SELECT's list by itself. Not so what only the beginning of a list may have, as `ALL name`, which
/// can be put in no other place; raises Postgres' own error where it is no SQL there.
pub fn is_item(text: &str) -> bool {
    let Ok(query) = CString::new(format!("SELECT 1, {text}\nFROM tally.events")) else { return false };
    // SAFETY: the parser's nodes live in the current memory context; the tag says which struct a node is.
    unsafe {
        let statements = pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if list::length(statements) != 1 {
            return false;
        }
        let statement = (*pg_sys::list_nth(statements, 0).cast::<pg_sys::RawStmt>()).stmt;
        (*statement).type_ == pg_sys::NodeTag::T_SelectStmt
            && list::length((*statement.cast::<pg_sys::SelectStmt>()).targetList) == 2
    }
}

/// Whether there are arrays of a type.
pub fn has_array_type(oid: Oid) -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::get_array_type(oid) != pg_sys::InvalidOid }
}

/// Whether Postgres has a `min` of a type of its own, or of one that it casts it to by itself.
pub fn has_minimum(oid: Oid) -> bool {
    let least = "SELECT EXISTS (
        SELECT FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_type AS t ON t.oid = $1
         WHERE f.proname = 'min' AND f.pronamespace = 'pg_catalog'::regnamespace
           AND (f.proargtypes[0] = t.oid OR (f.proargtypes[0] = 'anyarray'::regtype AND t.typcategory = 'A')
             OR (f.proargtypes[0] = 'anyenum'::regtype AND t.typtype = 'e')
             OR EXISTS (SELECT FROM pg_catalog.pg_cast AS c
                         WHERE c.castsource = t.oid AND c.casttarget = f.proargtypes[0] AND c.castcontext = 'i')))";
    // A standby asks, too.
    session::as_owner(|| sql::rows(least, &[oid.into()], |row| row.need::<bool>(1)) == [true])
}

/// Whether a type is one that a column can't have, as an anonymous row.
pub fn is_pseudo(oid: Oid) -> bool {
    // SAFETY: a syscache look-up.
    matches!(unsafe { pg_sys::get_typtype(oid) } as u8, b'p')
}

/// Whether Postgres' own min and max take a type as it is. Of a row or a range they would take what it is cast to, and casts are
/// code of whoever owns the type.
pub fn has_extremes(oid: Oid) -> bool {
    // SAFETY: a syscache look-up.
    matches!(unsafe { pg_sys::get_typtype(oid) } as u8, b'b' | b'e')
}

/// Whether a type comes with Postgres, and with it all that it is cast to.
pub fn is_type_of_postgres(oid: Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

/// Evaluates a set of expressions, with an optional filter, one event after the other.
pub struct Projector {
    context: *mut pg_sys::ExprContext,
    event: *mut pg_sys::TupleTableSlot,
    filter: *mut pg_sys::ExprState,
    projection: *mut pg_sys::ProjectionInfo,
    result: *mut pg_sys::TupleTableSlot,
    columns: usize,
    layout: Layout,
}

impl Projector {
    /// Prepares evaluation in the current memory context, for rows of `declared`, a table that lies at `events`.
    pub fn new(
        events: Oid,
        declared: &Declared,
        filter: Option<&Expression>,
        expressions: &[Expression],
    ) -> Result<Self, TableError> {
        // SAFETY: executor set-up as for a scan's projection; the relation is open while its descriptor is copied.
        unsafe {
            let relation = pg_sys::table_open(events, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
            let layout = Layout::of(relation, declared);
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            let layout = layout?;
            let event = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            // Columns that an administrator added aren't the event's.
            core::slice::from_raw_parts_mut((*event).tts_isnull, (*descriptor).natts as usize).fill(true);
            let mut targets: *mut pg_sys::List = ptr::null_mut();
            for (position, expression) in expressions.iter().enumerate() {
                let entry = pg_sys::makeTargetEntry(
                    expression.node.cast(),
                    position as i16 + 1,
                    ptr::null_mut(),
                    false,
                );
                targets = pg_sys::lappend(targets, entry.cast());
            }
            let result = pg_sys::MakeSingleTupleTableSlot(
                pg_sys::ExecTypeFromTL(targets),
                &raw const pg_sys::TTSOpsVirtual,
            );
            let context = pg_sys::CreateStandaloneExprContext();
            (*context).ecxt_scantuple = event;
            let projection =
                pg_sys::ExecBuildProjectionInfo(targets, context, result, ptr::null_mut(), ptr::null_mut());
            let filter = filter
                .map_or(ptr::null_mut(), |filter| pg_sys::ExecInitExpr(filter.node.cast(), ptr::null_mut()));
            Ok(Self { context, event, filter, projection, result, columns: expressions.len(), layout })
        }
    }

    /// Evaluates the expressions for one event; `None` where the filter isn't true. The values are valid until the next
    /// call.
    pub fn evaluate(&mut self, values: &[Datum], nulls: &[bool]) -> Option<(&[Datum], &[bool])> {
        // SAFETY: the event slot has room for its descriptor's columns, checked below; the closure handed to the guard
        // owns nothing that an error's long jump could leak.
        unsafe {
            let columns = (*(*self.event).tts_tupleDescriptor).natts as usize;
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            pg_sys::ExecClearTuple(self.event);
            let slot_values = core::slice::from_raw_parts_mut((*self.event).tts_values, columns);
            let slot_nulls = core::slice::from_raw_parts_mut((*self.event).tts_isnull, columns);
            self.layout.scatter(values, nulls, slot_values, slot_nulls);
            pg_sys::ExecStoreVirtualTuple(self.event);

            let outer = pg_sys::MemoryContextSwitchTo((*self.context).ecxt_per_tuple_memory);
            let (filter, context) = (self.filter, self.context);
            let projection = &raw mut (*self.projection).pi_state;
            let (result, columns) = (self.result, self.columns);
            let admitted = pg_guard_ffi_boundary(move || {
                let mut is_null = false;
                if !filter.is_null() {
                    let evaluate = (*filter).evalfunc.unwrap_unchecked();
                    let value = evaluate(filter, context, &raw mut is_null);
                    if is_null || value.value() == 0 {
                        return false;
                    }
                }
                if columns > 0 {
                    let evaluate = (*projection).evalfunc.unwrap_unchecked();
                    evaluate(projection, context, &raw mut is_null);
                }
                true
            });
            pg_sys::MemoryContextSwitchTo(outer);
            admitted.then(|| {
                if columns == 0 {
                    return (&[][..], &[][..]);
                }
                (
                    core::slice::from_raw_parts((*result).tts_values, columns),
                    core::slice::from_raw_parts((*result).tts_isnull, columns),
                )
            })
        }
    }
}
