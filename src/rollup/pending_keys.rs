//! What views ask to tell the base rows that something is pending of: the aggregate `pending_keys` and `may_have_pending`.

use crate::backend::aggregate::{Holds, State};
use crate::backend::call::{self, Call, sql_function};
use crate::backend::memory;
use crate::backend::report::Report;
use pgrx::pg_sys::Datum;
use tally_core::grain::Grain;
use tally_core::pending_keys::{self, PendingKeys, key};

/// The keys of pending rows, at a grain.
struct Gathered {
    grain: Grain,
    keys: PendingKeys,
}

impl Holds for Gathered {
    fn outside(&self) -> usize {
        self.keys.memory()
    }
}

impl Gathered {
    fn begin(call: &Call) -> Result<Self, Report> {
        let name = call.text(4).unwrap_or_default();
        let grain = name.parse().map_err(|()| Report::new("22023", format!("\"{name}\" is no grain")))?;
        // A filter is only for speed, so it takes no more than a hash table may, and doesn't fail where more is pending.
        Ok(Self { grain, keys: PendingKeys::within(memory::of_hash_table()) })
    }

    #[inline]
    fn key(&self, tenant: &[u8], account: &[u8], bucket: i64) -> u64 {
        let is_infinite = matches!(bucket, i64::MIN | i64::MAX);
        key(tenant, account, if is_infinite { bucket } else { self.grain.floor(bucket) })
    }
}

sql_function! {
    fn tally_pending_keys_trans / pg_finfo_tally_pending_keys_trans(call)
    fast {
        let state = State::<Gathered>::of(call, 0)?;
        let (tenant, account, bucket) = (call.bytes_in_place(1)?, call.bytes_in_place(2)?, call.long(3)?);
        let gathered = state.in_place();
        let key = gathered.key(tenant, account, bucket);
        gathered.keys.add_in_place(key).then(|| state.datum())
    }
    {
        let state = State::<Gathered>::of(call, 0);
        let (Some(tenant), Some(account), Some(bucket)) = (call.bytes(1), call.bytes(2), call.long(3)) else {
            return Ok(state.map(State::datum));
        };
        let state = State::or_new(state, call, || Gathered::begin(call))?;
        state.change(|gathered| {
            let key = gathered.key(tenant, account, bucket);
            gathered.keys.add(key);
        });
        Ok(Some(state.datum()))
    }
}

sql_function! {
    /// The filter; an empty one where nothing is pending, one that says yes of everything where more is than memory holds.
    fn tally_pending_keys_final / pg_finfo_tally_pending_keys_final(call) {
        let filter = State::<Gathered>::of(call, 0).map(|state| state.value().keys.filter()).unwrap_or_default();
        Ok(Some(call::varlena(&filter)))
    }
}

sql_function! {
    fn tally_may_have_pending / pg_finfo_tally_may_have_pending(call)
    fast {
        let (filter, tenant, account) = (call.bytes_in_place(0)?, call.bytes_in_place(1)?, call.bytes_in_place(2)?);
        Some(Datum::from(pending_keys::may_have(filter, key(tenant, account, call.long(3)?))))
    }
    {
        let (Some(filter), Some(tenant), Some(account), Some(bucket)) =
            (call.bytes(0), call.bytes(1), call.bytes(2), call.long(3))
        else {
            return Ok(None);
        };
        Ok(Some(Datum::from(pending_keys::may_have(filter, key(tenant, account, bucket)))))
    }
}
