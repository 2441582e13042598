//! Housekeeping, health, and what stands in their way.

mod adversity;
mod blocking;
mod maintain;
mod scale;
mod worker;
