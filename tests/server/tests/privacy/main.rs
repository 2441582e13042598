//! Personal data: what is stored in its place, who may see it again, and under which keys; and that a person who is erased leaves
//! nothing behind.

mod attached;
mod broken_off;
mod declared_at_once;
mod erasure;
mod inside;
mod keyed;
mod log_lines;
mod made_sessions;
mod model;
mod nowhere;
mod others_tenants;
mod own_sessions;
mod parts;
mod protection;
mod reading;
mod renewal;
mod renewed_quarantine;
mod reports;
mod reveal;
mod rotation;
mod side_by_side;
mod tokens_of;
