//! Tenants, as ingest meets them: the secret key of each one's sketches, made when its first event arrives.

use crate::backend::appender::{Appender, Unique};
use crate::backend::arena::Arena;
use crate::backend::heap::{Declared, TableError};
use crate::backend::lookup::{Key, Lookup, View};
use crate::backend::session;
use pgrx::pg_sys::{self, Datum};
use std::collections::BTreeMap;
use tally_core::hll::{HashKey, ValueHasher};

pub const TENANTS: Declared = Declared {
    table: "tenant",
    columns: &[
        ("sketch_epoch", pg_sys::INT4OID),
        ("first_seen_at", pg_sys::TIMESTAMPTZOID),
        ("tenant_id", pg_sys::TEXTOID),
        ("sketch_key", pg_sys::BYTEAOID),
    ],
    key: &["tenant_id"],
};

const SKETCH_KEY: [i32; 2] = [TENANTS.at("sketch_epoch"), TENANTS.at("sketch_key")];

/// The hasher of each tenant's distinct counts.
pub type Hashers = BTreeMap<String, ValueHasher>;

/// Another transaction is registering one of the tenants.
pub struct Clash;

/// Finds the tenants' hashers and registers the tenants that are new, in order of name, so that two batches wait for
/// each other in one order only.
pub fn hashers<'a>(
    names: impl Iterator<Item = &'a str>,
    now: i64,
) -> Result<Result<Hashers, Clash>, TableError> {
    let table = session::relation(c"tenant");
    let mut arena = Arena::default();
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Hashers::new();
    let mut missing = Vec::new();
    let mut known = Lookup::open(table, &[Key::Text], View::Latest);
    known.require(&TENANTS);
    for name in names {
        match known.find(&[arena.varlena(name.as_bytes())], SKETCH_KEY) {
            Some(row) if row.nulls[1] => {
                return Err(TableError::Column {
                    table: TENANTS.table.into(),
                    problem: format!("column \"sketch_key\" is null for \"{name}\""),
                });
            }
            Some(row) => {
                let epoch = row.int(0).expect("the column is NOT NULL") as u32;
                let key = HashKey(row.fixed(1).expect("the column is NOT NULL"));
                found.insert(name.to_owned(), ValueHasher::Keyed { key, epoch });
            }
            None => missing.push(name),
        }
    }
    known.close();
    if !missing.is_empty() {
        let mut new = Appender::open(table, &TENANTS)?;
        for name in missing {
            let key: [u8; 16] = session::random_bytes();
            let epoch = u32::from_le_bytes(session::random_bytes());
            let (row, nulls) = TENANTS.row([
                ("sketch_epoch", Some(Datum::from(epoch as i32))),
                ("first_seen_at", Some(Datum::from(now))),
                ("tenant_id", Some(arena.varlena(name.as_bytes()))),
                ("sketch_key", Some(arena.varlena(&key))),
            ]);
            if new.push(&row, &nulls) == Unique::Clash {
                return Ok(Err(Clash));
            }
            found.insert(name.to_owned(), ValueHasher::Keyed { key: HashKey(key), epoch });
        }
        if new.finish() == Unique::Clash {
            return Ok(Err(Clash));
        }
    }
    Ok(Ok(found))
}
