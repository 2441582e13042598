//! The catalogue: who can read what, what comes from what, and what of it is personal.

mod lineage;
mod readable;
