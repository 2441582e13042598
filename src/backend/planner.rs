//! What the planner asks about a condition `in_scope(tenant, account, key)`: how many rows meet it, and by which range of an
//! index they are found.

use super::call::Call;
use pgrx::pg_sys::{self, Datum, Oid};

/// Places of the account and the key among the arguments; where a table has no account the key comes second.
const ACCOUNT: i32 = 1;
const KEY: i32 = 2;

/// Answers a support function's request; a null pointer says that there is no answer. `is_one_account` is asked where a
/// snapshot is at hand.
pub fn answer(call: &Call, is_one_account: impl FnOnce() -> bool) -> Datum {
    let request = call.datum(0).expect("the function is strict").cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the function is declared with an `internal` argument, so only the planner calls it, with a request whose tag
    // says which struct it is.
    unsafe {
        let is_one_account = || pg_sys::ActiveSnapshotSet() && is_one_account();
        match (*request).type_ {
            pg_sys::NodeTag::T_SupportRequestSelectivity => {
                let request = &mut *request.cast::<pg_sys::SupportRequestSelectivity>();
                let has_account = (*request.args).length > KEY;
                request.selectivity =
                    if has_account && is_one_account() { share_of_one_account(request) } else { 1.0 };
                Datum::from(&raw mut *request)
            }
            // A range that is as wide as the tenant would only look narrow to the planner.
            pg_sys::NodeTag::T_SupportRequestIndexCondition if is_one_account() => {
                Datum::from(index_condition(&*request.cast::<pg_sys::SupportRequestIndexCondition>()))
            }
            _ => Datum::from(0),
        }
    }
}

unsafe fn argument(list: *mut pg_sys::List, place: i32) -> *mut pg_sys::Expr {
    // SAFETY: the caller's list is longer than `place`.
    unsafe { pg_sys::list_nth(list, place).cast() }
}

/// `account <operator> bound(key)`, under the collation that ids have.
unsafe fn compared(
    account: *mut pg_sys::Expr,
    strategy: u32,
    bound: &core::ffi::CStr,
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
            account,
            bound.cast(),
            Oid::INVALID,
            pg_sys::C_COLLATION_OID,
        )
    }
}

const FIRST: &core::ffi::CStr = c"tally.first_account(pg_catalog.text)";
const LAST: &core::ffi::CStr = c"tally.last_account(pg_catalog.text)";

/// What one account among many has: the planner's own guess for `account = unknown`.
unsafe fn share_of_one_account(request: &pg_sys::SupportRequestSelectivity) -> f64 {
    // SAFETY: the request's arguments are those of the function.
    unsafe {
        let (account, key) = (argument(request.args, ACCOUNT), argument(request.args, KEY));
        let equal = compared(account, pg_sys::BTEqualStrategyNumber, FIRST, key);
        let (relation, sides) = (request.varRelid, request.sjinfo);
        pg_sys::clause_selectivity(request.root, equal.cast(), relation, request.jointype, sides)
    }
}

/// The range of accounts in scope, for an index whose column at hand is the account. A plan may be kept for a wider scope, so
/// it is a range, which holds in every scope; it says nothing of the tenant, so the condition itself is checked again.
unsafe fn index_condition(request: &pg_sys::SupportRequestIndexCondition) -> *mut pg_sys::List {
    // SAFETY: the node is the call that the function is asked about, with its arguments.
    unsafe {
        let none = core::ptr::null_mut();
        if (*request.node).type_ != pg_sys::NodeTag::T_FuncExpr {
            return none;
        }
        let arguments = (*request.node.cast::<pg_sys::FuncExpr>()).args;
        let fits = (*arguments).length > KEY
            && request.indexarg == ACCOUNT
            && request.opfamily == pg_sys::TEXT_BTREE_FAM_OID
            && request.indexcollation == pg_sys::C_COLLATION_OID;
        if !fits {
            return none;
        }
        let (account, key) = (argument(arguments, ACCOUNT), argument(arguments, KEY));
        if !pg_sys::is_pseudo_constant_for_index(request.root, key.cast(), request.index) {
            return none;
        }
        let range =
            [(pg_sys::BTGreaterEqualStrategyNumber, FIRST), (pg_sys::BTLessEqualStrategyNumber, LAST)];
        range.into_iter().fold(none, |list, (strategy, bound)| {
            pg_sys::lappend(list, compared(account, strategy, bound, key).cast())
        })
    }
}
