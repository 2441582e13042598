//! What a utility command is, as far as those care who confine sessions: read from its parse tree.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, NodeTag, Oid};

/// What a command does. Whatever isn't known here, as a command of a later Postgres, is `Administration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ends, undoes or describes something of the session's own; takes no time.
    Plain,
    /// Runs for as long as it likes, and leaves nothing.
    Work,
    /// Tells about rows that row security hides.
    Explain,
    /// Leaves something in the session, or reaches into other sessions.
    Leaves(&'static str),
    /// Makes, changes or drops an object that outlives the session.
    Object,
    /// Changes roles, databases or the server, or holds locks without a session.
    Administration,
}

/// A command: its kind, and Postgres' name for it.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub kind: Kind,
    pub name: &'static str,
    /// The table whose rows COPY hands out without a query of its own, as it does where no row security binds the reader.
    pub copies_out: Option<Oid>,
}

/// Whether a command is plain without a closer look: what every session runs all the time.
pub unsafe fn is_free(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        match (*node).type_ {
            NodeTag::T_TransactionStmt => !matches!(
                (*node.cast::<pg_sys::TransactionStmt>()).kind,
                pg_sys::TransactionStmtKind::TRANS_STMT_BEGIN
                    | pg_sys::TransactionStmtKind::TRANS_STMT_START
                    | pg_sys::TransactionStmtKind::TRANS_STMT_PREPARE
                    | pg_sys::TransactionStmtKind::TRANS_STMT_SAVEPOINT
            ),
            NodeTag::T_VariableShowStmt
            | NodeTag::T_ClosePortalStmt
            | NodeTag::T_DeallocateStmt
            | NodeTag::T_DiscardStmt
            | NodeTag::T_UnlistenStmt => true,
            _ => false,
        }
    }
}

/// Whether a command is DISCARD ALL.
pub unsafe fn discards_all(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        (*node).type_ == NodeTag::T_DiscardStmt
            && (*node.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL
    }
}

/// Reads a command. The tables that it names are looked up where it matters whether they are temporary.
pub unsafe fn read(node: *mut pg_sys::Node) -> Command {
    // SAFETY: the node is a utility statement; names of commands are constants of Postgres'.
    unsafe {
        let name = CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node)));
        Command { kind: kind(node), name: name.to_str().unwrap_or("this command"), copies_out: copied(node) }
    }
}

unsafe fn copied(node: *mut pg_sys::Node) -> Option<Oid> {
    // SAFETY: the tag says which struct the node is; a look-up without a lock, and a missing relation is InvalidOid.
    unsafe {
        if (*node).type_ != NodeTag::T_CopyStmt {
            return None;
        }
        let copy = &*node.cast::<pg_sys::CopyStmt>();
        if copy.is_from || copy.relation.is_null() {
            return None;
        }
        let table = found(copy.relation);
        let is_bound = || {
            pg_sys::check_enable_rls(table, Oid::INVALID, true)
                == pg_sys::CheckEnableRlsResult::RLS_ENABLED as core::ffi::c_int
        };
        (table != Oid::INVALID && !is_bound()).then_some(table)
    }
}

/// A relation, by its name; the invalid oid where there is none.
unsafe fn found(relation: *mut pg_sys::RangeVar) -> Oid {
    // SAFETY: a look-up without a lock; a missing relation is InvalidOid.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            relation,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            core::ptr::null_mut(),
        )
    }
}

unsafe fn kind(node: *mut pg_sys::Node) -> Kind {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        if is_free(node) {
            return Kind::Plain;
        }
        match (*node).type_ {
            NodeTag::T_VariableSetStmt => setting(node.cast()),
            // A transaction may idle from its beginning on; and what is set before a savepoint outlasts what is undone to it.
            NodeTag::T_TransactionStmt
                if (*node.cast::<pg_sys::TransactionStmt>()).kind
                    != pg_sys::TransactionStmtKind::TRANS_STMT_PREPARE =>
            {
                Kind::Work
            }
            NodeTag::T_ExplainStmt => Kind::Explain,
            NodeTag::T_DeclareCursorStmt => {
                let options = (*node.cast::<pg_sys::DeclareCursorStmt>()).options;
                let holds = options as u32 & pg_sys::CURSOR_OPT_HOLD != 0;
                if holds { Kind::Leaves("a cursor WITH HOLD") } else { Kind::Work }
            }
            NodeTag::T_PrepareStmt => Kind::Leaves("PREPARE"),
            NodeTag::T_ListenStmt | NodeTag::T_NotifyStmt => Kind::Leaves("LISTEN or NOTIFY"),
            NodeTag::T_CopyStmt => {
                let copy = &*node.cast::<pg_sys::CopyStmt>();
                let reaches_out = copy.is_program || !copy.filename.is_null();
                if reaches_out { Kind::Administration } else { Kind::Work }
            }
            NodeTag::T_FetchStmt
            | NodeTag::T_ExecuteStmt
            | NodeTag::T_DoStmt
            | NodeTag::T_CallStmt
            | NodeTag::T_LockStmt
            | NodeTag::T_ConstraintsSetStmt
            | NodeTag::T_VacuumStmt => Kind::Work,
            _ => object(node),
        }
    }
}

/// SET and RESET.
unsafe fn setting(set: *mut pg_sys::VariableSetStmt) -> Kind {
    // SAFETY: names and values of the parse tree are C strings; settings' reset values are their own.
    unsafe {
        let resets = matches!(
            (*set).kind,
            pg_sys::VariableSetKind::VAR_RESET
                | pg_sys::VariableSetKind::VAR_RESET_ALL
                | pg_sys::VariableSetKind::VAR_SET_DEFAULT
        );
        if (*set).is_local || resets || (*set).name.is_null() {
            return Kind::Plain;
        }
        match CStr::from_ptr((*set).name).to_bytes() {
            b"role" | b"session_authorization" => Kind::Leaves("another role"),
            // A pooler that follows what PostgreSQL 18 reports puts back the value that the session began with.
            b"search_path" => {
                let value = pg_sys::ExtractSetVariableArgs(set);
                let first = pg_sys::GetConfigOptionResetString(c"search_path".as_ptr());
                let is_back =
                    !value.is_null() && !first.is_null() && CStr::from_ptr(value) == CStr::from_ptr(first);
                if is_back { Kind::Plain } else { Kind::Leaves("a search_path for the session") }
            }
            _ => Kind::Plain,
        }
    }
}

/// Commands that make, change or drop an object: of a temporary one only whether it stays matters.
unsafe fn object(node: *mut pg_sys::Node) -> Kind {
    let made = |relation: *mut pg_sys::RangeVar, ends: bool| {
        // SAFETY: the parse tree's relation.
        let is_temporary = unsafe { (*relation).relpersistence } as u8 == pg_sys::RELPERSISTENCE_TEMP;
        match (is_temporary, ends) {
            (false, _) => Kind::Object,
            (true, true) => Kind::Work,
            (true, false) => Kind::Leaves("a temporary object that outlives the transaction"),
        }
    };
    let drops = |action| action == pg_sys::OnCommitAction::ONCOMMIT_DROP;
    // SAFETY: the tag says which struct the node is.
    unsafe {
        let changed = |relation| if is_temporary(relation) { Kind::Work } else { Kind::Object };
        match (*node).type_ {
            NodeTag::T_CreateStmt => {
                let create = &*node.cast::<pg_sys::CreateStmt>();
                made(create.relation, drops(create.oncommit))
            }
            NodeTag::T_CreateTableAsStmt => {
                let into = &*(*node.cast::<pg_sys::CreateTableAsStmt>()).into;
                made(into.rel, drops(into.onCommit))
            }
            NodeTag::T_ViewStmt => made((*node.cast::<pg_sys::ViewStmt>()).view, false),
            NodeTag::T_CreateSeqStmt => made((*node.cast::<pg_sys::CreateSeqStmt>()).sequence, false),
            NodeTag::T_IndexStmt => changed((*node.cast::<pg_sys::IndexStmt>()).relation),
            NodeTag::T_AlterTableStmt => changed((*node.cast::<pg_sys::AlterTableStmt>()).relation),
            NodeTag::T_RenameStmt => {
                let rename = &*node.cast::<pg_sys::RenameStmt>();
                of_type(rename.renameType, || changed(rename.relation))
            }
            NodeTag::T_AlterSeqStmt => changed((*node.cast::<pg_sys::AlterSeqStmt>()).sequence),
            NodeTag::T_TruncateStmt => {
                let relations = (*node.cast::<pg_sys::TruncateStmt>()).relations;
                let all = pgrx::PgList::<pg_sys::RangeVar>::from_pg(relations)
                    .iter_ptr()
                    .all(|relation| is_temporary(relation));
                if all { Kind::Work } else { Kind::Object }
            }
            NodeTag::T_DropStmt => dropped(node.cast()),
            NodeTag::T_AlterOwnerStmt => {
                of_type((*node.cast::<pg_sys::AlterOwnerStmt>()).objectType, || Kind::Object)
            }
            NodeTag::T_CommentStmt => of_type((*node.cast::<pg_sys::CommentStmt>()).objtype, || Kind::Object),
            NodeTag::T_GrantStmt => of_type((*node.cast::<pg_sys::GrantStmt>()).objtype, || Kind::Object),
            NodeTag::T_AlterDefaultPrivilegesStmt
            | NodeTag::T_AlterDomainStmt
            | NodeTag::T_AlterEnumStmt
            | NodeTag::T_AlterFunctionStmt
            | NodeTag::T_AlterObjectSchemaStmt
            | NodeTag::T_AlterPolicyStmt
            | NodeTag::T_AlterStatsStmt
            | NodeTag::T_AlterTSConfigurationStmt
            | NodeTag::T_AlterTSDictionaryStmt
            | NodeTag::T_AlterTypeStmt
            | NodeTag::T_ClusterStmt
            | NodeTag::T_CompositeTypeStmt
            | NodeTag::T_CreateCastStmt
            | NodeTag::T_CreateDomainStmt
            | NodeTag::T_CreateEnumStmt
            | NodeTag::T_CreateFunctionStmt
            | NodeTag::T_CreatePolicyStmt
            | NodeTag::T_CreateRangeStmt
            | NodeTag::T_CreateSchemaStmt
            | NodeTag::T_CreateStatsStmt
            | NodeTag::T_CreateTrigStmt
            | NodeTag::T_DefineStmt
            | NodeTag::T_RefreshMatViewStmt
            | NodeTag::T_ReindexStmt
            | NodeTag::T_RuleStmt => Kind::Object,
            _ => Kind::Administration,
        }
    }
}

unsafe fn dropped(drop: *mut pg_sys::DropStmt) -> Kind {
    use pg_sys::ObjectType as Type;
    // SAFETY: the objects of a relation's type are lists of names.
    unsafe {
        match (*drop).removeType {
            Type::OBJECT_TABLE | Type::OBJECT_SEQUENCE | Type::OBJECT_VIEW | Type::OBJECT_INDEX => {
                let all = pgrx::PgList::<pg_sys::List>::from_pg((*drop).objects)
                    .iter_ptr()
                    .all(|names| is_temporary(pg_sys::makeRangeVarFromNameList(names)));
                if all { Kind::Work } else { Kind::Object }
            }
            other => of_type(other, || Kind::Object),
        }
    }
}

/// What a command is by the type of the object that it changes: roles, databases and what reaches outside the database are for
/// administrators.
fn of_type(object: pg_sys::ObjectType::Type, kind: impl FnOnce() -> Kind) -> Kind {
    use pg_sys::ObjectType as Type;
    match object {
        Type::OBJECT_ACCESS_METHOD
        | Type::OBJECT_DATABASE
        | Type::OBJECT_EVENT_TRIGGER
        | Type::OBJECT_EXTENSION
        | Type::OBJECT_FDW
        | Type::OBJECT_FOREIGN_SERVER
        | Type::OBJECT_LANGUAGE
        | Type::OBJECT_PARAMETER_ACL
        | Type::OBJECT_PUBLICATION
        | Type::OBJECT_ROLE
        | Type::OBJECT_SUBSCRIPTION
        | Type::OBJECT_TABLESPACE
        | Type::OBJECT_TRANSFORM
        | Type::OBJECT_USER_MAPPING => Kind::Administration,
        _ => kind(),
    }
}

/// Whether a name is at present that of a temporary relation: the session's own, which nobody else can put in its place.
unsafe fn is_temporary(relation: *mut pg_sys::RangeVar) -> bool {
    if relation.is_null() {
        return false;
    }
    // SAFETY: a look-up without a lock; a missing relation is InvalidOid.
    unsafe {
        let id = found(relation);
        id != Oid::INVALID && pg_sys::get_rel_persistence(id) == pg_sys::RELPERSISTENCE_TEMP as c_char
    }
}
