//! The check of an export: that every entry is what was sealed, that every seal goes on from the one before, and that anchors
//! which were kept elsewhere vouch for the whole. It reads line by line, and keeps one seal's entries at a time.

use super::dropped::Months;
use super::moment::Moments;
use super::{
    Anchor, Cluster, Entry, Frontier, Hash, Line, MONTH_DROPPED, PERSONAL_ERASED, Seal, SealedEntry,
    commitment, root,
};
use crate::event::format_uuid;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Problems that a report lists; the rest is counted.
const LISTED: usize = 1000;
/// Microseconds after which an entry of another cluster that isn't sealed won't be.
const LEFT_FOR: i64 = 86_400_000_000;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The line isn't one of an export.
    Unreadable,
    /// An entry isn't what it was when it was sealed.
    Changed,
    /// An entry is gone.
    Missing,
    /// An entry was put in: after its time was sealed, or with a time or a transaction at which it can't have been written.
    Inserted,
    /// An entry's personal part isn't what it was, or is gone and nothing says that it was erased.
    Personal,
    /// A seal isn't what it was, or doesn't go on from the one before.
    Seal,
    /// Seals are gone.
    MissingSeals,
    /// All hashes agree with each other and not with an anchor: they were made anew after a change.
    Rewritten,
    /// The anchor is of another database.
    Anchor,
}

impl Fault {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Unreadable => "unreadable",
            Fault::Changed => "changed",
            Fault::Missing => "missing",
            Fault::Inserted => "inserted",
            Fault::Personal => "personal",
            Fault::Seal => "seal",
            Fault::MissingSeals => "missing_seals",
            Fault::Rewritten => "rewritten",
            Fault::Anchor => "anchor",
        }
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub fault: Fault,
    /// The seal, by its place among all seals.
    pub seal: Option<u64>,
    pub tenant_id: Option<String>,
    /// The entry; of what spreads over several, the first.
    pub entry_id: Option<[u8; 16]>,
    /// In words.
    pub detail: String,
}

impl Problem {
    /// One line.
    pub fn print(&self) -> String {
        let mut text = format!("{}:", self.fault.name());
        if let Some(seal) = self.seal {
            text += &format!(" seal {seal},");
        }
        if let Some(tenant) = &self.tenant_id {
            text += &format!(" tenant {tenant:?},");
        }
        if let Some(id) = &self.entry_id {
            text += &format!(" entry {},", format_uuid(id));
        }
        format!("{text} {}", self.detail)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seals: u64,
    pub entries: u64,
    /// Entries that are not sealed yet: nothing vouches for them so far.
    pub unsealed: u64,
    /// Root of the tree over all seals.
    pub root: Hash,
    /// Anchors that vouch for what was read.
    pub anchors: u64,
    /// Months whose entries retention dropped, as the log itself says.
    pub dropped_months: Vec<String>,
    /// Personal parts that were erased, as the log itself says.
    pub erased: u64,
    /// From the first place on.
    pub problems: Vec<Problem>,
    /// Problems found, listed or not.
    pub found: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.found == 0
    }
}

/// A seal whose entries are being read.
struct Open {
    seal: Box<Seal>,
    hash: Hash,
    frontier: Option<Vec<u8>>,
    entries: Vec<SealedEntry>,
}

/// The check of one export.
pub struct Verifier {
    /// By size.
    anchors: BTreeMap<u64, Vec<Anchor>>,
    tree: Frontier,
    /// Whether the tree has every seal that was read.
    is_whole: bool,
    /// Number, total and hash of each tenant's last seal.
    tenants: HashMap<String, (u64, u64, Hash)>,
    open: Option<Open>,
    /// Where each cluster's transactions are sealed up to.
    sealed_to: HashMap<u64, u64>,
    /// The first seal, and its first entry, since the last anchor that agreed.
    unvouched: Option<(u64, String, Option<[u8; 16]>)>,
    /// The cluster that exported, where the export tells.
    cluster: Option<Cluster>,
    /// Cluster and transactions of the round whose seals are being read.
    round: Option<(u64, u64, u64)>,
    months: Months,
    moments: Moments,
    bare: Vec<(u64, String, [u8; 16])>,
    erased: HashSet<String>,
    report: Report,
    /// By place of the seal, and order of finding.
    problems: Vec<(u64, Problem)>,
}

impl Verifier {
    /// Begins a check against anchors that were kept elsewhere.
    pub fn new(anchors: Vec<Anchor>) -> Self {
        let mut verifier = Self {
            anchors: BTreeMap::new(),
            tree: Frontier::default(),
            is_whole: true,
            tenants: HashMap::new(),
            open: None,
            sealed_to: HashMap::new(),
            unvouched: None,
            cluster: None,
            round: None,
            months: Months::default(),
            moments: Moments::default(),
            bare: Vec::new(),
            erased: HashSet::new(),
            report: Report::default(),
            problems: Vec::new(),
        };
        let databases: HashSet<&str> =
            anchors.iter().map(|anchor| anchor.database.split('/').next().unwrap_or_default()).collect();
        if databases.len() > 1 {
            verifier.note(0, Fault::Anchor, None, None, "the anchors are of different clusters".to_owned());
        }
        for anchor in anchors {
            verifier.anchors.entry(anchor.size).or_default().push(anchor);
        }
        verifier
    }

    fn note(
        &mut self,
        place: u64,
        fault: Fault,
        tenant: Option<&str>,
        entry: Option<[u8; 16]>,
        detail: String,
    ) {
        self.report.found += 1;
        if self.problems.len() < LISTED {
            let seal = (place > 0 && place < u64::MAX).then_some(place);
            let problem =
                Problem { fault, seal, tenant_id: tenant.map(str::to_owned), entry_id: entry, detail };
            self.problems.push((place, problem));
        }
    }

    /// Takes the next line of an export.
    pub fn read(&mut self, text: &str) {
        match Line::read(text) {
            Ok(Line::Seal { seal, hash, frontier }) => {
                self.close();
                let round = (seal.origin, seal.from_xid, seal.to_xid);
                if self.round != Some(round) {
                    self.round = Some(round);
                    self.months.begin_round(seal.place);
                    self.moments.begin_round(seal.origin);
                }
                self.open = Some(Open { seal, hash, frontier, entries: Vec::new() });
            }
            Ok(Line::Cluster(cluster)) => self.cluster = Some(cluster),
            Ok(Line::Entry(entry)) => self.entry(*entry),
            Err(problem) => {
                let place = self.report.seals + 1;
                self.note(place, Fault::Unreadable, None, None, problem);
            }
        }
    }

    fn entry(&mut self, sealed: SealedEntry) {
        self.report.entries += 1;
        let entry = &sealed.entry;
        let is_sealed = self.open.as_ref().is_some_and(|open| open.covers(entry));
        if entry.act == MONTH_DROPPED {
            self.months.dropped(entry, is_sealed);
        } else if entry.act == PERSONAL_ERASED {
            self.erased.extend(entry.object.clone());
        }
        // Those of a seal follow it.
        match &mut self.open {
            Some(open) if is_sealed => open.entries.push(sealed),
            _ => self.unsealed(sealed),
        }
    }

    fn unsealed(&mut self, sealed: SealedEntry) {
        self.close();
        self.report.unsealed += 1;
        let SealedEntry { entry, leaf, .. } = &sealed;
        let (tenant, id) = (Some(entry.tenant_id.as_str()), Some(entry.entry_id));
        if self.sealed_to.get(&entry.origin).is_some_and(|to| entry.xid < *to) {
            self.note(
                u64::MAX,
                Fault::Inserted,
                tenant,
                id,
                "it was put in after its time was sealed".to_owned(),
            );
        } else if entry.leaf() != *leaf {
            self.note(u64::MAX, Fault::Changed, tenant, id, "it isn't what its hash says".to_owned());
        } else if let Some(problem) = self.impossible(entry) {
            self.note(u64::MAX, Fault::Inserted, tenant, id, problem);
        }
        self.personal(u64::MAX, &sealed);
    }

    /// Why an entry that isn't sealed can't have been written by the cluster that exported, if so.
    fn impossible(&self, entry: &Entry) -> Option<String> {
        let own = self.cluster;
        if own.is_some_and(|own| own.origin == entry.origin && entry.xid >= own.next_xid) {
            return Some("its transaction had not begun when the log was exported".to_owned());
        }
        // A restored database's log is sealed before its new cluster's own, also where it was in that cluster before. What is replicated
        // comes with its seals within minutes.
        let last = self.round.map(|(origin, ..)| origin);
        let is_left = own.is_some_and(|own| {
            own.origin != entry.origin && last == Some(own.origin) && entry.at < own.at - LEFT_FOR
        });
        if is_left {
            return Some("it is of another cluster, whose entries aren't sealed any more".to_owned());
        }
        self.moments.problem_of_unsealed(entry, own.map(|own| own.at))
    }

    fn personal(&mut self, place: u64, sealed: &SealedEntry) {
        let entry = &sealed.entry;
        let problem = match (&entry.personal, &sealed.personal) {
            (None, None) => return,
            (Some(kept), Some(personal)) if *kept == commitment(personal) => return,
            (Some(_), None) => {
                self.bare.push((place, entry.tenant_id.clone(), entry.entry_id));
                return;
            }
            (Some(_), Some(_)) => "its personal part was changed",
            (None, Some(_)) => "its personal part was put in afterwards",
        };
        let (tenant, id) = (Some(entry.tenant_id.as_str()), Some(entry.entry_id));
        self.note(place, Fault::Personal, tenant, id, problem.to_owned());
    }

    /// Judges the seal that was being read.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Open { seal, hash, frontier, entries } = open;
        let place = seal.place;
        let tenant = seal.tenant_id.clone();
        let expected = self.report.seals + 1;
        if place != expected {
            let detail = if place > expected {
                format!("seals {expected} to {} are missing", place - 1)
            } else {
                format!("it stands where seal {expected} should be")
            };
            self.note(
                expected,
                Fault::MissingSeals,
                Some(&tenant),
                entries.first().map(|first| first.entry.entry_id),
                detail,
            );
            self.is_whole = false;
        }
        self.report.seals = place;
        self.compare(&seal, &entries);
        let last = self.tenants.get(&tenant).copied().unwrap_or_default();
        let problem = if seal.hash() != hash {
            Some("its fields aren't what its hash says")
        } else if seal.root_of_leaves() != seal.root {
            Some("its leaves don't have its root")
        } else if seal.number != last.0 + 1 {
            Some("it isn't the tenant's next one")
        } else if seal.previous != last.2 {
            Some("it doesn't name the hash of the tenant's seal before")
        } else if seal.total != last.1 + seal.leaves.len() as u64 {
            Some("its total isn't that of the tenant's entries")
        } else {
            None
        };
        if let Some(problem) = problem {
            let first = entries.first().map(|first| first.entry.entry_id);
            self.note(place, Fault::Seal, Some(&tenant), first, problem.to_owned());
        }
        self.tenants.insert(tenant.clone(), (seal.number, seal.total, hash));
        let to = self.sealed_to.entry(seal.origin).or_default();
        *to = (*to).max(seal.to_xid);
        if self.unvouched.is_none() {
            self.unvouched = Some((place, tenant.clone(), entries.first().map(|first| first.entry.entry_id)));
        }
        // The tree is over what the seals say now, whatever was found of this one.
        self.tree.push(seal.hash());
        if self.is_whole {
            if frontier.is_some_and(|stored| stored != self.tree.encode()) {
                self.note(
                    place,
                    Fault::Seal,
                    Some(&tenant),
                    None,
                    "the frontier that stands with it isn't that of the seals".to_owned(),
                );
            }
            self.anchored(place);
        }
    }

    /// Compares with the anchors of this size.
    fn anchored(&mut self, size: u64) {
        for anchor in self.anchors.remove(&size).unwrap_or_default() {
            if anchor.root == self.tree.root() {
                self.report.anchors += 1;
                self.unvouched = None;
            } else {
                let (from, tenant, entry) = self.unvouched.clone().unwrap_or_default();
                // A fault that was found there says more than that hashes don't agree.
                let is_known = self.problems.iter().any(|(place, _)| (from..=size).contains(place));
                let detail = format!(
                    "seals {from} to {size} are not those of the anchor of {}: one of their entries, of which this is the first, was changed and the hashes made anew",
                    anchor.at
                );
                if !is_known {
                    self.note(from, Fault::Rewritten, Some(&tenant), entry, detail);
                }
            }
        }
    }

    /// Compares a seal's leaves with its entries.
    fn compare(&mut self, seal: &Seal, entries: &[SealedEntry]) {
        if !seal.leaves.is_empty() {
            self.months.seal(seal.place, &seal.tenant_id, &seal.month, !entries.is_empty());
        }
        if entries.is_empty() {
            return;
        }
        let mut sealed: HashMap<Hash, usize> = HashMap::with_capacity(seal.leaves.len());
        // Where the leaves that stand with the seal were changed, its root tells nothing about single entries.
        let leaves: &[Hash] = if root(&seal.leaves) == seal.root { &seal.leaves } else { &[] };
        for (position, leaf) in leaves.iter().enumerate() {
            sealed.insert(*leaf, position);
        }
        let tenant = Some(seal.tenant_id.as_str());
        for row in entries {
            let (entry, actual) = (&row.entry, row.entry.leaf());
            let id = Some(entry.entry_id);
            if actual != row.leaf {
                sealed.remove(&row.leaf);
                self.note(seal.place, Fault::Changed, tenant, id, "it isn't what its hash says".to_owned());
            } else if !leaves.is_empty() && sealed.remove(&actual).is_none() {
                self.note(
                    seal.place,
                    Fault::Inserted,
                    tenant,
                    id,
                    "it isn't among the entries that were sealed".to_owned(),
                );
            } else if let Some(problem) = self.moments.problem(entry, Some(seal.sealed_at)) {
                self.note(seal.place, Fault::Inserted, tenant, id, problem);
            }
            self.moments.note(entry, seal.sealed_at);
            self.personal(seal.place, row);
        }
        let missing = sealed.values().min().copied();
        if let Some(position) = missing {
            let detail = format!(
                "{} of the {} entries that were sealed are gone, the first at position {position}, hash {}",
                sealed.len(),
                leaves.len(),
                super::hex(&leaves[position])
            );
            self.note(seal.place, Fault::Missing, tenant, None, detail);
        }
    }

    /// Ends the check.
    pub fn finish(mut self) -> Report {
        self.close();
        let seals = self.report.seals;
        if let Some(anchor) =
            std::mem::take(&mut self.anchors).into_values().flatten().find(|anchor| anchor.size > seals)
        {
            let detail = format!(
                "there are {seals} seals, and there were {} at the anchor of {}: from seal {} on, all entries are gone",
                anchor.size,
                anchor.at,
                seals + 1
            );
            self.note(seals + 1, Fault::MissingSeals, None, None, detail);
        }
        let (dropped, missing) = std::mem::take(&mut self.months).finish();
        for (place, tenant, detail) in missing {
            self.note(place, Fault::Missing, Some(&tenant), None, detail);
        }
        for (place, tenant, id) in std::mem::take(&mut self.bare) {
            if self.erased.contains(&format_uuid(&id)) {
                self.report.erased += 1;
            } else {
                let detail = "its personal part is gone, and nothing says that it was erased";
                self.note(place, Fault::Personal, Some(&tenant), Some(id), detail.to_owned());
            }
        }
        self.report.dropped_months = dropped;
        self.report.root = self.tree.root();
        self.problems.sort_by_key(|(place, _)| *place);
        self.report.problems = self.problems.into_iter().map(|(_, problem)| problem).collect();
        self.report
    }
}

impl Open {
    fn covers(&self, entry: &super::Entry) -> bool {
        let seal = &self.seal;
        entry.tenant_id == seal.tenant_id
            && entry.origin == seal.origin
            && (seal.from_xid..seal.to_xid).contains(&entry.xid)
            && super::month_of(entry.at) == seal.month
    }
}
