//! Which code an expression may run when it is evaluated: its functions, and the types of what they take and give.

use super::schema;
use core::ffi::c_void;
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
        pg_sys::check_functions_in_node(node, Some(note_function), code);
        if !matches!((*node).type_, pg_sys::NodeTag::T_List | pg_sys::NodeTag::T_CaseWhen) {
            (*code.cast::<Code>()).types.push(pg_sys::exprType(node));
        }
        pg_sys::expression_tree_walker(node, Some(walk), code)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: Oid, code: *mut c_void) -> bool {
    // SAFETY: the context that `walk` was given.
    unsafe { (*code.cast::<Code>()).functions.push(function) };
    false
}
