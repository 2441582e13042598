//! The audit log: acts, which are always recorded, and reads, which are recorded as policy says.
//!
//! An act gets a line in the server's log at once, before its caller is answered, and a row in tally.audit_entry: in the same
//! transaction where that writes, otherwise through shared memory and the background worker. One that was undone with its
//! transaction goes that second way, too. docs/decisions/audit.md says why, and what a crash can lose.
//!
//! What other parts call is `act` and `attempt`, and in SQL tally_internal.record_act().

mod acts;
mod line;
mod pending;
mod reads;
mod repeats;
mod running;
mod seal;
mod store;
mod verify;
mod witness;

#[allow(unused_imports, reason = "what comes to be calls it")]
pub use acts::{Act, act, attempt};
pub use reads::{Classifier, classify_by, have_personal_columns};
pub use running::{begin as begin_running, finish as finish_running, note as note_running};

use crate::backend::hook::{self, Observer};
use crate::backend::ring;
use crate::backend::transaction_end::{self, Listener};
use crate::settings;

/// Readies the log; called once, when the library is loaded.
pub fn install() {
    ring::request(settings::worker_databases(), settings::audit_buffer());
    transaction_end::listen(Listener {
        before_commit: pending::before_commit,
        before_prepare,
        ended,
        part_ended,
    });
    hook::observe(Observer {
        starts: reads::statement_starts,
        runs: reads::statement_runs,
        ran: reads::statement_ran,
        ends: reads::statement_ends,
    });
    witness::install();
}

fn before_prepare() {
    seal::refuse_to_prepare();
    pending::refuse_to_prepare();
}

fn ended(committed: bool) {
    reads::forget(1, committed);
    running::forget(1, committed);
    seal::forget(1, committed);
    pending::ended(committed);
}

fn part_ended(nesting: i32, committed: bool) {
    reads::forget(nesting, committed);
    running::forget(nesting, committed);
    seal::forget(nesting, committed);
    pending::part_ended(nesting, committed);
}

/// Readies the background worker to store what sessions hand over.
pub fn serve() {
    ring::wake_me();
}
