//! The catalogue: what there is, where it comes from, what of it is personal, and who can read it. It is computed by SQL
//! (sql/catalog) from what is declared; here is what SQL can't tell, the sources of a query's columns, and what the audit log asks.

mod access;
mod personal;
mod place;
mod sources;

use crate::audit;

/// Has the audit log ask which columns are personal; called once, when the library is loaded.
pub fn install() {
    audit::classify_by(audit::Classifier {
        is_personal: personal::is_personal,
        have_personal: personal::have_personal_now,
    });
}
