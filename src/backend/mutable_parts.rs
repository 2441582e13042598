//! Parts of expressions of which Postgres doesn't ask whether they are immutable: what is read out of a document as a type, and what XML
//! is made of.

use super::{list, version};
use core::ffi::c_void;
use core::ptr;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;

/// Whether an expression has such a part that goes by settings, other rows or the moment, as a cast from or to text would.
///
/// # Safety
/// A valid expression tree.
pub(super) unsafe fn has_any(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    unsafe { find(node, ptr::null_mut()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn find(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the tree walker passes nodes of a valid tree; the tag says which struct a node is.
    unsafe {
        if node.is_null() {
            return false;
        }
        if version::type_read_from_json(node).is_some_and(|of| !is_read_by_itself(of)) {
            return true;
        }
        if (*node).type_ == pg_sys::NodeTag::T_XmlExpr {
            let xml = &*node.cast::<pg_sys::XmlExpr>();
            let mut parts = list::items::<pg_sys::Node>(xml.named_args).chain(list::items(xml.args));
            if parts.any(|part| !is_written_by_itself(pg_sys::exprType(part))) {
                return true;
            }
        }
        pg_sys::expression_tree_walker(node, Some(find), context)
    }
}

/// Whether nothing but the text says what a type's input function makes of it.
unsafe fn is_read_by_itself(of: Oid) -> bool {
    // SAFETY: catalogue look-ups.
    unsafe {
        let (mut input, mut parameter) = (Oid::INVALID, Oid::INVALID);
        pg_sys::getTypeInputInfo(pg_sys::getBaseType(of), &raw mut input, &raw mut parameter);
        pg_sys::func_volatile(input) as u8 == pg_sys::PROVOLATILE_IMMUTABLE
    }
}

/// Whether nothing but a value says how it stands in XML, apart from settings that are fixed where it is evaluated. Days and times stand there as
/// XML has them.
unsafe fn is_written_by_itself(of: Oid) -> bool {
    // SAFETY: catalogue look-ups.
    unsafe {
        let of = pg_sys::getBaseType(of);
        let element = pg_sys::get_element_type(of);
        if element != Oid::INVALID {
            return is_written_by_itself(element);
        }
        if matches!(of, pg_sys::DATEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID) {
            return true;
        }
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        pg_sys::getTypeOutputInfo(of, &raw mut output, &raw mut is_varlena);
        pg_sys::func_volatile(output) as u8 == pg_sys::PROVOLATILE_IMMUTABLE
    }
}
