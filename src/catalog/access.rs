//! Judging an actor's days against its own past; the rules are in `tally_core::access`.

use crate::backend::json::Document;
use crate::backend::report::Report;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;
use tally_core::access::{self, Day, Peers};

/// A day as tally_internal.judge_access() hands it over.
fn read(day: &Value) -> Option<Day> {
    let mut hours = [0; 24];
    for (hour, count) in hours.iter_mut().zip(day["hours"].as_array()?) {
        *hour = count.as_u64()?;
    }
    let tenants = day["tenants"].as_array()?.iter();
    Some(Day {
        day: i32::try_from(day["day"].as_i64()?).ok()?,
        rows: day["rows"].as_u64()?,
        denials: day["denials"].as_u64()?,
        hours,
        tenants: tenants.map(|tenant| tenant.as_str().map(str::to_owned)).collect::<Option<_>>()?,
    })
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of a set-returning function")]
fn judge_access(
    days: Document,
    from_day: i32,
    peers: Document,
) -> Result<
    TableIterator<'static, (name!(day, i32), name!(kind, String), name!(value, f64), name!(usual, f64))>,
    ErrorReport,
> {
    let read: Option<Vec<Day>> = days.0.as_array().and_then(|days| days.iter().map(read).collect());
    let Some(mut days) = read else {
        return Err(Report::new("22023", "the days of an actor can't be read".to_owned())
            .hint("an array of objects with day, rows, denials, hours and tenants")
            .into());
    };
    days.sort_by_key(|day| day.day);
    let peers = peers.0["rows"].as_f64().zip(peers.0["tenants"].as_f64());
    let peers = peers.map(|(rows, tenants)| Peers { rows, tenants });
    let found = access::judge(&days, from_day, peers);
    Ok(TableIterator::new(
        found.into_iter().map(|found| (found.day, found.kind.name().to_owned(), found.value, found.usual)),
    ))
}
