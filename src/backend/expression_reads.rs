//! What an expression reads of an event, by its tree: which columns, and of the properties which.

use super::expression_code::Code;
use super::{list, schema};
use core::ffi::{CStr, c_void};
use core::ptr;
use pgrx::pg_sys::{self, NodeTag, Oid};
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, direct_function_call};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use tally_core::privacy::{Reading, Step};

/// What an expression reads.
#[derive(Debug, Default)]
pub struct Reads {
    /// Whether that can't be told: it may be everything.
    pub is_unknown: bool,
    /// Columns with their numbers, but for the properties.
    pub columns: BTreeMap<String, i16>,
    pub properties: Vec<Reading>,
    /// The column that it is, where it is nothing else.
    pub column: Option<String>,
    /// Whether it may write in capitals, or in small letters, what it reads.
    pub folds_case: bool,
}

impl Reads {
    /// Of an expression that can't be read.
    pub fn unknown() -> Self {
        Self { is_unknown: true, properties: vec![Reading::default()], folds_case: true, ..Self::default() }
    }

    /// Whether it reads a column, not the properties, that an event brings.
    pub fn reads_column(&self, name: &str) -> bool {
        self.is_unknown || self.columns.contains_key(name)
    }

    /// Of an analysed expression, not planned, over a table.
    ///
    /// # Safety
    /// The node is a valid expression tree, whose variables are of the table.
    pub(super) unsafe fn of(node: *mut pg_sys::Node, table: Oid) -> Self {
        let mut walk = Walk { table, reads: Self::default(), found: HashSet::new() };
        // SAFETY: the caller's promise.
        unsafe {
            walk.read(node, &[Reading::default()]);
            let bare = without_relabelling(node);
            let mut reads = walk.reads;
            reads.column = match (*bare).type_ {
                NodeTag::T_Var => name_of(table, (*bare.cast::<pg_sys::Var>()).varattno),
                _ => None,
            };
            reads.folds_case =
                Code::of(node).functions.into_iter().any(|of| is_named(of, &[c"lower", c"upper"]));
            reads
        }
    }
}

/// Whether a function, anybody's, has one of some names.
fn is_named(function: Oid, names: &[&CStr]) -> bool {
    // SAFETY: a look-up; the name is a palloc'd C string, or null.
    unsafe {
        let name = pg_sys::get_func_name(function);
        !name.is_null() && names.contains(&CStr::from_ptr(name))
    }
}

fn name_of(table: Oid, number: i16) -> Option<String> {
    // SAFETY: a look-up; the name is a palloc'd C string, or null.
    unsafe {
        let name = pg_sys::get_attname(table, number, true);
        (number > 0 && !name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// What a node is the value of, under another type or another collation.
unsafe fn without_relabelling(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the tag says which struct a node is.
    unsafe {
        loop {
            node = match (*node).type_ {
                NodeTag::T_RelabelType => (*node.cast::<pg_sys::RelabelType>()).arg.cast(),
                NodeTag::T_CollateExpr => (*node.cast::<pg_sys::CollateExpr>()).arg.cast(),
                _ => return node,
            };
        }
    }
}

/// How a function reads the document that it takes first, or the second of its two arguments.
enum Way {
    /// What it returns, or decides by, is what lies there, with all that is in it.
    To(Vec<Vec<Step>>),
    /// It returns the document without these keys, or without something else that doesn't matter.
    Without(Vec<String>),
}

impl Way {
    /// What is looked at of the document, where of what the function makes of it some readings are.
    fn before(&self, looked_at: &[Reading]) -> Vec<Reading> {
        let of = |reading: &Reading| -> Vec<Reading> {
            match self {
                Self::To(ways) => ways
                    .iter()
                    .map(|way| Reading { steps: [&way[..], &reading.steps].concat(), without: Vec::new() })
                    .collect(),
                Self::Without(keys) => vec![Reading {
                    steps: reading.steps.clone(),
                    without: [&keys[..], &reading.without].concat(),
                }],
            }
        };
        looked_at.iter().flat_map(of).collect()
    }
}

struct Walk {
    table: Oid,
    reads: Reads,
    /// The readings among these.
    found: HashSet<Reading>,
}

impl Walk {
    /// Notes what a node reads, of which only what lies where the steps of some readings lead is looked at, and where it is the
    /// properties, not what is under the keys `without`. All of them at once: each node is read once.
    unsafe fn read(&mut self, node: *mut pg_sys::Node, looked_at: &[Reading]) {
        let whole = &[Reading::default()];
        // SAFETY: the tag says which struct a node is; lists are of nodes.
        unsafe {
            if node.is_null() {
                return;
            }
            pg_sys::check_stack_depth();
            check_for_interrupts!();
            match (*node).type_ {
                NodeTag::T_Var => self.variable((*node.cast::<pg_sys::Var>()).varattno, looked_at),
                NodeTag::T_RelabelType | NodeTag::T_CollateExpr => {
                    self.read(without_relabelling(node), looked_at);
                }
                NodeTag::T_CoalesceExpr => {
                    for argument in list::items((*node.cast::<pg_sys::CoalesceExpr>()).args) {
                        self.read(argument, looked_at);
                    }
                }
                NodeTag::T_CaseExpr => {
                    let case = &*node.cast::<pg_sys::CaseExpr>();
                    self.read(case.arg.cast(), whole);
                    for when in list::items::<pg_sys::CaseWhen>(case.args) {
                        self.read((*when).expr.cast(), whole);
                        self.read((*when).result.cast(), looked_at);
                    }
                    self.read(case.defresult.cast(), looked_at);
                }
                _ => {
                    let call = called(node).and_then(|(function, arguments)| way(function, &arguments));
                    match call.or_else(|| subscripted(node)) {
                        // Of a document that nothing is looked for in, nothing is read.
                        Some((_, Way::To(ways))) if ways.is_empty() => {}
                        Some((document, way)) => self.read(document, &way.before(looked_at)),
                        None => {
                            pg_sys::expression_tree_walker(node, Some(walk), ptr::from_mut(self).cast());
                        }
                    }
                }
            }
        }
    }

    fn variable(&mut self, number: i16, looked_at: &[Reading]) {
        match name_of(self.table, number) {
            Some(name) if name == "properties" => {
                for reading in looked_at {
                    if self.found.insert(reading.clone()) {
                        self.reads.properties.push(reading.clone());
                    }
                }
            }
            Some(name) => {
                self.reads.columns.insert(name, number);
            }
            // The whole row. Columns of the system tell nothing of the event.
            None if number == 0 => {
                self.reads.is_unknown = true;
                self.reads.properties.push(Reading::default());
            }
            None => {}
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, reads: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes of a valid tree, and the context that it was given.
    unsafe { (*reads.cast::<Walk>()).read(node, &[Reading::default()]) };
    false
}

/// The function that a node calls, and its arguments, in the function's order.
unsafe fn called(node: *mut pg_sys::Node) -> Option<(Oid, Vec<*mut pg_sys::Node>)> {
    // SAFETY: the tag says which struct a node is; arguments are nodes.
    unsafe {
        let (function, arguments) = match (*node).type_ {
            NodeTag::T_OpExpr => {
                let operation = &*node.cast::<pg_sys::OpExpr>();
                (pg_sys::get_opcode(operation.opno), operation.args)
            }
            NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                (call.funcid, call.args)
            }
            _ => return None,
        };
        let mut placed = vec![ptr::null_mut(); list::length(arguments) as usize];
        for (place, argument) in list::items::<pg_sys::Node>(arguments).enumerate() {
            let (place, argument) = if (*argument).type_ == NodeTag::T_NamedArgExpr {
                let named = &*argument.cast::<pg_sys::NamedArgExpr>();
                (named.argnumber as usize, named.arg.cast())
            } else {
                (place, argument)
            };
            *placed.get_mut(place)? = argument;
        }
        Some((function, placed))
    }
}

/// The document that a function takes, and how it reads it; `None` where that isn't known, or depends on the event.
unsafe fn way(function: Oid, arguments: &[*mut pg_sys::Node]) -> Option<(*mut pg_sys::Node, Way)> {
    let &[first, second] = arguments else { return None };
    let one = |steps| Some((first, Way::To(vec![steps])));
    let each = |keys: Vec<String>| {
        let steps = keys.into_iter().map(|key| vec![Step::Key(key)]);
        Some((first, Way::To(steps.collect())))
    };
    // SAFETY: both are expressions.
    unsafe {
        match function.to_u32() {
            pg_sys::F_JSONB_OBJECT_FIELD | pg_sys::F_JSONB_OBJECT_FIELD_TEXT => {
                one(vec![Step::Key(text(second)?)])
            }
            pg_sys::F_JSONB_ARRAY_ELEMENT | pg_sys::F_JSONB_ARRAY_ELEMENT_TEXT => {
                constant(second).and_then(|_| one(vec![Step::Element]))
            }
            pg_sys::F_JSONB_EXTRACT_PATH | pg_sys::F_JSONB_EXTRACT_PATH_TEXT => {
                one(texts(second)?.into_iter().map(Step::of_text).collect())
            }
            // Of an array or a text: whether that is an element, or it.
            pg_sys::F_JSONB_EXISTS => each(vec![text(second)?]),
            pg_sys::F_JSONB_EXISTS_ANY | pg_sys::F_JSONB_EXISTS_ALL => each(texts(second)?),
            pg_sys::F_JSONB_CONTAINS => Some((first, Way::To(leaves(second)?))),
            pg_sys::F_JSONB_CONTAINED => Some((second, Way::To(leaves(first)?))),
            pg_sys::F_JSONB_DELETE_JSONB_TEXT => Some((first, Way::Without(vec![text(second)?]))),
            pg_sys::F_JSONB_DELETE_JSONB__TEXT => Some((first, Way::Without(texts(second)?))),
            pg_sys::F_JSONB_DELETE_PATH => constant(second).map(|_| (first, Way::Without(Vec::new()))),
            _ if takes_number(function) => one(vec![Step::Key(text(second)?)]),
            _ => None,
        }
    }
}

/// Whether it is one of ours that take a number out of the properties.
fn takes_number(function: Oid) -> bool {
    is_named(function, &[c"property_number", c"property_float"]) && schema::has_function(function)
}

/// `document['key']['key']`.
unsafe fn subscripted(node: *mut pg_sys::Node) -> Option<(*mut pg_sys::Node, Way)> {
    // SAFETY: the tag says which struct a node is; subscripts of a document are texts or numbers.
    unsafe {
        if (*node).type_ != NodeTag::T_SubscriptingRef {
            return None;
        }
        let taken = &*node.cast::<pg_sys::SubscriptingRef>();
        if taken.refcontainertype != pg_sys::JSONBOID || !taken.refassgnexpr.is_null() {
            return None;
        }
        let step = |subscript| {
            text(subscript).map(Step::of_text).or_else(|| {
                let number = i32::from_datum((*constant_of(subscript, pg_sys::INT4OID)?).constvalue, false)?;
                Some(Step::of_text(number.to_string()))
            })
        };
        let steps: Option<Vec<Step>> = list::items(taken.refupperindexpr).map(step).collect();
        Some((taken.refexpr.cast(), Way::To(vec![steps?])))
    }
}

/// What an expression of constants is, computed by Postgres' own functions and ours alone; `None` of any other, and of NULL.
unsafe fn constant(node: *mut pg_sys::Node) -> Option<*mut pg_sys::Const> {
    // SAFETY: a valid expression; the tag says which struct a node is. Nobody's code is called.
    unsafe {
        if node.is_null() || !Code::of(node).is_built_in() {
            return None;
        }
        let folded = pg_sys::eval_const_expressions(ptr::null_mut(), node);
        let folded = without_relabelling(folded);
        let found = folded.cast::<pg_sys::Const>();
        ((*folded).type_ == NodeTag::T_Const && !(*found).constisnull).then_some(found)
    }
}

/// The same, of a type.
unsafe fn constant_of(node: *mut pg_sys::Node, type_oid: Oid) -> Option<*mut pg_sys::Const> {
    // SAFETY: as above.
    unsafe { constant(node).filter(|found| (**found).consttype == type_oid) }
}

unsafe fn text(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: as above; a value of the type that the constant has.
    unsafe { String::from_datum((*constant_of(node, pg_sys::TEXTOID)?).constvalue, false) }
}

/// The members of an array, of which none is null.
unsafe fn texts(node: *mut pg_sys::Node) -> Option<Vec<String>> {
    // SAFETY: as above.
    unsafe {
        let found = constant_of(node, pg_sys::TEXTARRAYOID)?;
        let members = Vec::<Option<String>>::from_datum((*found).constvalue, false)?;
        members.into_iter().collect()
    }
}

/// The ways to the scalars, and to what is empty, of a document that is a constant.
unsafe fn leaves(node: *mut pg_sys::Node) -> Option<Vec<Vec<Step>>> {
    // SAFETY: as above; a document prints as a palloc'd C string.
    let document: Value = unsafe {
        let found = constant_of(node, pg_sys::JSONBOID)?;
        let printed = direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some((*found).constvalue)])?;
        serde_json::from_slice(printed.to_bytes()).ok()?
    };
    let mut ways = Vec::new();
    add_leaves(&document, &mut Vec::new(), &mut ways);
    Some(ways)
}

fn add_leaves(value: &Value, way: &mut Vec<Step>, ways: &mut Vec<Vec<Step>>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                way.push(Step::Key(key.clone()));
                add_leaves(value, way, ways);
                way.pop();
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            way.push(Step::Element);
            elements.iter().for_each(|element| add_leaves(element, way, ways));
            way.pop();
        }
        _ => ways.push(way.clone()),
    }
}
