//! The session: who is asking, in which transaction, with which settings.

mod acting;
mod clock;
mod dice;
mod lock;
mod log;
mod relation;
mod role;
mod setting;
mod sleep;
mod transaction;

pub use crate::backend::version::transaction_number;
pub use acting::{
    as_owner, in_scope, with_fixed_settings, with_owner_rights, with_settings_of_exports,
    with_settings_of_values,
};
pub use clock::{Statement, clock, statement, statement_start, transaction_start};
pub use dice::{draw, random_bits, random_bytes};
pub use lock::{
    has_lock, is_locked, lock, lock_relation, lock_timeout, lock_until_exit, try_slot, unlock, unlock_early,
};
pub use log::log;
pub use relation::{audience, find_relation, find_relation_named, is_installed, relation, relation_named};
pub use role::{
    acting_role, acts_as_reader_or_writer, bypasses_row_security, current_role_name, is_elevated,
    runs_for_another, runs_for_itself, sees_everything, session_can_act_as, session_is_member_of,
    session_is_superuser, session_role, session_role_name,
};
pub use setting::{
    application_name, can_set, client_statement, is_known, reported_path_bytes, reserve_prefix,
    set_for_session, set_local, set_scope, setting, telling_setting, with_settings,
};
pub use sleep::{check_for_interrupts, check_for_interrupts_and_depth, pause};
pub use transaction::{
    accept_invalidations, advance_command, goes_on_as_client_says, has_fixed_snapshot, in_subtransaction,
    in_transaction_block, is_copying, is_creating_extension, is_outermost, is_parallel_worker, is_restricted,
    require_writable,
};
