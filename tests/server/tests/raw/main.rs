//! Raw events: months, retention, isolating a tenant, and what is said of those that are gone.

mod isolate;
mod lost_events;
mod months;
mod months_by_hand;
mod retention;
