//! The row that a trigger function is called for, and whether a table calls one.

use super::call::Call;
use super::report::Report;
use super::schema;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum, Oid};

/// A running trigger call.
pub struct Trigger<'a>(&'a pg_sys::TriggerData);

impl<'a> Trigger<'a> {
    /// `None` where the function isn't called as a trigger.
    pub fn of(call: &'a Call) -> Option<Self> {
        // SAFETY: the call record is valid, and so is its context during the call; the tag says that it is of this kind.
        unsafe {
            let context = call.context();
            (!context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData)
                .then(|| Self(&*context.cast::<pg_sys::TriggerData>()))
        }
    }

    /// The table that the trigger is on.
    pub fn table(&self) -> Oid {
        // SAFETY: the relation is open during the call.
        unsafe { (*self.0.tg_relation).rd_id }
    }

    /// Hands the new row's texts to `take`; its columns are text, nulls are `None`.
    pub fn with_texts<const N: usize, T>(
        &self,
        take: impl FnOnce([Option<&str>; N]) -> T,
    ) -> Result<T, Report> {
        let (mut values, mut nulls) = ([Datum::from(0); N], [false; N]);
        // SAFETY: the trigger is declared FOR EACH ROW on a view with N columns of type text, whose row and descriptor are
        // valid during the call. Detoasted copies are in its memory context. The database's encoding is UTF-8.
        unsafe {
            let descriptor = (*self.0.tg_relation).rd_att;
            let is_text = |place| super::version::attribute(descriptor, place).atttypid == pg_sys::TEXTOID;
            if (*descriptor).natts as usize != N || !(0..N).all(is_text) {
                return Err(Report::new("0A000", "the view tally.inbox has other columns than it was made with")
                    .hint("put its definition back; a view or table of your own may hand rows on to it, in a trigger"));
            }
            pg_sys::heap_deform_tuple(
                self.0.tg_trigtuple,
                descriptor,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let mut texts = [None; N];
            for ((text, value), null) in texts.iter_mut().zip(values).zip(nulls) {
                if !null {
                    let bytes = super::value::varlena_in_place(value).unwrap_or_else(|| {
                        let varlena = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                        pgrx::varlena::varlena_to_byte_slice(varlena)
                    });
                    *text = Some(core::str::from_utf8_unchecked(bytes));
                }
            }
            Ok(take(texts))
        }
    }

    /// The row, as the result of a trigger that has dealt with it. A copy in the row's own memory: the tuple that Postgres
    /// formed for an INSTEAD OF trigger it frees only where it gets another one back, else it stays until the statement
    /// ends, 240 bytes for each row of a COPY.
    pub fn row(&self) -> Datum {
        // SAFETY: the tuple is valid during the call, which runs in a memory context that is reset with each row.
        Datum::from(unsafe { pg_sys::heap_copytuple(self.0.tg_trigtuple) })
    }
}

/// Whether a table calls a function of ours after every row that is inserted, updated or deleted, and when it is
/// truncated, also while it is filled by replication or by a restore.
pub fn is_called_always(table: Oid, function: &CStr) -> bool {
    const ROWS: u32 = pg_sys::TRIGGER_TYPE_ROW
        | pg_sys::TRIGGER_TYPE_INSERT
        | pg_sys::TRIGGER_TYPE_UPDATE
        | pg_sys::TRIGGER_TYPE_DELETE;
    const WHOLE: u32 = pg_sys::TRIGGER_TYPE_TRUNCATE;
    // SAFETY: the relation is open while its triggers are read.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let triggers = (*relation).trigdesc.as_ref().map_or(&[][..], |triggers| {
            core::slice::from_raw_parts(triggers.triggers, triggers.numtriggers as usize)
        });
        // By name, since looking a function up would ask for the right to use the schema.
        let is_named_so = |id: Oid| {
            let name = pg_sys::get_func_name(id);
            !name.is_null() && CStr::from_ptr(name) == function && schema::has_function(id)
        };
        let is_called_on = |events: u32| {
            triggers.iter().any(|trigger| {
                is_named_so(trigger.tgfoid)
                    && trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
                    && trigger.tgtype as u32 & events == events
                    && trigger.tgtype as u32 & pg_sys::TRIGGER_TYPE_BEFORE == 0
                    && trigger.tgnattr == 0
                    && trigger.tgqual.is_null()
            })
        };
        let always = is_called_on(ROWS) && is_called_on(WHOLE);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        always
    }
}
