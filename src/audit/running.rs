//! Acts that go on for a while, as an export that is handed out: recorded when they end, or with how far they came where they are
//! broken off.

use super::acts::{self, Act};
use super::{line, pending};
use crate::backend::transaction_end;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use tally_core::audit::Record;

struct Running {
    id: u64,
    nesting: i32,
    record: Record,
    detail: Value,
}

thread_local! {
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Begins one, and names it.
pub fn begin(act: &Act) -> u64 {
    let id = LAST.get() + 1;
    LAST.set(id);
    let running =
        Running { id, nesting: transaction_end::nesting(), record: act.record(), detail: act.detail.clone() };
    RUNNING.with_borrow_mut(|all| all.push(running));
    id
}

/// Notes how far it is.
pub fn note(id: u64, name: &str, value: Value) {
    RUNNING.with_borrow_mut(|all| {
        if let Some(running) = all.iter_mut().find(|running| running.id == id) {
            running.detail[name] = value;
        }
    });
}

/// Records it.
pub fn finish(id: u64) {
    let ended = RUNNING.with_borrow_mut(|all| {
        let place = all.iter().position(|running| running.id == id)?;
        Some(all.swap_remove(place))
    });
    if let Some(mut running) = ended {
        running.record.entry.detail = Some(running.detail.to_string());
        acts::happened(running.record);
    }
}

/// A transaction ended, or a part of it of this nesting, and with it what was running.
pub fn forget(nesting: i32, committed: bool) {
    let broken_off = RUNNING.with_borrow_mut(|all| {
        let mut broken_off = Vec::new();
        for mut running in std::mem::take(all) {
            if running.nesting < nesting {
                all.push(running);
            } else if committed && nesting > 1 {
                running.nesting = nesting - 1;
                all.push(running);
            } else {
                broken_off.push(running);
            }
        }
        broken_off
    });
    for mut running in broken_off {
        running.detail["unfinished"] = Value::Bool(true);
        running.record.entry.detail = Some(running.detail.to_string());
        line::write("audit", &running.record);
        pending::keep_at_end(running.record, pending::Kind::Happened);
    }
}
