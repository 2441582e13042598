//! Literals that say a moment by a word, as `'now'` and `'[today,tomorrow)'`: the parser makes constants of them, so that the
//! expression looks immutable, and is another one in every session.

use core::ffi::{CStr, c_char, c_void};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use tally_core::moment_word;

/// The letter by which Postgres' types of dates and times are marked; lengths of time have another one.
const DATE_AND_TIME: c_char = b'D' as c_char;
/// Most columns of a row.
const MAX_COLUMNS: i16 = 1664;

/// Where in a query's text such literals are, whatever their type will be.
///
/// # Safety
/// A raw parse tree, before it was analysed.
pub(super) unsafe fn words(raw: *mut pg_sys::Node) -> Vec<i32> {
    let mut places: Vec<i32> = Vec::new();
    // SAFETY: the caller's promise; the walker takes the same context.
    unsafe { note_words(raw, (&raw mut places).cast()) };
    places
}

/// Whether an analysed expression has a constant of a type that reads such a word, from one of these places in its text.
///
/// # Safety
/// A valid expression tree.
pub(super) unsafe fn is_read(node: *mut pg_sys::Node, words: &[i32]) -> bool {
    // SAFETY: the caller's promise; the walker takes the same context, which it doesn't change.
    !words.is_empty() && unsafe { find_read(node, (&raw const words).cast_mut().cast()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_words(node: *mut pg_sys::Node, places: *mut c_void) -> bool {
    // SAFETY: the tree walker passes nodes of a valid tree, and the context that it was given; the tag says which struct a node is.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_A_Const {
            let literal = &*node.cast::<pg_sys::A_Const>();
            if !literal.isnull
                && literal.val.node.type_ == pg_sys::NodeTag::T_String
                && moment_word::is_in(CStr::from_ptr(literal.val.sval.sval).to_bytes())
            {
                (*places.cast::<Vec<i32>>()).push(literal.location);
            }
            return false;
        }
        pg_sys::raw_expression_tree_walker(node, Some(note_words), places)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn find_read(node: *mut pg_sys::Node, words: *mut c_void) -> bool {
    // SAFETY: as above.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Const {
            let constant = &*node.cast::<pg_sys::Const>();
            return (*words.cast::<&[i32]>()).contains(&constant.location) && reads(constant.consttype);
        }
        pg_sys::expression_tree_walker(node, Some(find_read), words)
    }
}

/// Whether a type's input function reads such words, by itself or in a part.
fn reads(of: Oid) -> bool {
    // SAFETY: catalogue look-ups.
    unsafe {
        let of = pg_sys::getBaseType(of);
        match pg_sys::get_typtype(of) as u8 {
            b'e' => return false,
            b'r' => return reads(pg_sys::get_range_subtype(of)),
            b'm' => return reads(pg_sys::get_multirange_range(of)),
            b'c' => {
                let row = pg_sys::get_typ_typrelid(of);
                // One that was dropped has no type.
                return (1..=MAX_COLUMNS)
                    .map(|column| pg_sys::get_atttype(row, column))
                    .any(|of| of != Oid::INVALID && reads(of));
            }
            _ => {}
        }
        let element = pg_sys::get_element_type(of);
        if element != Oid::INVALID {
            return reads(element);
        }
        if of.to_u32() < pg_sys::FirstNormalObjectId {
            let (mut category, mut is_preferred) = (0, false);
            pg_sys::get_type_category_preferred(of, &raw mut category, &raw mut is_preferred);
            return category == DATE_AND_TIME;
        }
        // Of somebody's own type nobody knows; an immutable input function says that it doesn't.
        let (mut input, mut parameter) = (Oid::INVALID, Oid::INVALID);
        pg_sys::getTypeInputInfo(of, &raw mut input, &raw mut parameter);
        pg_sys::func_volatile(input) as u8 != pg_sys::PROVOLATILE_IMMUTABLE
    }
}
