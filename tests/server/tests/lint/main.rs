//! What lint finds, and what protect makes.

mod lint;
mod protect;
