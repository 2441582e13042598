//! What `pg_upgrade` needs: it makes the extension's objects one by one, in a server that lets nobody else in.

use core::ffi::CStr;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Whether this server is one that `pg_upgrade` fills.
pub fn is_running() -> bool {
    // SAFETY: reads what the server was started with.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Does what `pg_dump` says of the triggers of the view `tally.inbox`, that they fire in every mode: of a view ALTER TABLE refuses to.
/// Says whether the command was that.
///
/// # Safety
/// The node is a utility statement.
#[pg_guard]
pub unsafe extern "C-unwind" fn enables_inbox(node: *const pg_sys::Node) -> bool {
    // SAFETY: the tag says what a node is; names are C strings, the schema's perhaps null.
    let is_it = unsafe {
        if !is_running() || (*node).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return false;
        }
        let statement = &*node.cast::<pg_sys::AlterTableStmt>();
        let relation = &*statement.relation;
        let command = statement.cmds.as_ref().filter(|commands| commands.length == 1);
        let command = command.map(|commands| &*pg_sys::list_nth(commands, 0).cast::<pg_sys::AlterTableCmd>());
        !relation.schemaname.is_null()
            && CStr::from_ptr(relation.schemaname) == c"tally"
            && CStr::from_ptr(relation.relname) == c"inbox"
            && command.is_some_and(|command| command.subtype == pg_sys::AlterTableType::AT_EnableAlwaysTrig)
    };
    if is_it {
        Spi::run(
            "UPDATE pg_catalog.pg_trigger SET tgenabled = 'A' \
              WHERE tgrelid OPERATOR(pg_catalog.=) 'tally.inbox'::pg_catalog.regclass",
        )
        .expect("an UPDATE raises its own errors");
    }
    is_it
}
