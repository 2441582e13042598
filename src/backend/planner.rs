//! What the planner asks about a condition that a value lies within bounds which a key stands for: how many rows meet it, and by
//! which range of an index they are found.

use super::call::Call;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};

/// A condition: a function whose arguments are, among others, a text and the key that bounds it.
pub struct Condition {
    /// Places of both among the arguments, from 0. A call with fewer arguments bounds nothing.
    pub value: i32,
    pub key: i32,
    /// The functions that give the least and the greatest text of a key, as `regprocedure` reads them.
    pub first: &'static CStr,
    pub last: &'static CStr,
}

/// Answers a support function's request; a null pointer says that there is no answer. `is_one` is asked, where a snapshot is at
/// hand, whether the bounds hold one value alone.
pub fn answer(call: &Call, condition: &Condition, is_one: impl FnOnce() -> bool) -> Datum {
    let request = call.datum(0).expect("the function is strict").cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the function is declared with an `internal` argument, so only the planner calls it, with a request whose tag
    // says which struct it is.
    unsafe {
        let is_one = || pg_sys::ActiveSnapshotSet() && is_one();
        match (*request).type_ {
            pg_sys::NodeTag::T_SupportRequestSelectivity => {
                let request = &mut *request.cast::<pg_sys::SupportRequestSelectivity>();
                let is_bounded = (*request.args).length > condition.key;
                request.selectivity =
                    if is_bounded && is_one() { share_of_one(request, condition) } else { 1.0 };
                Datum::from(&raw mut *request)
            }
            // A range that is as wide as the tenant would only look narrow to the planner.
            pg_sys::NodeTag::T_SupportRequestIndexCondition if is_one() => {
                let request = &*request.cast::<pg_sys::SupportRequestIndexCondition>();
                Datum::from(index_condition(request, condition))
            }
            _ => Datum::from(0),
        }
    }
}

unsafe fn argument(list: *mut pg_sys::List, place: i32) -> *mut pg_sys::Expr {
    // SAFETY: the caller's list is longer than `place`.
    unsafe { pg_sys::list_nth(list, place).cast() }
}

/// `value <operator> bound(key)`, under the collation "C".
unsafe fn compared(
    value: *mut pg_sys::Expr,
    strategy: u32,
    bound: &CStr,
    key: *mut pg_sys::Expr,
) -> *mut pg_sys::Expr {
    // SAFETY: builds nodes in the planner's memory context; the operators are those of text, and the function is ours.
    unsafe {
        let operator = pg_sys::get_opfamily_member(
            pg_sys::TEXT_BTREE_FAM_OID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            strategy as i16,
        );
        let function =
            pgrx::direct_function_call::<Oid>(pg_sys::regprocedurein, &[Some(Datum::from(bound.as_ptr()))])
                .expect("the function is part of the extension");
        let bound = pg_sys::makeFuncExpr(
            function,
            pg_sys::TEXTOID,
            pg_sys::lappend(core::ptr::null_mut(), key.cast()),
            pg_sys::C_COLLATION_OID,
            pg_sys::C_COLLATION_OID,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        pg_sys::make_opclause(
            operator,
            pg_sys::BOOLOID,
            false,
            value,
            bound.cast(),
            Oid::INVALID,
            pg_sys::C_COLLATION_OID,
        )
    }
}

/// What one value among many has: the planner's own guess for `value = unknown`.
unsafe fn share_of_one(request: &pg_sys::SupportRequestSelectivity, condition: &Condition) -> f64 {
    // SAFETY: the request's arguments are those of the function.
    unsafe {
        let (value, key) = (argument(request.args, condition.value), argument(request.args, condition.key));
        let equal = compared(value, pg_sys::BTEqualStrategyNumber, condition.first, key);
        let (relation, sides) = (request.varRelid, request.sjinfo);
        pg_sys::clause_selectivity(request.root, equal.cast(), relation, request.jointype, sides)
    }
}

/// The range of values within the bounds, for an index whose column at hand is the value. A plan may be kept for a key with wider
/// bounds, so it is a range, which holds for every key; it says nothing of the other arguments, so the condition itself is checked
/// again.
unsafe fn index_condition(
    request: &pg_sys::SupportRequestIndexCondition,
    condition: &Condition,
) -> *mut pg_sys::List {
    // SAFETY: the node is the call that the function is asked about, with its arguments.
    unsafe {
        let none = core::ptr::null_mut();
        if (*request.node).type_ != pg_sys::NodeTag::T_FuncExpr {
            return none;
        }
        let arguments = (*request.node.cast::<pg_sys::FuncExpr>()).args;
        let fits = (*arguments).length > condition.key
            && request.indexarg == condition.value
            && request.opfamily == pg_sys::TEXT_BTREE_FAM_OID
            && request.indexcollation == pg_sys::C_COLLATION_OID;
        if !fits {
            return none;
        }
        let (value, key) = (argument(arguments, condition.value), argument(arguments, condition.key));
        if !pg_sys::is_pseudo_constant_for_index(request.root, key.cast(), request.index) {
            return none;
        }
        let range = [
            (pg_sys::BTGreaterEqualStrategyNumber, condition.first),
            (pg_sys::BTLessEqualStrategyNumber, condition.last),
        ];
        range.into_iter().fold(none, |list, (strategy, bound)| {
            pg_sys::lappend(list, compared(value, strategy, bound, key).cast())
        })
    }
}
