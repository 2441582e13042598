//! The doors: each turns what it is given into items for the pipeline.

pub mod inbox;
pub mod redrive;
pub mod typed;
