//! Who is told of scopes that are entered and of attempts that are denied.

use std::sync::OnceLock;
use tally_core::step_up::Authentication;

/// A scope that was entered by who is not bound to it.
pub struct Entered<'a> {
    /// `None` in the global scope.
    pub tenant: Option<&'a str>,
    pub account: Option<&'a str>,
    pub by_token: bool,
    /// Whom the token was made for, in its own words.
    pub subject: Option<&'a str>,
}

/// An attempt that was denied with SQLSTATE 42501.
pub struct Denial {
    /// What was tried, in a word.
    pub kind: &'static str,
    /// Why it was denied.
    pub reason: String,
}

/// A token that says how and when somebody was authenticated.
pub struct SteppedUp<'a> {
    pub authentication: &'a Authentication,
    /// Whom the token was made for, in its own words.
    pub subject: Option<&'a str>,
}

/// What is called.
#[derive(Clone, Copy)]
pub struct Witness {
    pub entered: fn(&Entered),
    pub stepped_up: fn(&SteppedUp),
    pub denied: fn(&Denial),
}

static WITNESS: OnceLock<Witness> = OnceLock::new();

/// Has a witness told; once, when the library is loaded.
pub fn tell(witness: Witness) {
    let _ = WITNESS.set(witness);
}

/// Whether there is one.
pub(super) fn is_there() -> bool {
    WITNESS.get().is_some()
}

/// Tells that a scope was entered.
pub(super) fn entered(entered: &Entered) {
    if let Some(witness) = WITNESS.get() {
        (witness.entered)(entered);
    }
}

/// Tells of a step-up.
pub(super) fn stepped_up(stepped_up: &SteppedUp) {
    if let Some(witness) = WITNESS.get() {
        (witness.stepped_up)(stepped_up);
    }
}

/// Tells that an attempt was denied.
pub(super) fn denied(denial: &Denial) {
    if let Some(witness) = WITNESS.get() {
        (witness.denied)(denial);
    }
}
