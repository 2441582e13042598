//! Months whose entries are gone: whether what the log says of them, that retention dropped them, can be true.

use super::{Entry, month_of};
use std::collections::{BTreeMap, BTreeSet};

/// Retention drops a month once it has been over for so long, in microseconds.
const OVER_FOR: i64 = 30 * 86_400_000_000;

/// What is known of a month's seals.
#[derive(Default)]
struct Month {
    /// The first seal, by its place, whose entries are there.
    kept: Option<u64>,
    /// The first one whose entries are gone while nothing has said why, and its tenant.
    gone: Option<(u64, String)>,
    /// The same within a round, by the place of the round's first seal.
    gone_in_round: Option<(u64, (u64, String))>,
    /// Why what said that it was dropped isn't true.
    untrue: Option<&'static str>,
}

/// All months of a log, as its seals are read.
#[derive(Default)]
pub struct Months {
    months: BTreeMap<String, Month>,
    /// Place of the first seal of the round that is being read: of the seals that were made together.
    round: u64,
    dropped: BTreeSet<String>,
    /// What is not sealed yet and says that a month was dropped.
    unsealed: Vec<(String, i64)>,
}

impl Months {
    /// A round of the sealer begins with this seal.
    pub fn begin_round(&mut self, place: u64) {
        self.round = place;
    }

    /// A seal's entries were read, or there are none.
    pub fn seal(&mut self, place: u64, tenant: &str, month: &str, has_entries: bool) {
        let month = self.months.entry(month.to_owned()).or_default();
        if has_entries {
            month.kept.get_or_insert(place);
        } else {
            let gone = (place, tenant.to_owned());
            if month.gone_in_round.as_ref().is_none_or(|(round, _)| *round != self.round) {
                month.gone_in_round = Some((self.round, gone.clone()));
            }
            month.gone.get_or_insert(gone);
        }
    }

    /// An entry says that a month was dropped: it does so of the seals before its round, since all of them were there.
    pub fn dropped(&mut self, entry: &Entry, is_sealed: bool) {
        // Retention is of no tenant's.
        let Some(month) = entry.object.as_ref().filter(|_| entry.tenant_id.is_empty()) else { return };
        if is_sealed {
            self.judge(month, entry.at, self.round);
        } else {
            self.unsealed.push((month.clone(), entry.at));
        }
    }

    fn judge(&mut self, name: &str, at: i64, before: u64) {
        let month = self.months.entry(name.to_owned()).or_default();
        if month_of(at - OVER_FOR).as_str() <= name {
            month.untrue = Some("it says so before the month was over for 30 days");
        } else if month.kept.is_some_and(|place| place < before) {
            month.untrue = Some("other entries of the month are there that were sealed before");
        } else {
            self.dropped.insert(name.to_owned());
            let in_round = month.gone_in_round.clone().filter(|(round, _)| *round == before);
            month.gone =
                month.gone.take().filter(|(place, _)| *place >= before).or(in_round.map(|(_, gone)| gone));
        }
    }

    /// Ends the reading: the months that were dropped; and the places and tenants of the first seals whose entries nothing explains, with what
    /// is wrong.
    pub fn finish(mut self) -> (Vec<String>, Vec<(u64, String, String)>) {
        for (month, at) in std::mem::take(&mut self.unsealed) {
            self.judge(&month, at, u64::MAX);
        }
        let mut missing = Vec::new();
        for (name, month) in self.months {
            let Some((place, tenant)) = month.gone else { continue };
            let why = match month.untrue {
                None => "nothing says that retention dropped them".to_owned(),
                Some(untrue) => format!("the entry by which retention dropped them can't be true: {untrue}"),
            };
            missing.push((place, tenant, format!("its entries of the month {name} are gone, and {why}")));
        }
        (self.dropped.into_iter().collect(), missing)
    }
}
