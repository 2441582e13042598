//! The catalogue: who can read what, what comes from what, and what of it is personal.

mod access_alerts;
mod lineage;
mod open_lineage;
mod readable;
