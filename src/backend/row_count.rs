//! Counting the rows that a statement hands out, before they leave: between the executor and whoever receives them.

use super::list;
use super::memory;
use super::report::Report;
use super::schema;
use super::version::attribute;
use core::ffi::{CStr, c_int};
use pgrx::pg_sys::{self, Datum, DestReceiver, NodeTag, Oid};
use pgrx::prelude::*;
use std::cell::RefCell;

/// Bytes of a row that count as one: a longer one counts once for each that it begins, or many rows would be put together in one.
const ROW_BYTES: u64 = 4096;

/// What a row, or another text, of so many bytes counts as.
pub fn rows_of(bytes: u64) -> u64 {
    1 + bytes / ROW_BYTES
}

/// The bytes that so many rows stand for; of none those of one.
pub fn bytes_of(rows: u64) -> u64 {
    rows.max(1).saturating_mul(ROW_BYTES)
}

/// A receiver that counts and hands on to the statement's own.
#[repr(C)]
struct Counting {
    receiver: DestReceiver,
    inner: *mut DestReceiver,
    /// Rows so far, in all runs of the statement.
    rows: u64,
    most: u64,
    refuse: fn(u64) -> Report,
    statement: usize,
    transaction: u32,
}

thread_local! {
    /// Of the open statements that are counted. Postgres has their addresses while they run.
    #[allow(clippy::vec_box, reason = "an entry must not move while the list grows")]
    static OPEN: RefCell<Vec<Box<Counting>>> = const { RefCell::new(Vec::new()) };
}

/// Has the rows of a run counted: where the statement has handed out more than `most` in all its runs, `refuse` says why not.
///
/// # Safety
/// The statement is open, and about to run; `put_back` follows the run.
pub unsafe fn put_between(query: *mut pg_sys::QueryDesc, most: u64, refuse: fn(u64) -> Report) {
    // SAFETY: the caller's promise.
    unsafe {
        let hands_out =
            (*query).operation == pg_sys::CmdType::CMD_SELECT || (*(*query).plannedstmt).hasReturning;
        let inner = (*query).dest;
        if !hands_out || inner.is_null() || (*inner).mydest == pg_sys::CommandDest::DestNone {
            return;
        }
        let (statement, transaction) = (query as usize, super::version::transaction_number());
        let receiver = receiver(inner);
        (*query).dest = OPEN.with_borrow_mut(|open| {
            open.retain(|counting| counting.transaction == transaction);
            let place = open.iter().position(|counting| counting.statement == statement);
            let place = place.unwrap_or_else(|| {
                let counting = Counting { receiver, inner, rows: 0, most, refuse, statement, transaction };
                open.push(Box::new(counting));
                open.len() - 1
            });
            let counting = &mut *open[place];
            counting.receiver = receiver;
            counting.inner = inner;
            counting.most = most;
            core::ptr::from_mut(counting).cast::<DestReceiver>()
        });
    }
}

/// What counts before another receiver.
///
/// # Safety
/// That is one that is there.
unsafe fn receiver(inner: *mut DestReceiver) -> DestReceiver {
    DestReceiver {
        receiveSlot: Some(receive),
        rStartup: Some(start),
        rShutdown: Some(shut_down),
        rDestroy: Some(destroy),
        // SAFETY: the caller's promise.
        mydest: unsafe { (*inner).mydest },
    }
}

/// A receiver that counts what a command hands out that no statement does, as SHOW. It lives as long as the command, whose transaction may end.
///
/// # Safety
/// The receiver is the command's.
pub unsafe fn counting(inner: *mut DestReceiver, most: u64, refuse: fn(u64) -> Report) -> *mut DestReceiver {
    // SAFETY: the memory is the command's, and written before it is used.
    unsafe {
        let receiver = receiver(inner);
        let memory = if pg_sys::PortalContext.is_null() {
            pg_sys::CurrentMemoryContext
        } else {
            pg_sys::PortalContext
        };
        let counting = pg_sys::MemoryContextAlloc(memory, size_of::<Counting>()).cast::<Counting>();
        counting.write(Counting { receiver, inner, rows: 0, most, refuse, statement: 0, transaction: 0 });
        counting.cast()
    }
}

/// After the run: the statement has its own receiver again.
///
/// # Safety
/// The statement is open.
pub unsafe fn put_back(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise.
    unsafe {
        let receiver = (*query).dest.cast_const().cast::<Counting>();
        let inner = OPEN.with_borrow(|open| {
            open.iter()
                .find(|counting| core::ptr::eq(&raw const ***counting, receiver))
                .map(|counting| counting.inner)
        });
        if let Some(inner) = inner {
            (*query).dest = inner;
        }
    }
}

/// Forgets a statement that begins or has ended: another one may have its address.
pub fn forget(statement: usize) {
    OPEN.with_borrow_mut(|open| open.retain(|counting| counting.statement != statement));
}

// These hold nothing, so that an error of the inner receiver's may jump over them.

unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, own: *mut DestReceiver) -> bool {
    // SAFETY: `own` is a `Counting`, whose inner receiver is the statement's.
    unsafe {
        count(slot, own.cast());
        let inner = (*own.cast::<Counting>()).inner;
        match (*inner).receiveSlot {
            Some(receive) => receive(slot, inner),
            None => true,
        }
    }
}

unsafe extern "C-unwind" fn start(own: *mut DestReceiver, operation: c_int, descriptor: pg_sys::TupleDesc) {
    // SAFETY: as in `receive`.
    unsafe {
        let inner = (*own.cast::<Counting>()).inner;
        if let Some(start) = (*inner).rStartup {
            start(inner, operation, descriptor);
        }
    }
}

unsafe extern "C-unwind" fn shut_down(own: *mut DestReceiver) {
    // SAFETY: as in `receive`.
    unsafe {
        let inner = (*own.cast::<Counting>()).inner;
        if let Some(shut_down) = (*inner).rShutdown {
            shut_down(inner);
        }
    }
}

/// Never called: the statement's own receiver is there again when it is destroyed.
unsafe extern "C-unwind" fn destroy(_own: *mut DestReceiver) {}

#[pg_guard]
unsafe extern "C-unwind" fn count(slot: *mut pg_sys::TupleTableSlot, counting: *mut Counting) {
    // SAFETY: the slot holds a row; the counting receiver belongs to the running statement.
    unsafe {
        (*counting).rows = (*counting).rows.saturating_add(rows_of(bytes(slot)));
        if (*counting).rows > (*counting).most {
            ((*counting).refuse)((*counting).most).raise();
        }
    }
}

/// Bytes of a row's values, uncompressed.
unsafe fn bytes(slot: *mut pg_sys::TupleTableSlot) -> u64 {
    // SAFETY: the slot holds a row; its values are of the types that its descriptor says.
    unsafe {
        pg_sys::slot_getallattrs(slot);
        let descriptor = (*slot).tts_tupleDescriptor;
        let values = (0..(*descriptor).natts as usize).map(|place| {
            let value = *(*slot).tts_values.add(place);
            if *(*slot).tts_isnull.add(place) {
                return 0;
            }
            size(value, attribute(descriptor, place))
        });
        values.sum()
    }
}

/// Bytes of a column's value, which is not null.
unsafe fn size(value: Datum, column: &pg_sys::FormData_pg_attribute) -> u64 {
    // SAFETY: a value of the column's type.
    unsafe {
        match column.attlen {
            // A C string.
            -2 => CStr::from_ptr(value.cast_mut_ptr()).count_bytes() as u64,
            -1 => varlena(value, column.atttypid),
            fixed => fixed.max(0) as u64,
        }
    }
}

/// Bytes of a value of variable length. What is inside of records may be compressed there.
unsafe fn varlena(value: Datum, of_type: Oid) -> u64 {
    // SAFETY: a value of the type, and not null.
    unsafe {
        let bytes = match super::value::varlena_in_place(value) {
            Some(bytes) => bytes.len() as u64,
            None => pg_sys::toast_raw_datum_size(value) as u64,
        };
        if PLAIN.contains(&of_type) {
            return bytes;
        }
        let inside = Inside::of(of_type);
        if inside == Inside::Nothing {
            return bytes;
        }
        memory::in_temporary(c"pg_tally size of a record", || inside.size(value, of_type)).max(bytes)
    }
}

/// Types that most columns of variable length have, with no records inside.
const PLAIN: [Oid; 8] = [
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::BPCHAROID,
    pg_sys::NUMERICOID,
    pg_sys::BYTEAOID,
    pg_sys::JSONBOID,
    pg_sys::JSONOID,
    pg_sys::TEXTARRAYOID,
];

/// Where a type has records, whose fields may be compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    /// It is one.
    Record,
    /// Its elements are or have such.
    Elements(Oid),
    /// Its bounds are: a range, or several.
    Bounds,
}

impl Inside {
    unsafe fn of(of_type: Oid) -> Self {
        // SAFETY: syscache look-ups.
        unsafe {
            let base = pg_sys::getBaseType(of_type);
            let has = |part: Oid| part != Oid::INVALID && Self::of(part) != Self::Nothing;
            if base == pg_sys::RECORDOID {
                return Self::Record;
            }
            let element = pg_sys::get_element_type(base);
            match pg_sys::get_typtype(base) as u8 {
                pg_sys::TYPTYPE_COMPOSITE => Self::Record,
                pg_sys::TYPTYPE_RANGE if has(pg_sys::get_range_subtype(base)) => Self::Bounds,
                pg_sys::TYPTYPE_MULTIRANGE if has(pg_sys::get_multirange_range(base)) => Self::Bounds,
                _ if has(element) => Self::Elements(element),
                _ => Self::Nothing,
            }
        }
    }

    /// Bytes of a value that has records, with what is in them uncompressed.
    unsafe fn size(self, value: Datum, of_type: Oid) -> u64 {
        // SAFETY: a value of the type, and not null; what is allocated is in a temporary context.
        unsafe {
            pg_sys::check_stack_depth();
            match self {
                Self::Nothing => varlena(value, of_type),
                Self::Record => fields(value),
                Self::Elements(element) => {
                    let (mut length, mut by_value, mut align) = (0, false, 0);
                    pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
                    let (mut values, mut nulls, mut count) =
                        (core::ptr::null_mut(), core::ptr::null_mut(), 0);
                    let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast();
                    pg_sys::deconstruct_array(
                        array,
                        element,
                        length.into(),
                        by_value,
                        align,
                        &mut values,
                        &mut nulls,
                        &mut count,
                    );
                    (0..count as usize)
                        .filter(|place| !*nulls.add(*place))
                        .map(|place| varlena(*values.add(place), element))
                        .sum()
                }
                // They are printed as they leave.
                Self::Bounds => {
                    let (mut output, mut is_varlena) = (Oid::INVALID, false);
                    pg_sys::getTypeOutputInfo(of_type, &mut output, &mut is_varlena);
                    CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, value)).count_bytes() as u64
                }
            }
        }
    }
}

/// Bytes of a record's fields.
unsafe fn fields(record: Datum) -> u64 {
    // SAFETY: a record says which type it has; its values are of the types that the descriptor says.
    unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(record.cast_mut_ptr()).cast();
        let datum = (*header).t_choice.t_datum;
        let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(datum.datum_typeid, datum.datum_typmod);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: (datum.datum_len_ as u32) >> 2,
            t_data: header,
            ..Default::default()
        };
        let columns = (*descriptor).natts as usize;
        let mut values = vec![Datum::from(0usize); columns];
        let mut nulls = vec![true; columns];
        pg_sys::heap_deform_tuple(&mut tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        let column = |place: usize| attribute(descriptor, place);
        // Of a field that was dropped since, rows of before have a value, which nobody is shown.
        let is_shown = |place: &usize| !nulls[*place] && !column(*place).attisdropped;
        (0..columns).filter(is_shown).map(|place| size(values[place], column(place))).sum()
    }
}

/// Whether a statement does nothing but hand on what one function of schema tally returns: `SELECT f(…)` or `SELECT * FROM f(…)`.
///
/// # Safety
/// A planned statement that is about to run.
pub unsafe fn is_only_call_of(statement: *const pg_sys::PlannedStmt, function: &CStr) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let plan = (*statement).planTree;
        !plan.is_null()
            && list::length((*plan).targetlist) == 1
            && called_alone(statement)
                .is_some_and(|called| is_our_own(called, |name| name == function.to_bytes()))
    }
}

/// The function of which a statement does nothing but hand on what it returns, or some of its columns.
///
/// # Safety
/// As above.
unsafe fn called_alone(statement: *const pg_sys::PlannedStmt) -> Option<Oid> {
    // SAFETY: the tags say which structs the nodes are.
    unsafe {
        let plan = (*statement).planTree;
        if plan.is_null()
            || (*statement).commandType != pg_sys::CmdType::CMD_SELECT
            || !(*statement).subplans.is_null()
            || !(*plan).qual.is_null()
        {
            return None;
        }
        let columns: Vec<*mut pg_sys::Expr> = (0..list::length((*plan).targetlist))
            .map(|place| (*pg_sys::list_nth((*plan).targetlist, place).cast::<pg_sys::TargetEntry>()).expr)
            .collect();
        let is_column =
            |&column: &*mut pg_sys::Expr| (*column.cast::<pg_sys::Node>()).type_ == NodeTag::T_Var;
        match (&columns[..], (*plan).type_) {
            (&[call], NodeTag::T_ProjectSet) => {
                let below = (*plan).lefttree;
                let is_alone = !below.is_null()
                    && (*below).type_ == NodeTag::T_Result
                    && (*below).lefttree.is_null()
                    && list::length((*below).targetlist) == 0;
                if is_alone { called(call.cast()) } else { None }
            }
            (&[call], NodeTag::T_Result) => {
                let is_alone =
                    (*plan).lefttree.is_null() && (*plan.cast::<pg_sys::Result>()).resconstantqual.is_null();
                if is_alone { called(call.cast()) } else { None }
            }
            (columns, NodeTag::T_FunctionScan) if columns.iter().all(is_column) => {
                let scan = &*plan.cast::<pg_sys::FunctionScan>();
                if list::length(scan.functions) == 1 {
                    called((*pg_sys::list_nth(scan.functions, 0).cast::<pg_sys::RangeTblFunction>()).funcexpr)
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// Whether the statement that the client runs, and not one inside a function, is nothing but a call of a function of ours.
pub fn client_only_calls(function: &CStr) -> bool {
    // SAFETY: a statement that runs is planned.
    unsafe { client_statement().is_some_and(|statement| is_only_call_of(statement, function)) }
}

/// The same, of any whose name begins so.
pub fn client_only_calls_one_of(prefix: &[u8]) -> bool {
    // SAFETY: as above.
    unsafe {
        client_statement()
            .and_then(|statement| called_alone(statement))
            .is_some_and(|called| is_our_own(called, |name| name.starts_with(prefix)))
    }
}

/// The planned statement of the running portal.
fn client_statement() -> Option<*const pg_sys::PlannedStmt> {
    // SAFETY: the portal of the running statement, or null.
    unsafe {
        let query = pg_sys::ActivePortal.as_ref()?.queryDesc.as_ref()?;
        (!query.plannedstmt.is_null()).then_some(query.plannedstmt.cast_const())
    }
}

/// The function that an expression calls, where it does nothing else and the arguments are constants or parameters.
unsafe fn called(expression: *const pg_sys::Node) -> Option<Oid> {
    // SAFETY: as above.
    unsafe {
        if expression.is_null() || (*expression).type_ != NodeTag::T_FuncExpr {
            return None;
        }
        let call = &*expression.cast::<pg_sys::FuncExpr>();
        let plain = (0..list::length(call.args)).all(|place| {
            let argument = pg_sys::list_nth(call.args, place).cast::<pg_sys::Node>();
            matches!((*argument).type_, NodeTag::T_Const | NodeTag::T_Param)
        });
        plain.then_some(call.funcid)
    }
}

/// Whether a function is ours, of a name that will do.
unsafe fn is_our_own(found: Oid, will_do: impl Fn(&[u8]) -> bool) -> bool {
    // SAFETY: a syscache look-up; the name is a palloc'd C string, or null.
    unsafe {
        let name = pg_sys::get_func_name(found);
        !name.is_null() && will_do(CStr::from_ptr(name).to_bytes()) && schema::has_function(found)
    }
}
