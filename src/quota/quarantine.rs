//! How many of a tenant's events wait in quarantine, looked at no more often than need be: counting costs, and a flood of bad events must
//! not. What a session's last look found counts for a while (`tally_core::room`).

use crate::backend::{session, sql};
use core::cell::RefCell;
use std::collections::HashMap;
use tally_core::room::{Look, Room};

/// Tenants whose last look a session keeps.
const TENANTS: usize = 10_000;

thread_local! {
    static LOOKS: RefCell<HashMap<String, Look>> = RefCell::new(HashMap::new());
}

/// Whether a tenant's quarantine is known to have no room for what a call would add.
pub fn is_known_full(tenant: &str, most: i64, adding: i64) -> bool {
    remembered(tenant, most, adding) == Room::Short
}

/// Whether a tenant's quarantine, to which a call has added events, holds no more than it may.
pub fn takes(tenant: &str, most: i64, added: i64) -> bool {
    let room = remembered(tenant, most, added);
    let fits = match room {
        Room::Unknown => look(tenant, most, added),
        room => room == Room::Enough,
    };
    if fits {
        LOOKS.with_borrow_mut(|looks| looks.get_mut(tenant).into_iter().for_each(|look| look.add(added)));
    }
    fits
}

/// Forgets what was found: this session has had events leave the quarantine.
pub fn forget() {
    LOOKS.with_borrow_mut(HashMap::clear);
}

fn remembered(tenant: &str, most: i64, adding: i64) -> Room {
    LOOKS.with_borrow(|looks| {
        looks.get(tenant).map_or(Room::Unknown, |look| look.room(most, adding, session::clock()))
    })
}

/// Counts them, and remembers how many others there were.
fn look(tenant: &str, most: i64, added: i64) -> bool {
    let began = session::clock();
    let there = (count(tenant, most.saturating_add(added)) - added).max(0);
    let look = Look::new(most, there, began, session::clock());
    LOOKS.with_borrow_mut(|looks| {
        if looks.len() >= TENANTS {
            looks.clear();
        }
        looks.insert(tenant.to_owned(), look);
    });
    there.saturating_add(added) <= most
}

/// Events of a tenant in quarantine, counted up to one more than `most`.
fn count(tenant: &str, most: i64) -> i64 {
    let count =
        "SELECT count(*) FROM (SELECT FROM tally.quarantine AS q WHERE q.tenant_id = $1 LIMIT $2) AS counted";
    session::as_owner(|| sql::one(count, &[tenant.into(), most.saturating_add(1).into()])).unwrap_or(0)
}
