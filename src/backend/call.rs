//! SQL functions in their plain C form, for the types and aggregates of this crate: arguments are read in place, and an
//! error may carry an SQLSTATE of our own, which pgrx's list of codes doesn't have.

use super::report::{Raised, Report};
use core::ffi::CStr;
use pgrx::FromDatum;
use pgrx::pg_sys::{self, Datum};

/// What an SQL function comes to; `None` is SQL's null.
pub type Outcome = Result<Option<Datum>, Report>;

/// Defines an SQL function `name` in its C form, with its `pg_finfo` record. The body gets a `Call`.
///
/// `fast $block` comes first and runs without the guard that catches panics and Postgres errors, a fifth of the time of a
/// cheap transition: it neither allocates nor can fail, and gives `None` where the body has to do the work.
macro_rules! sql_function {
    ($(#[$attribute:meta])* fn $name:ident / $record:ident ($call:ident) fast $fast:block $body:block) => {
        $(#[$attribute])*
        #[allow(unsafe_code, reason = "the symbol's name is that of the SQL function")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            #[inline(always)]
            #[deny(unsafe_code)]
            fn fast($call: &$crate::backend::call::Call) -> Option<pgrx::pg_sys::Datum> $fast
            #[deny(unsafe_code)]
            fn body($call: &$crate::backend::call::Call) -> $crate::backend::call::Outcome $body
            // SAFETY: Postgres calls this with a valid call record.
            unsafe {
                match fast(&$crate::backend::call::Call::new(fcinfo)) {
                    Some(datum) => datum,
                    None => $crate::backend::call::answer(fcinfo, body),
                }
            }
        }

        #[doc(hidden)]
        #[allow(unsafe_code, reason = "as above")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static pgrx::pg_sys::Pg_finfo_record {
            static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }
    };
    ($(#[$attribute:meta])* fn $name:ident / $record:ident ($call:ident) $body:block) => {
        $(#[$attribute])*
        #[allow(unsafe_code, reason = "the symbol's name is that of the SQL function")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            #[deny(unsafe_code)]
            fn body($call: &$crate::backend::call::Call) -> $crate::backend::call::Outcome $body
            // SAFETY: Postgres calls this with a valid call record.
            unsafe { $crate::backend::call::answer(fcinfo, body) }
        }

        #[doc(hidden)]
        #[allow(unsafe_code, reason = "as above")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static pgrx::pg_sys::Pg_finfo_record {
            static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }
    };
}
pub(crate) use sql_function;

/// A length of time as SQL has it: three numbers that can't be added up, since months and days differ in length.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Interval {
    pub microseconds: i64,
    pub days: i32,
    pub months: i32,
}

/// The arguments and the surroundings of a running call.
pub struct Call {
    record: pg_sys::FunctionCallInfo,
}

impl Call {
    /// # Safety
    /// `record` is the call record that Postgres passed.
    #[inline]
    pub unsafe fn new(record: pg_sys::FunctionCallInfo) -> Self {
        Self { record }
    }

    /// An argument, from 0; `None` where it is null.
    #[inline]
    pub fn datum(&self, argument: usize) -> Option<Datum> {
        // SAFETY: the function is declared with more arguments than this one's number.
        unsafe {
            assert!((argument as i16) < (*self.record).nargs, "the function is declared with this argument");
            let entry = &*(*self.record).args.as_ptr().add(argument);
            (!entry.isnull).then_some(entry.value)
        }
    }

    /// A varlena argument, detoasted, without its header; valid during the call.
    pub fn bytes(&self, argument: usize) -> Option<&[u8]> {
        let datum = self.datum(argument)?;
        // SAFETY: the argument is declared with a varlena type; a detoasted copy lives in the call's memory context.
        unsafe {
            super::value::varlena_in_place(datum).or_else(|| {
                let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                Some(pgrx::varlena::varlena_to_byte_slice(varlena))
            })
        }
    }

    /// A text argument.
    pub fn text(&self, argument: usize) -> Option<&str> {
        // SAFETY: the server encoding is UTF-8, which the install script checks, and text is valid in it.
        self.bytes(argument).map(|bytes| unsafe { core::str::from_utf8_unchecked(bytes) })
    }

    /// A varlena argument that needs no detoasting, without its header; `None` where it is null or needs that.
    #[inline]
    pub fn bytes_in_place(&self, argument: usize) -> Option<&[u8]> {
        let datum = self.datum(argument)?;
        // SAFETY: the argument is declared with a varlena type.
        unsafe { super::value::varlena_in_place(datum) }
    }

    /// A cstring argument, as an input function gets it.
    pub fn cstring(&self, argument: usize) -> Option<&str> {
        let datum = self.datum(argument)?;
        // SAFETY: the argument is declared `cstring`, which is NUL-terminated and valid in the server encoding, UTF-8.
        unsafe { Some(core::str::from_utf8_unchecked(CStr::from_ptr(datum.cast_mut_ptr()).to_bytes())) }
    }

    /// A `text[]` argument.
    pub fn texts(&self, argument: usize) -> Option<Vec<Option<String>>> {
        // SAFETY: the argument is declared `text[]` and isn't null.
        self.datum(argument).and_then(|datum| unsafe { FromDatum::from_datum(datum, false) })
    }

    /// What is left of the message that a receive function gets.
    pub fn message(&self, argument: usize) -> Option<&[u8]> {
        let datum = self.datum(argument)?;
        // SAFETY: the argument is declared `internal` and only called as a receive function, with a StringInfo.
        unsafe {
            let message = datum.cast_mut_ptr::<pg_sys::StringInfoData>();
            let (cursor, length) = ((*message).cursor as usize, (*message).len as usize);
            (*message).cursor = (*message).len;
            Some(core::slice::from_raw_parts((*message).data.cast::<u8>().add(cursor), length - cursor))
        }
    }

    /// A float8 argument.
    pub fn float(&self, argument: usize) -> Option<f64> {
        self.datum(argument).map(|datum| f64::from_bits(datum.value() as u64))
    }

    /// An int4 argument.
    pub fn int(&self, argument: usize) -> Option<i32> {
        self.datum(argument).map(|datum| datum.value() as i32)
    }

    /// An int8 argument.
    pub fn long(&self, argument: usize) -> Option<i64> {
        self.datum(argument).map(|datum| datum.value() as i64)
    }

    /// A uuid argument.
    pub fn uuid(&self, argument: usize) -> Option<[u8; 16]> {
        // SAFETY: the argument is declared `uuid`, which is passed by reference and is 16 bytes.
        self.datum(argument).map(|datum| unsafe { datum.cast_mut_ptr::<[u8; 16]>().read() })
    }

    /// An interval argument.
    pub fn interval(&self, argument: usize) -> Option<Interval> {
        // SAFETY: the argument is declared `interval`, which is passed by reference and has this layout.
        self.datum(argument).map(|datum| unsafe { datum.cast_mut_ptr::<Interval>().read_unaligned() })
    }

    /// What the call is part of, such as the trigger that fires; null where it is part of nothing.
    pub(super) fn context(&self) -> *mut pg_sys::Node {
        // SAFETY: the call record is valid.
        unsafe { (*self.record).context }
    }

    /// A row of the type that the function is declared to return.
    pub fn row(&self, values: &[Option<Datum>]) -> Datum {
        let mut descriptor = core::ptr::null_mut();
        // SAFETY: the call record is valid; the row is formed with as many values as its type has columns.
        unsafe {
            pg_sys::get_call_result_type(self.record, core::ptr::null_mut(), &raw mut descriptor);
            assert!(
                !descriptor.is_null() && (*descriptor).natts as usize == values.len(),
                "the function is declared to return these columns"
            );
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
            let mut values: Vec<Datum> = values.iter().map(|value| value.unwrap_or(Datum::null())).collect();
            let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        }
    }

    /// The memory context that an aggregate's state lives in; `None` outside an aggregate.
    pub fn aggregate_context(&self) -> Option<pg_sys::MemoryContext> {
        let mut context = core::ptr::null_mut();
        // SAFETY: the call record is valid.
        let kind = unsafe { pg_sys::AggCheckCallContext(self.record, &raw mut context) };
        (kind != 0).then_some(context)
    }
}

/// A palloc'd varlena with these bytes, as a result.
pub fn varlena(bytes: &[u8]) -> Datum {
    // SAFETY: the allocation has room for header and bytes.
    unsafe {
        let size = bytes.len() + pg_sys::VARHDRSZ;
        let result = pg_sys::palloc(size).cast::<pg_sys::varlena>();
        pgrx::varlena::set_varsize_4b(result, i32::try_from(size).expect("a varlena is below 1 GB"));
        core::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            result.cast::<u8>().add(pg_sys::VARHDRSZ),
            bytes.len(),
        );
        Datum::from(result)
    }
}

/// A palloc'd C string, as an output function's result.
pub fn cstring(text: &str) -> Datum {
    // SAFETY: the allocation has room for the text and its NUL.
    unsafe {
        let result = pg_sys::palloc(text.len() + 1).cast::<u8>();
        core::ptr::copy_nonoverlapping(text.as_ptr(), result, text.len());
        *result.add(text.len()) = 0;
        Datum::from(result)
    }
}

/// A palloc'd fixed-length value, as a result.
pub fn fixed<const N: usize>(bytes: &[u8; N]) -> Datum {
    // SAFETY: the allocation has the value's length.
    unsafe {
        let result = pg_sys::palloc(N).cast::<u8>();
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), result, N);
        Datum::from(result)
    }
}

/// A float8 result.
pub fn float(value: f64) -> Datum {
    Datum::from(value.to_bits())
}

/// Runs a function's body and hands its result, null or error to Postgres.
///
/// # Safety
/// `fcinfo` is the call record that Postgres passed.
pub unsafe fn answer(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Call) -> Outcome) -> Datum {
    // SAFETY: a Postgres error or a panic in the body is caught by the guard and raised by it in turn. Our own error is
    // raised below, where no Rust value is left that the long jump could skip.
    unsafe {
        let outcome = pg_sys::panic::pgrx_extern_c_guard(|| body(&Call { record: fcinfo }));
        match outcome {
            Ok(Some(datum)) => datum,
            Ok(None) => {
                (*fcinfo).isnull = true;
                Datum::from(0)
            }
            Err(error) => {
                let raised = Raised::new(error);
                raised.raise()
            }
        }
    }
}
