//! Step-up: sensitive acts need a second factor that was shown lately. An application says so in a token, by the claims of OpenID
//! Connect.
//!
//! A direct login steps up with tally.step_up(), for its session; SET ROLE changes nothing of it. A trusted role, which an application may
//! share among people, steps up likewise, for the transaction; a pool role by the token that it enters with, for the transaction, too. A
//! step-up is this backend's, in its memory: another token, DISCARD ALL and the session's end end it. It counts for an act while it is
//! not older than the act's policy says, its key is valid, and the session is in the scope that the token names, if it names one.

use super::binding::{Binding, binding};
use super::current::current;
use super::failure::ScopeError;
use super::kind::Scope;
use super::token::{self, Verified};
use super::witness::{self, SteppedUp};
use crate::backend::arena::Arena;
use crate::backend::call::sql_function;
use crate::backend::heap::Declared;
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::report::Report;
use crate::backend::{session, sql};
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::RefCell;
use std::ffi::CString;
use std::time::Instant;
use tally_core::step_up::{Authentication, Demand, Shortfall};
use tally_core::token::{Claims, TokenError};

/// Seconds that a step-up counts for where no policy says otherwise.
const MAX_AGE: i32 = 300;
/// Acts that need no step-up unless a policy says so: there must be a key before anybody can step up.
const NOT_BY_DEFAULT: [&str; 3] = ["binding", "key", "policy"];
/// Bytes of an act's name.
const ACT_BYTES: usize = 63;

struct StepUp {
    /// Who logged in.
    role: Oid,
    /// The transaction that it ends with; `None` where the session keeps it.
    transaction: Option<u32>,
    authentication: Authentication,
    subject: Option<String>,
    /// The scope that it was made for, where the token names one.
    scope: Option<Scope>,
    /// The key that the token was signed with.
    key_id: String,
    /// When it began: by a clock that nobody sets, and by the server's, in seconds since 1970.
    since: (Instant, i64),
}

thread_local! {
    static STEP_UP: RefCell<Option<StepUp>> = const { RefCell::new(None) };
}

fn begin(verified: &Verified, authentication: Authentication, transaction: Option<u32>) {
    let claims = &verified.claims;
    witness::stepped_up(&SteppedUp { authentication: &authentication, subject: claims.sub.as_deref() });
    STEP_UP.set(Some(StepUp {
        role: session::session_role(),
        transaction,
        authentication,
        subject: claims.sub.clone(),
        scope: scope_of(claims),
        key_id: verified.key_id.clone(),
        since: (Instant::now(), token::seconds_now()),
    }));
}

/// Ends it.
pub fn end() {
    STEP_UP.set(None);
}

/// A pool role has entered by a token: what an earlier one said counts no more.
pub fn follow_token(verified: &Verified) {
    end();
    if let Some(authentication) = verified.claims.authentication() {
        begin(verified, authentication, Some(session::transaction_number()));
    }
}

/// The scope that a token names.
fn scope_of(claims: &Claims) -> Option<Scope> {
    let (tenant, account) = claims.scope()?;
    Some(Scope::Tenant { tenant: tenant.to_owned(), account: account.map(str::to_owned) })
}

fn with_present<T>(read: impl FnOnce(&StepUp) -> T) -> Option<T> {
    STEP_UP.with_borrow(|step_up| {
        let is_present = |step_up: &&StepUp| {
            // A role that is shared may have become so since.
            let is_shared = matches!(*binding(), Binding::Pool | Binding::Trusted);
            step_up.role == session::session_role()
                && step_up.transaction.map_or(!is_shared, |number| number == session::transaction_number())
        };
        step_up.as_ref().filter(is_present).map(read)
    })
}

/// Whom the token was made for that the session, or the transaction of a pool role, stepped up with.
pub fn stepped_up_subject() -> Option<String> {
    with_present(|step_up| step_up.subject.clone()).flatten()
}

const POLICIES: Declared = Declared {
    table: "step_up_policy",
    columns: &[
        ("set_at", pg_sys::TIMESTAMPTZOID),
        ("max_age_s", pg_sys::INT4OID),
        ("is_required", pg_sys::BOOLOID),
        ("act", pg_sys::TEXTOID),
        ("amr", pg_sys::TEXTOID),
        ("acr", pg_sys::TEXTOID),
    ],
    key: &["act"],
};
const POLICY: [i32; 4] =
    [POLICIES.at("max_age_s"), POLICIES.at("is_required"), POLICIES.at("amr"), POLICIES.at("acr")];

/// What an act demands of a step-up.
struct Policy {
    is_required: bool,
    max_age: i32,
    methods: Option<String>,
    classes: Option<String>,
}

/// The policy as of now, whatever the transaction's snapshot.
fn policy_of(act: &str) -> Policy {
    let by_default = || Policy {
        is_required: !NOT_BY_DEFAULT.contains(&act),
        max_age: MAX_AGE,
        methods: None,
        classes: None,
    };
    // An installation that was not updated yet has no such table.
    let Some(table) = session::find_relation(c"step_up_policy") else { return by_default() };
    let mut arena = Arena::default();
    let mut policies = Lookup::open(table, &[Key::Text], View::Now);
    policies.require(&POLICIES);
    let found = policies.find(&[arena.varlena(act.as_bytes())], POLICY).map(|row| Policy {
        is_required: row.is_true(1),
        max_age: row.int(0).unwrap_or(MAX_AGE),
        methods: row.text(2).map(str::to_owned),
        classes: row.text(3).map(str::to_owned),
    });
    policies.close();
    found.unwrap_or_else(by_default)
}

/// Whether an act is for the login itself: it must be a member of the group that the register names, where that names one. The rights of
/// the owner of a function that it calls don't suffice, else somebody who has no second factor could have another person's session do it.
fn holds(act: &str) -> bool {
    let holders = "SELECT tally_internal.holders_of_act($1)::text";
    let found = session::as_owner(|| sql::rows(holders, &[act.into()], |row| row.get::<String>(1)));
    let group = found.into_iter().flatten().next();
    group.is_none_or(|group| CString::new(group).is_ok_and(|group| session::session_is_member_of(&group)))
}

/// An error, 42T20, unless the session has stepped up as the act's policy demands. The attempt is recorded, also where its transaction
/// is undone. Holds for everybody, superusers, too. Functions in pgrx's form raise 42000 in its place: those in the C form
/// (`sql_function`) and in SQL have the right code.
pub fn require_step_up(act: &str) -> Result<(), ScopeError> {
    if act.is_empty()
        || act.len() > ACT_BYTES
        || !act.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    {
        return Err(ScopeError::BadAct);
    }
    let policy = policy_of(act);
    if !policy.is_required {
        return Ok(());
    }
    if session::is_restricted() {
        return Err(ScopeError::Restricted);
    }
    let refused =
        |problem: String| ScopeError::StepUp { act: act.to_owned(), max_age: policy.max_age, problem };
    if !session::session_is_superuser() && !holds(act) {
        return Err(refused(
            "the login itself may not do this, only the owner of a function that it calls".to_owned(),
        ));
    }
    let demand = Demand {
        max_age: i64::from(policy.max_age),
        methods: policy.methods.as_deref(),
        classes: policy.classes.as_deref(),
    };
    let outcome = with_present(|step_up| {
        // A clock that was set back makes nothing younger.
        let by_timer = step_up.since.1.saturating_add(step_up.since.0.elapsed().as_secs() as i64);
        let is_here =
            step_up.scope.as_ref().is_none_or(|scope| current().is_ok_and(|current| current == *scope));
        let outcome = step_up.authentication.meets(&demand, token::seconds_now().max(by_timer));
        (outcome, is_here, step_up.key_id.clone())
    });
    let problem = match outcome {
        Some((Err(Shortfall::Factor), ..)) => {
            "what the token says of the authentication is no second factor".to_owned()
        }
        Some((Err(Shortfall::Age(age)), ..)) => format!("it was shown {age} seconds ago"),
        Some((Ok(()), false, _)) => "it was shown for another scope".to_owned(),
        Some((Ok(()), true, key_id)) => {
            if token::is_registered(&key_id) {
                return Ok(());
            }
            "the key that its token was signed with is no longer valid".to_owned()
        }
        None => "the session has not stepped up".to_owned(),
    };
    Err(refused(problem))
}

/// Whether a token is for the session as it is: for its scope, or for none.
fn check_scope(claims: &Claims) -> Result<(), ScopeError> {
    let Some(wanted) = scope_of(claims) else { return Ok(()) };
    if current().is_ok_and(|scope| scope == wanted) {
        return Ok(());
    }
    Err(ScopeError::Token(TokenError::Scope))
}

fn step_up(text: &str) -> Result<i64, ScopeError> {
    let transaction = match *binding() {
        Binding::Pool => return Err(ScopeError::PoolStepsUp(session::session_role_name())),
        Binding::Renamed => return Err(ScopeError::Renamed(session::session_role_name())),
        Binding::Ambiguous => return Err(ScopeError::Ambiguous(session::session_role_name())),
        Binding::Trusted => Some(session::transaction_number()),
        Binding::None | Binding::Bound { .. } | Binding::Global => None,
    };
    end();
    let verified = token::verified(text)?;
    check_scope(&verified.claims)?;
    let authentication =
        verified.claims.authentication().ok_or(ScopeError::Token(TokenError::Authentication))?;
    let at = authentication.at;
    begin(&verified, authentication, transaction);
    Ok(at)
}

sql_function! {
    fn tally_step_up / pg_finfo_tally_step_up(call) {
        let Some(text) = call.text(0) else { return Ok(None) };
        Ok(Some(Datum::from(token::moment(step_up(text)?))))
    }
}

sql_function! {
    fn tally_require_step_up / pg_finfo_tally_require_step_up(call) {
        let act = call.text(0).ok_or_else(|| Report::new("22004", "act must not be null"))?;
        require_step_up(act)?;
        Ok(Some(Datum::from(0)))
    }
}

sql_function! {
    fn tally_needs_step_up_by_default / pg_finfo_tally_needs_step_up_by_default(call) {
        let Some(act) = call.text(0) else { return Ok(None) };
        Ok(Some(Datum::from(!NOT_BY_DEFAULT.contains(&act))))
    }
}
