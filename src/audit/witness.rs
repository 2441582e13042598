//! What scopes tell of: that one was entered, and that an attempt was denied.

use super::acts::{self, Act};
use super::repeats;
use crate::backend::session;
use crate::backend::transaction_end;
use crate::scope::{self, Denial, Entered, SteppedUp, Witness};
use serde_json::{Value, json};
use tally_core::step_up::Authentication;

/// The act of entering a scope.
const ENTERED: &str = "scope_entered";
const STEPPED_UP: &str = "stepped_up";
const DENIED: &str = "denied";
/// Denials of the same kind that are entries of their own within a window; what follows is counted.
const DENIALS: u32 = 10;
/// Characters of a reason that tell of which kind it is: "the session carries ".
const KIND_OF_REASON: usize = 20;

/// Has scopes tell.
pub fn install() {
    scope::tell(Witness { entered, stepped_up, denied });
}

fn entered(entered: &Entered) {
    let key = (ENTERED, session::session_role().to_u32(), entered.tenant, entered.account, entered.subject);
    let counted = repeats::count(&key, 1, || {
        Act {
            act: ENTERED,
            tenant: entered.tenant.unwrap_or_default(),
            account: entered.account,
            object: Some(if entered.tenant.is_some() { "tenant" } else { "global" }),
            detail: json!({"by": if entered.by_token { "token" } else { "role" }}),
            personal: personal(entered.subject),
        }
        .record()
    });
    told(counted);
}

/// The personal part of an entry.
fn personal(subject: Option<&str>) -> Value {
    subject.map_or(Value::Null, |subject| json!({"subject": subject}))
}

fn stepped_up(stepped_up: &SteppedUp) {
    let Authentication { at, methods, class } = stepped_up.authentication;
    let tenant = scope::tenant_of_session();
    let key = (STEPPED_UP, session::session_role().to_u32(), &tenant, stepped_up.subject, at, methods, class);
    let counted = repeats::count(&key, 1, || {
        Act {
            act: STEPPED_UP,
            tenant: tenant.as_deref().unwrap_or_default(),
            detail: json!({"auth_time": at, "amr": methods, "acr": class}),
            personal: personal(stepped_up.subject),
            ..Act::default()
        }
        .record()
    });
    told(counted);
}

fn denied(denial: &Denial) {
    if !transaction_end::is_running() || !session::is_installed() {
        return;
    }
    let tenant = scope::tenant_of_session();
    // By how the reason begins: what follows may be a name that the client chose, and each would be of another kind.
    let begin: String = denial.reason.chars().take(KIND_OF_REASON).collect();
    let key = (DENIED, session::session_role().to_u32(), &tenant, denial.kind, begin);
    let counted = repeats::count(&key, DENIALS, || {
        Act {
            act: DENIED,
            tenant: tenant.as_deref().unwrap_or_default(),
            object: Some(denial.kind),
            detail: json!({"reason": denial.reason}),
            personal: personal(scope::subject().or_else(scope::stepped_up_subject).as_deref()),
            ..Act::default()
        }
        .record()
    });
    told(counted);
}

fn told(counted: Option<(tally_core::audit::Record, u64)>) {
    if let Some((mut record, times)) = counted {
        repeats::with_times(&mut record, times);
        acts::happened(record);
    }
}
