//! Which code an expression may run when it is evaluated: its functions, and the types of what they take and give.

use super::guarded;
use super::list;
use super::schema;
use super::version;
use core::ffi::c_void;
use core::ptr;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;

/// Objects with lower numbers come with Postgres.
const FIRST_OTHER: u32 = pg_sys::FirstNormalObjectId;

/// Functions and types that occur in an expression, casts, operators and conversions by text included.
#[derive(Clone, Default)]
pub struct Code {
    pub functions: Vec<Oid>,
    pub types: Vec<Oid>,
}

impl Code {
    /// Of an analysed expression, in which no call has been replaced by the function's body.
    ///
    /// # Safety
    /// The node is a valid expression tree, or null.
    pub unsafe fn of(node: *mut pg_sys::Node) -> Self {
        let mut code = Self::default();
        // SAFETY: the caller's promise; the walker takes the same context.
        unsafe { walk(node, (&raw mut code).cast()) };
        code
    }

    /// Of a statement, or of an expression, wherever it stands in it: the functions that are called, and the types of which these and casts
    /// make values. What is only read is none of it.
    ///
    /// # Safety
    /// The node is a valid tree, or null.
    pub unsafe fn made_by(node: *mut pg_sys::Node) -> Self {
        let mut code = Self::default();
        // SAFETY: as above.
        unsafe { walk_made(node, (&raw mut code).cast()) };
        code
    }

    /// Notes the functions that a node calls, but for a cast's to a type: what that runs, the type says.
    ///
    /// # Safety
    /// The node is a valid one.
    unsafe fn note(&mut self, node: *mut pg_sys::Node) {
        let before = self.functions.len();
        // SAFETY: the caller's promise.
        unsafe {
            pg_sys::check_functions_in_node(node, Some(note_function), ptr::from_mut(self).cast());
            if (*node).type_ == pg_sys::NodeTag::T_CoerceViaIO {
                let called = self.functions.split_off(before);
                self.functions.extend(called.into_iter().filter(|&called| !guarded::makes_by_type(called)));
            }
        }
    }

    /// Adds what another one has.
    pub fn add(&mut self, other: Self) {
        self.functions.extend(other.functions);
        self.types.extend(other.types);
    }

    /// Whether all of it comes with Postgres, or with us. What isn't Postgres' takes a look-up each: who asks for events keeps the answer.
    pub fn is_built_in(&self) -> bool {
        self.types.iter().all(|of| of.to_u32() < FIRST_OTHER)
            && self.functions.iter().all(|&of| of.to_u32() < FIRST_OTHER || schema::has_function(of))
    }
}

/// Functions of no arguments that tell the time or draw a number.
const MOMENTS: [u32; 5] = [
    pg_sys::F_NOW,
    pg_sys::F_TRANSACTION_TIMESTAMP,
    pg_sys::F_STATEMENT_TIMESTAMP,
    pg_sys::F_CLOCK_TIMESTAMP,
    pg_sys::F_GEN_RANDOM_UUID,
];

/// Whether an expression, or each of a list, can do nothing but compute, whoever evaluates it: it calls nobody's code, and reads neither
/// their rights nor their settings, but for the time zone.
///
/// # Safety
/// As `Code::of`.
pub unsafe fn computes_alone(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; the tag says which struct a node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_FuncExpr
                if MOMENTS.contains(&(*node.cast::<pg_sys::FuncExpr>()).funcid.to_u32()) =>
            {
                true
            }
            pg_sys::NodeTag::T_SQLValueFunction => {
                (*node.cast::<pg_sys::SQLValueFunction>()).op
                    <= pg_sys::SQLValueFunctionOp::SVFOP_LOCALTIMESTAMP_N
            }
            _ => !pg_sys::contain_mutable_functions(node) && Code::of(node).is_built_in(),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, code: *mut c_void) -> bool {
    // SAFETY: the tree walker passes nodes of a valid tree, and the context that it was given. Lists and the arms of a CASE
    // are no expressions of their own, and have no type.
    unsafe {
        if node.is_null() {
            return false;
        }
        (*code.cast::<Code>()).note(node);
        if !matches!((*node).type_, pg_sys::NodeTag::T_List | pg_sys::NodeTag::T_CaseWhen) {
            (*code.cast::<Code>()).types.push(pg_sys::exprType(node));
        }
        pg_sys::expression_tree_walker(node, Some(walk), code)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk_made(node: *mut pg_sys::Node, code: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: as above; the tag says which struct a node is. Arguments are expressions, which have a type: a function may make a value of it
    // that it doesn't return.
    unsafe {
        if node.is_null() {
            return false;
        }
        let tag = (*node).type_;
        if tag == Tag::T_Query {
            return pg_sys::query_tree_walker(node.cast(), Some(walk_made), code, 0);
        }
        let found = &mut *code.cast::<Code>();
        found.note(node);
        let arguments = match tag {
            Tag::T_FuncExpr => (*node.cast::<pg_sys::FuncExpr>()).args,
            // The same struct.
            Tag::T_OpExpr | Tag::T_DistinctExpr | Tag::T_NullIfExpr => (*node.cast::<pg_sys::OpExpr>()).args,
            Tag::T_ScalarArrayOpExpr => (*node.cast::<pg_sys::ScalarArrayOpExpr>()).args,
            Tag::T_WindowFunc => (*node.cast::<pg_sys::WindowFunc>()).args,
            _ => ptr::null_mut(),
        };
        found.types.extend(list::items::<pg_sys::Node>(arguments).map(|argument| pg_sys::exprType(argument)));
        match tag {
            Tag::T_Aggref => {
                let aggregate = &*node.cast::<pg_sys::Aggref>();
                found.types.extend(list::ids(aggregate.aggargtypes).chain([aggregate.aggtype]));
            }
            Tag::T_FuncExpr
            | Tag::T_OpExpr
            | Tag::T_WindowFunc
            | Tag::T_CoerceToDomain
            | Tag::T_CoerceViaIO
            | Tag::T_ArrayCoerceExpr => found.types.push(pg_sys::exprType(node)),
            Tag::T_RangeTblFunction => {
                found.types.extend(list::ids((*node.cast::<pg_sys::RangeTblFunction>()).funccoltypes));
            }
            Tag::T_TableFunc => found.types.extend(list::ids((*node.cast::<pg_sys::TableFunc>()).coltypes)),
            _ => found.types.extend(version::type_read_from_json(node)),
        }
        pg_sys::expression_tree_walker(node, Some(walk_made), code)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: Oid, code: *mut c_void) -> bool {
    // SAFETY: the context that `walk` was given.
    unsafe { (*code.cast::<Code>()).functions.push(function) };
    false
}
