//! Events: the SQL type, the row that each is stored as, and numbers among its properties.

mod property;
mod row;
mod sql_type;

pub use row::{EVENTS, EventRow, event_column_names};
