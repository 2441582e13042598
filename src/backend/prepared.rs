//! Expressions over events that are prepared once and evaluated for the events of many calls.
//!
//! Preparing one looks its functions up and asks whether they may be called, which takes as long as evaluating it for a hundred events.
//! So what was prepared is kept until this backend hears of a changed table, schema, function, type, role or membership.

use super::arena::Arena;
use super::changes::{self, Heard};
use super::expression::Expression;
use super::heap::{Declared, Layout, TableError};
use super::value;
use core::ptr;
use pgrx::pg_sys::{self, Datum, Oid, ffi::pg_guard_ffi_boundary};
use std::cell::{Cell, RefCell};

/// Events whose values are computed before what that took is given back.
const CHUNK: usize = 64;

/// An expression, and for which events its value is wanted.
pub struct Wanted {
    pub expression: Expression,
    /// Conditions of which one must be met; empty where it is wanted for every event.
    pub conditions: Vec<usize>,
}

/// What is to be evaluated for each event.
#[derive(Default)]
pub struct List {
    pub conditions: Vec<Expression>,
    pub expressions: Vec<Wanted>,
}

/// The values of a list's expressions for some events, and which conditions these meet. A value that is not wanted is null.
pub struct Values {
    expressions: usize,
    conditions: usize,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    met: Vec<bool>,
    /// What the values point to, beside the events themselves.
    _arena: Arena,
}

impl Values {
    /// Those of an event, in the order of the expressions.
    pub fn of(&self, event: usize) -> (&[Datum], &[bool]) {
        let places = event * self.expressions..(event + 1) * self.expressions;
        (&self.values[places.clone()], &self.nulls[places])
    }

    /// Whether an event meets a condition.
    pub fn is_met(&self, event: usize, condition: usize) -> bool {
        self.met[event * self.conditions + condition]
    }
}

/// An expression that is ready to run, with its conditions.
struct Step {
    state: *mut pg_sys::ExprState,
    conditions: *const usize,
    count: usize,
    is_varlena: bool,
}

/// A list that is ready to run.
struct Ready {
    heard: Heard,
    events: Oid,
    context: *mut pg_sys::ExprContext,
    event: *mut pg_sys::TupleTableSlot,
    conditions: Vec<*mut pg_sys::ExprState>,
    steps: Vec<Step>,
    layout: Layout,
}

/// A list with the memory in which it is made ready.
pub struct Prepared {
    list: List,
    memory: pg_sys::MemoryContext,
    ready: RefCell<Option<Ready>>,
    is_in_use: Cell<bool>,
}

/// While it lives, the memory of what is prepared is in use. An error ends that, too.
struct InUse<'a>(&'a Cell<bool>);

impl<'a> InUse<'a> {
    /// `None` where it is in use already.
    fn begin(of: &'a Cell<bool>) -> Option<Self> {
        // Made only where it wasn't: dropping it ends the use.
        if of.replace(true) { None } else { Some(Self(of)) }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A child of the memory context that is current.
fn new_memory() -> pg_sys::MemoryContext {
    // SAFETY: palloc's, or raises an error.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"pg_tally prepared expressions".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

impl Prepared {
    /// Lives in the memory context that is current, as the list's expressions do.
    pub fn new(list: List) -> Self {
        Self { list, memory: new_memory(), ready: RefCell::new(None), is_in_use: Cell::new(false) }
    }

    /// Evaluates all for rows of `declared`, a table that lies at `events`. What is evaluated may come back to this, where an administrator
    /// made somebody's function one of ours: then it is prepared once more, for that call alone.
    pub fn evaluate<'r>(
        &self,
        events: Oid,
        declared: &Declared,
        rows: impl ExactSizeIterator<Item = (&'r [Datum], &'r [bool])>,
    ) -> Result<Values, TableError> {
        let heard = changes::heard();
        let Some(_in_use) = InUse::begin(&self.is_in_use) else {
            let memory = new_memory();
            let values = self.prepare(memory, heard, events, declared)?.evaluate(&self.list, rows);
            // SAFETY: values point to the events and to their own arena.
            unsafe { pg_sys::MemoryContextDelete(memory) };
            return Ok(values);
        };
        // Not there after an error, whatever state that left it in.
        let known = self.ready.take().filter(|ready| ready.heard == heard && ready.events == events);
        let mut ready = match known {
            Some(ready) => ready,
            None => {
                // SAFETY: nothing points into the memory any more.
                unsafe { pg_sys::MemoryContextReset(self.memory) };
                self.prepare(self.memory, heard, events, declared)?
            }
        };
        let values = ready.evaluate(&self.list, rows);
        self.ready.replace(Some(ready));
        Ok(values)
    }

    fn prepare(
        &self,
        memory: pg_sys::MemoryContext,
        heard: Heard,
        events: Oid,
        declared: &Declared,
    ) -> Result<Ready, TableError> {
        // SAFETY: executor set-up as for a scan's projection. The relation is open while its descriptor is copied.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let relation = pg_sys::table_open(events, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
            let layout = Layout::of(relation, declared);
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            let event = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            // Columns that an administrator added aren't the event's.
            core::slice::from_raw_parts_mut((*event).tts_isnull, (*descriptor).natts as usize).fill(true);
            let context = pg_sys::CreateStandaloneExprContext();
            (*context).ecxt_scantuple = event;
            let state =
                |expression: &Expression| pg_sys::ExecInitExpr(expression.node.cast(), ptr::null_mut());
            let conditions = self.list.conditions.iter().map(state).collect();
            let steps = self.list.expressions.iter().map(|wanted| Step {
                state: state(&wanted.expression),
                conditions: wanted.conditions.as_ptr(),
                count: wanted.conditions.len(),
                is_varlena: wanted.expression.length == -1,
            });
            let steps = steps.collect();
            pg_sys::MemoryContextSwitchTo(outer);
            Ok(Ready { heard, events, context, event, conditions, steps, layout: layout? })
        }
    }
}

impl Ready {
    fn evaluate<'r>(
        &mut self,
        list: &List,
        mut rows: impl ExactSizeIterator<Item = (&'r [Datum], &'r [bool])>,
    ) -> Values {
        let count = rows.len();
        let (expressions, conditions) = (self.steps.len(), self.conditions.len());
        let mut found = Values {
            expressions,
            conditions,
            values: vec![Datum::from(0); count * expressions],
            nulls: vec![true; count * expressions],
            met: vec![false; count * conditions],
            _arena: Arena::default(),
        };
        // Values of columns live as long as the events.
        let copied: Vec<usize> = (0..expressions)
            .filter(|&place| {
                let expression = &list.expressions[place].expression;
                !expression.by_value && !expression.is_column()
            })
            .collect();
        // SAFETY: the slot and the context are this one's, made together.
        let columns = unsafe { (*(*self.event).tts_tupleDescriptor).natts as usize };
        let mut chunk_values = vec![Datum::from(0); CHUNK.min(count) * columns];
        let mut chunk_nulls = vec![true; CHUNK.min(count) * columns];
        for start in (0..count).step_by(CHUNK) {
            let length = CHUNK.min(count - start);
            for event in 0..length {
                let (values, nulls) = rows.next().expect("there are as many rows as was said");
                let places = event * columns..(event + 1) * columns;
                self.layout.scatter(
                    values,
                    nulls,
                    &mut chunk_values[places.clone()],
                    &mut chunk_nulls[places],
                );
            }
            self.run(
                length,
                (&chunk_values, &chunk_nulls),
                &mut found.values[start * expressions..(start + length) * expressions],
                &mut found.nulls[start * expressions..(start + length) * expressions],
                &mut found.met[start * conditions..(start + length) * conditions],
            );
            for event in start..start + length {
                for &place in &copied {
                    let at = event * expressions + place;
                    if !found.nulls[at] {
                        let expression = &list.expressions[place].expression;
                        found.values[at] = value::keep(found.values[at], expression, &mut found._arena);
                    }
                }
            }
            // SAFETY: what the values pointed to was copied.
            unsafe { pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory) };
        }
        found
    }

    /// Evaluates everything for some events; the values live until the context's memory is reset.
    fn run(
        &mut self,
        length: usize,
        (event_values, event_nulls): (&[Datum], &[bool]),
        values: &mut [Datum],
        nulls: &mut [bool],
        met: &mut [bool],
    ) {
        let (steps, conditions) = (&*self.steps, &*self.conditions);
        let (event, context) = (self.event, self.context);
        // SAFETY: the slices have `length` times as many entries as there are columns, steps and conditions, which is checked; the slot has
        // room for its descriptor's columns. The closure handed to the guard owns nothing that an error's long jump could leak, and
        // nothing in it panics.
        unsafe {
            let columns = (*(*event).tts_tupleDescriptor).natts as usize;
            assert!(event_values.len() >= length * columns && event_nulls.len() >= length * columns);
            assert!(values.len() == length * steps.len() && nulls.len() == values.len());
            assert!(met.len() == length * conditions.len());
            pg_sys::ExecClearTuple(event);
            pg_sys::ExecStoreVirtualTuple(event);
            let (event_values, event_nulls) = (event_values.as_ptr(), event_nulls.as_ptr());
            let (values, nulls, met) = (values.as_mut_ptr(), nulls.as_mut_ptr(), met.as_mut_ptr());
            let outer = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            pg_guard_ffi_boundary(move || {
                for row in 0..length {
                    let column = row.wrapping_mul(columns);
                    ptr::copy_nonoverlapping(event_values.add(column), (*event).tts_values, columns);
                    ptr::copy_nonoverlapping(event_nulls.add(column), (*event).tts_isnull, columns);
                    let met = met.add(row.wrapping_mul(conditions.len()));
                    for (place, &condition) in conditions.iter().enumerate() {
                        let mut is_null = false;
                        let value = compute(condition, context, &mut is_null);
                        *met.add(place) = !is_null && value.value() != 0;
                    }
                    let first = row.wrapping_mul(steps.len());
                    for (place, step) in steps.iter().enumerate() {
                        let wanted = step.count == 0
                            || core::slice::from_raw_parts(step.conditions, step.count)
                                .iter()
                                .any(|&condition| *met.add(condition));
                        if !wanted {
                            continue;
                        }
                        let mut is_null = false;
                        let value = compute(step.state, context, &mut is_null);
                        let place = first.wrapping_add(place);
                        *nulls.add(place) = is_null;
                        *values.add(place) =
                            if step.is_varlena && !is_null { value::read_only(value) } else { value };
                    }
                }
            });
            pg_sys::MemoryContextSwitchTo(outer);
        }
    }
}

/// Runs one expression.
///
/// # Safety
/// State and context belong together, inside a guard.
#[inline]
unsafe fn compute(
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    is_null: &mut bool,
) -> Datum {
    // SAFETY: the caller's promise; a state that is ready has its function.
    unsafe {
        let evaluate = (*state).evalfunc.unwrap_unchecked();
        evaluate(state, context, is_null)
    }
}
