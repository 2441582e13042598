//! The audit log's hashes, proofs and checks, against the published vectors of RFC 6962 and against every way of tampering.

use tally_core::audit::{
    Anchor, Entry, Fault, Frontier, Hash, Personal, Seal, Verifier, commitment, consistency_proof,
    hash_from_hex, hex, inclusion_proof, leaf_hash, month_of, root, shorten, shorten_text,
    verify_consistency, verify_inclusion,
};

/// The data of the leaves in the test vectors of certificate transparency (RFC 6962's reference implementation).
const DATA: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
/// The roots of the trees over the first one to eight of them.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn leaves() -> Vec<Hash> {
    DATA.iter().map(|data| leaf_hash(&tally_core::audit::from_hex(data).unwrap())).collect()
}

#[test]
fn roots_are_those_of_rfc_6962() {
    assert_eq!(hex(&root(&[])), EMPTY);
    for (size, expected) in (1..).zip(ROOTS) {
        assert_eq!(hex(&root(&leaves()[..size])), expected, "{size} leaves");
    }
}

#[test]
fn proofs_are_those_of_rfc_6962() {
    let leaves = leaves();
    let proof = |place: usize, size: usize| -> Vec<String> {
        inclusion_proof(&leaves[..size], place).unwrap().iter().map(|hash| hex(hash)).collect()
    };
    // The vectors of the reference implementation: place and size counted from 1 there.
    assert!(proof(0, 1).is_empty());
    assert_eq!(
        proof(0, 8),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
    );
    assert_eq!(
        proof(5, 8),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(proof(2, 3), ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]);
    assert_eq!(
        proof(1, 5),
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]
    );
    let consistency = |old: usize, new: usize| -> Vec<String> {
        consistency_proof(&leaves[..new], old).unwrap().iter().map(|hash| hex(hash)).collect()
    };
    assert!(consistency(1, 1).is_empty());
    assert_eq!(
        consistency(1, 8),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
    );
    assert_eq!(
        consistency(6, 8),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        consistency(2, 5),
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]
    );
}

#[test]
fn every_proof_holds_and_no_other() {
    let many: Vec<Hash> = (0_u32..33).map(|number| leaf_hash(&number.to_be_bytes())).collect();
    for size in 1..=many.len() {
        let (part, top) = (&many[..size], root(&many[..size]));
        let n = size as u64;
        for place in 0..size {
            let proof = inclusion_proof(part, place).unwrap();
            assert!(verify_inclusion(&part[place], place as u64, n, &proof, &top));
            assert!(!verify_inclusion(&part[(place + 1) % size], place as u64, n, &proof, &top) || size == 1);
            assert!(!verify_inclusion(&part[place], place as u64 + 1, n, &proof, &top));
            assert!(!verify_inclusion(&part[place], place as u64, n, &proof, &[0; 32]));
        }
        assert!(inclusion_proof(part, size).is_none());
        for old in 1..=size {
            let proof = consistency_proof(part, old).unwrap();
            let before = root(&many[..old]);
            assert!(verify_consistency(old as u64, &before, n, &top, &proof), "{old} {size}");
            assert!(!verify_consistency(old as u64, &[1; 32], n, &top, &proof));
            assert!(!verify_consistency(old as u64, &before, n, &[1; 32], &proof));
        }
        assert!(consistency_proof(part, 0).is_none() && consistency_proof(part, size + 1).is_none());
    }
}

#[test]
fn a_frontier_goes_on_from_its_bytes() {
    let many: Vec<Hash> = (0_u32..100).map(|number| leaf_hash(&number.to_be_bytes())).collect();
    let mut frontier = Frontier::default();
    for (size, leaf) in (1..).zip(&many) {
        frontier = Frontier::decode(&frontier.encode()).unwrap();
        frontier.push(*leaf);
        assert_eq!((frontier.size(), frontier.root()), (size as u64, root(&many[..size])));
    }
    assert_eq!(Frontier::decode(&[0; 7]), None);
    assert_eq!(Frontier::decode(&frontier.encode()[..40]), None);
}

fn entry(number: u64) -> Entry {
    Entry {
        tenant_id: ["", "acme", "globex"][number as usize % 3].to_owned(),
        origin: 7,
        xid: 100 + number,
        at: 848_000_000_000_000 + number as i64,
        entry_id: (u128::from(number) << 64).to_be_bytes(),
        actor: "support".to_owned(),
        account_id: None,
        act: "scope_entered".to_owned(),
        object: Some(format!("o{number}")),
        detail: Some(format!(r#"{{"n": {number}}}"#)),
        personal: None,
    }
}

/// Nothing that hashes stays the same where a field changes, and no field passes for another.
#[test]
fn a_leaf_is_made_of_every_field() {
    let whole = entry(1);
    let hash = |hash: u8| Some([hash; 32]);
    let mut others = vec![
        Entry { tenant_id: "acm".into(), ..whole.clone() },
        Entry { origin: 8, ..whole.clone() },
        Entry { xid: 1, ..whole.clone() },
        Entry { at: 1, ..whole.clone() },
        Entry { entry_id: [1; 16], ..whole.clone() },
        Entry { actor: "supporte".into(), ..whole.clone() },
        Entry { account_id: Some(String::new()), ..whole.clone() },
        Entry { act: "scope_enter".into(), object: Some("edo1".into()), ..whole.clone() },
        Entry { object: None, ..whole.clone() },
        Entry { object: whole.detail.clone(), detail: whole.object.clone(), ..whole.clone() },
        Entry { personal: hash(0), ..whole.clone() },
        Entry { personal: hash(1), ..whole.clone() },
    ];
    others.push(whole);
    let leaves: std::collections::HashSet<Hash> = others.iter().map(Entry::leaf).collect();
    assert_eq!(leaves.len(), others.len());
    for entry in &others {
        assert_eq!(Entry::decode(&entry.encode()).as_ref(), Some(entry));
    }
}

/// What the canonical bytes hash to must not change: exports of years ago are checked with it.
#[test]
fn the_leaf_of_version_1_stays() {
    let entry = Entry {
        personal: Some(commitment(&Personal { salt: vec![1, 2, 3], content: "{}".into() })),
        ..entry(1)
    };
    assert_eq!(hex(&entry.leaf()), LEAF);
    let seal = Seal {
        place: 1,
        number: 1,
        month: "2026-11-01".into(),
        to_xid: 9,
        total: 1,
        leaves: vec![entry.leaf()],
        root: entry.leaf(),
        ..Seal::default()
    };
    assert_eq!(hex(&seal.hash()), SEAL);
    assert_eq!(month_of(848_000_000_000_000), "2026-11-01");
    assert_eq!(month_of(-1), "1999-12-01");
}

/// Computed from the encoding's description in docs/formats.md, by another program.
const LEAF: &str = "d9520140df76194c83e4cf83bb0fffeae05bb61652e0aa2f04eba596258bbda2";
const SEAL: &str = "5e5dbc09765acaafbc00ae47c1ec228cc8e87ae1f44c09731a80c53311e5a078";

/// A log as the sealer writes it, and its export.
#[derive(Clone, Default)]
struct Log {
    seals: Vec<(Seal, Vec<Entry>)>,
    anchors: Vec<Anchor>,
}

impl Log {
    /// Rounds of `entries` entries, an anchor after each.
    fn new(rounds: u64, entries: u64) -> Self {
        let mut log = Self::default();
        for round in 0..rounds {
            let numbers = round * entries..(round + 1) * entries;
            for tenant in ["", "acme", "globex"] {
                let of = numbers.clone().map(entry).filter(|entry| entry.tenant_id == tenant).collect();
                log.seal(of, 100 + numbers.start, 100 + numbers.end);
            }
            let tree: Vec<Hash> = log.seals.iter().map(|(seal, _)| seal.hash()).collect();
            log.anchors.push(Anchor {
                database: "7/shop".into(),
                size: tree.len() as u64,
                root: root(&tree),
                at: format!("{round}"),
            });
        }
        log
    }

    fn seal(&mut self, entries: Vec<Entry>, from_xid: u64, to_xid: u64) {
        let Some(first) = entries.first() else { return };
        let last = self.seals.iter().rev().find(|(seal, _)| seal.tenant_id == first.tenant_id);
        let mut seal = Seal {
            place: self.seals.len() as u64 + 1,
            tenant_id: first.tenant_id.clone(),
            number: last.map_or(0, |(seal, _)| seal.number) + 1,
            month: month_of(first.at),
            origin: first.origin,
            from_xid,
            to_xid,
            sealed_at: entries.iter().map(|entry| entry.at).max().unwrap_or(0) + 5,
            total: last.map_or(0, |(seal, _)| seal.total) + entries.len() as u64,
            previous: last.map_or([0; 32], |(seal, _)| seal.hash()),
            leaves: entries.iter().map(Entry::leaf).collect(),
            root: [0; 32],
        };
        seal.root = seal.root_of_leaves();
        self.seals.push((seal, entries));
    }

    /// Makes all hashes anew, as somebody would who may write everything.
    fn rewrite(&mut self) {
        for (seal, entries) in std::mem::take(&mut self.seals) {
            self.seal(entries, seal.from_xid, seal.to_xid);
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (seal, entries) in &self.seals {
            lines.push(seal_line(seal));
            lines.extend(entries.iter().map(|entry| entry_line(entry, &entry.leaf())));
        }
        lines
    }
}

fn seal_line(seal: &Seal) -> String {
    serde_json::json!({"seal": seal.place, "tenant_id": seal.tenant_id, "number": seal.number, "month": seal.month,
        "origin": seal.origin.to_string(), "from_xid": seal.from_xid.to_string(), "to_xid": seal.to_xid.to_string(), "sealed_at": seal.sealed_at,
        "total": seal.total, "root": hex(&seal.root), "previous": hex(&seal.previous), "hash": hex(&seal.hash()),
        "leaves": hex(&seal.leaves.concat()), "frontier": null})
    .to_string()
}

fn entry_line(entry: &Entry, leaf: &Hash) -> String {
    serde_json::json!({"entry": tally_core::event::format_uuid(&entry.entry_id), "tenant_id": entry.tenant_id, "origin": entry.origin.to_string(),
        "xid": entry.xid.to_string(), "at": entry.at, "actor": entry.actor, "account_id": entry.account_id, "act": entry.act,
        "object": entry.object, "detail": entry.detail, "personal": entry.personal.map(|hash| hex(&hash)), "leaf": hex(leaf)})
    .to_string()
}

fn check(lines: &[String], anchors: &[Anchor]) -> tally_core::audit::Report {
    let mut verifier = Verifier::new(anchors.to_vec());
    lines.iter().for_each(|line| verifier.read(line));
    verifier.finish()
}

#[test]
fn an_untouched_log_is_intact() {
    let log = Log::new(5, 20);
    let report = check(&log.lines(), &log.anchors);
    assert!(report.is_intact(), "{:?}", report.problems);
    assert_eq!((report.seals, report.entries, report.anchors), (15, 100, 5));
    assert!(check(&[], &[]).is_intact());
    for anchor in &log.anchors {
        assert_eq!(Anchor::read(&anchor.print()).as_ref(), Ok(anchor));
    }
}

/// Each way of tampering is found, with the first bad entry.
#[test]
fn tampering_is_found() {
    let log = Log::new(4, 12);
    for (place, (seal, entries)) in log.seals.iter().enumerate() {
        for (position, entry) in entries.iter().enumerate() {
            let changed = Entry { detail: Some("{}".into()), ..entry.clone() };
            let first =
                |lines: Vec<String>| check(&lines, &log.anchors).problems.into_iter().next().expect("found");
            let replace = |by: &[String]| -> Vec<String> {
                let line = entry_line(entry, &entry.leaf());
                log.lines()
                    .into_iter()
                    .flat_map(|own| if own == line { by.to_vec() } else { vec![own] })
                    .collect()
            };
            // A field is changed.
            let problem = first(replace(&[entry_line(&changed, &entry.leaf())]));
            assert_eq!((problem.fault, problem.entry_id), (Fault::Changed, Some(entry.entry_id)));
            // The same, and its own hash made anew.
            let problem = first(replace(&[entry_line(&changed, &changed.leaf())]));
            assert_eq!((problem.fault, problem.entry_id), (Fault::Inserted, Some(entry.entry_id)));
            // It is deleted.
            let problem = first(replace(&[]));
            assert_eq!((problem.fault, problem.seal), (Fault::Missing, Some(seal.place)));
            assert!(
                problem.detail.contains(&hex(&entry.leaf()))
                    && problem.detail.contains(&format!("position {position}"))
                    || entries.len() == 1
            );
            // One is put in beside it.
            let more = Entry { entry_id: [9; 16], ..entry.clone() };
            let problem =
                first(replace(&[entry_line(entry, &entry.leaf()), entry_line(&more, &more.leaf())]));
            assert_eq!((problem.fault, problem.entry_id), (Fault::Inserted, Some([9; 16])));
            // All hashes are made anew from it on.
            let mut rewritten = log.clone();
            rewritten.seals[place].1[position] = changed.clone();
            rewritten.rewrite();
            assert!(check(&rewritten.lines(), &[]).is_intact(), "without an anchor nobody can tell");
            let problem = first(rewritten.lines());
            // One round is between two anchors.
            let from = problem.seal.unwrap();
            assert_eq!(problem.fault, Fault::Rewritten);
            assert!((from..from + 3).contains(&seal.place), "{problem:?} {}", seal.place);
        }
        // The tail is cut off.
        let mut cut = log.clone();
        cut.seals.truncate(place);
        let report = check(&cut.lines(), &log.anchors);
        assert_eq!(
            (report.problems[0].fault, report.problems[0].seal),
            (Fault::MissingSeals, Some(seal.place))
        );
        // A seal is gone, or says something else.
        let lines: Vec<String> = log.lines().into_iter().filter(|line| *line != seal_line(seal)).collect();
        assert!(!check(&lines, &log.anchors).is_intact());
        let forged = Seal { sealed_at: seal.sealed_at + 1, ..seal.clone() };
        let says = |seal: &Seal| format!("\"sealed_at\":{}", seal.sealed_at);
        let lines: Vec<String> = log
            .lines()
            .into_iter()
            .map(
                |line| {
                    if line == seal_line(seal) { line.replace(&says(seal), &says(&forged)) } else { line }
                },
            )
            .collect();
        let problem = &check(&lines, &log.anchors).problems[0];
        assert_eq!((problem.fault, problem.seal), (Fault::Seal, Some(forged.place)));
    }
}

#[test]
fn what_retention_drops_and_erasure_takes_is_no_fault_where_the_log_says_so() {
    let mut log = Log::default();
    let personal = Personal { salt: vec![7; 16], content: r#"{"subject":"jane"}"#.into() };
    let bare = Entry { personal: Some(commitment(&personal)), ..entry(3) };
    log.seal(vec![bare.clone()], 1, 200);
    let old: Vec<String> = vec![seal_line(&log.seals[0].0)];
    let act = |act: &str, object: String| Entry {
        act: act.into(),
        object: Some(object),
        xid: 300,
        at: entry(0).at + 60 * DAY,
        ..entry(0)
    };
    let dropped = act(tally_core::audit::MONTH_DROPPED, "2026-11-01".into());
    assert_eq!(check(&old, &[]).problems[0].fault, Fault::Missing);
    let told = [old, vec![entry_line(&dropped, &dropped.leaf())]].concat();
    let report = check(&told, &[]);
    assert!(report.is_intact(), "{:?}", report.problems);
    assert_eq!(report.dropped_months, ["2026-11-01"]);

    let without: Vec<String> = log.lines();
    assert_eq!(check(&without, &[]).problems[0].fault, Fault::Personal);
    let erased = act(tally_core::audit::PERSONAL_ERASED, tally_core::event::format_uuid(&bare.entry_id));
    let report = check(&[without, vec![entry_line(&erased, &erased.leaf())]].concat(), &[]);
    assert!(report.is_intact() && report.erased == 1, "{:?}", report.problems);
}

const DAY: i64 = 86_400_000_000;

/// What says that retention dropped a month explains that its entries are gone only where it can be true.
#[test]
fn a_month_that_was_not_dropped_by_retention_is_missed() {
    let november = |number: u64| entry(number);
    let drop = |xid: u64, days: i64| Entry {
        xid,
        at: entry(0).at + days * DAY,
        act: tally_core::audit::MONTH_DROPPED.into(),
        object: Some("2026-11-01".into()),
        ..entry(0)
    };
    // Seals 1 and 2 of one round, 3 of the next one.
    let mut log = Log::default();
    log.seal(vec![november(1)], 1, 200);
    log.seal(vec![november(2)], 1, 200);
    log.seal(vec![Entry { xid: 201, ..november(4) }], 200, 300);
    let seals: Vec<String> = log.seals.iter().map(|(seal, _)| seal_line(seal)).collect();
    let line = |entry: &Entry| entry_line(entry, &entry.leaf());
    let entries: Vec<String> = log.seals.iter().map(|(_, entries)| line(&entries[0])).collect();
    let said = |lines: &[&String], entry: &Entry, is_sealed: bool| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).clone()).collect();
        if is_sealed {
            let mut log = log.clone();
            log.seal(vec![entry.clone()], 300, 400);
            lines.push(seal_line(&log.seals[3].0));
        }
        lines.push(line(entry));
        check(&lines, &[])
    };
    let all_gone = [&seals[0], &seals[1], &seals[2]];
    for is_sealed in [true, false] {
        // The first entry is of the 14th: the month is over for 30 days on day 47.
        for (days, is_true) in [(0, false), (20, false), (46, false), (47, true), (400, true)] {
            let report = said(&all_gone, &drop(350, days), is_sealed);
            assert_eq!(report.is_intact(), is_true, "{days} {:?}", report.problems);
            assert_eq!(report.dropped_months.len(), usize::from(is_true));
            if !is_true {
                let first = &report.problems[0];
                assert_eq!((first.fault, first.seal), (Fault::Missing, Some(1)));
                assert!(first.detail.contains("can't be true"), "{}", first.detail);
            }
        }
        // A tenant's entry is none of retention's.
        let of_acme = Entry { tenant_id: "acme".into(), ..drop(350, 60) };
        assert_eq!(said(&all_gone, &of_acme, is_sealed).problems[0].fault, Fault::Missing);
        // Another tenant's entry is there, or one of another round.
        for some in [
            vec![&seals[0], &entries[0], &seals[1], &seals[2]],
            vec![&seals[0], &seals[1], &entries[1], &seals[2]],
            vec![&seals[0], &seals[1], &seals[2], &entries[2]],
        ] {
            let report = said(&some, &drop(350, 60), is_sealed);
            assert_eq!(report.problems[0].fault, Fault::Missing, "{some:?}");
            assert!(report.dropped_months.is_empty());
        }
    }
    // What came into the month after it was dropped is there, or dropped once more, or missed.
    let mut log = log.clone();
    log.seal(vec![drop(350, 60)], 300, 400);
    let late = Entry { xid: 401, at: entry(0).at + DAY, ..november(7) };
    log.seal(vec![Entry { xid: 402, at: entry(0).at + 60 * DAY, ..november(5) }], 400, 500);
    log.seal(vec![late.clone()], 400, 500);
    let seals: Vec<String> = log.seals.iter().map(|(seal, _)| seal_line(seal)).collect();
    let lines = |with: bool| {
        let mut lines = seals[..4].to_vec();
        lines.extend([
            line(&log.seals[3].1[0]),
            seals[4].clone(),
            line(&log.seals[4].1[0]),
            seals[5].clone(),
        ]);
        lines.extend(with.then(|| line(&late)));
        lines
    };
    // It is dated back, which is another thing.
    assert_eq!(check(&lines(true), &[]).problems.iter().filter(|one| one.fault == Fault::Missing).count(), 0);
    let report = check(&lines(false), &[]);
    assert_eq!((report.problems[0].fault, report.problems[0].seal), (Fault::Missing, Some(6)));
    let again = drop(501, 61);
    let report = check(&[lines(false), vec![line(&again)]].concat(), &[]);
    assert!(report.is_intact(), "{:?}", report.problems);
}

/// What was put in by hand is found where its time, its transaction or its cluster can't be.
#[test]
fn entries_that_cannot_have_been_written_are_found() {
    let mut log = Log::new(3, 6);
    let now = entry(0).at;
    let cluster = |next_xid: u64, at: i64| {
        serde_json::json!({"cluster": "7", "next_xid": next_xid.to_string(), "at": at}).to_string()
    };
    let with = |lines: &[String], last: &Entry| {
        let mut all = vec![cluster(500, now + 2 * DAY)];
        all.extend_from_slice(lines);
        all.push(entry_line(last, &last.leaf()));
        check(&all, &[])
    };
    for (what, unsealed, is_found) in [
        ("as they come", Entry { xid: 499, ..entry(30) }, false),
        ("a transaction to come", Entry { xid: 500, ..entry(30) }, true),
        ("one that never comes", Entry { xid: 9_000_000_000_000_000_000, ..entry(30) }, true),
        ("kept for a week", Entry { xid: 400, at: now - 7 * DAY, ..entry(30) }, false),
        ("dated back", Entry { xid: 400, at: now - 40 * DAY, ..entry(30) }, true),
        ("clocks differ", Entry { xid: 400, at: now + 2 * DAY + 1000, ..entry(30) }, false),
        ("dated ahead", Entry { xid: 400, at: now + 40 * DAY, ..entry(30) }, true),
        ("replicated now", Entry { origin: 8, xid: 3, at: now + 2 * DAY, ..entry(30) }, false),
        ("of nobody's", Entry { origin: 8, xid: 3, ..entry(30) }, true),
    ] {
        let report = with(&log.lines(), &unsealed);
        let faults: Vec<_> = report.problems.iter().map(|one| (one.fault, one.entry_id)).collect();
        let expected = [(Fault::Inserted, Some(unsealed.entry_id))];
        assert_eq!(faults, expected[..usize::from(is_found)], "{what}: {:?}", report.problems);
    }
    // Moved to another cluster and back: what that one recorded last is sealed here first.
    let mut moved = log.clone();
    moved.seal(vec![Entry { origin: 8, xid: 3, ..entry(30) }], 0, 4);
    let report = with(&moved.lines(), &Entry { origin: 8, xid: 5, ..entry(33) });
    assert!(report.is_intact(), "{:?}", report.problems);
    // The same once they are sealed, and of what comes after none is found.
    for (days, is_found) in [(-7, false), (-40, true)] {
        let mut log = log.clone();
        let forged = Entry { xid: 130, at: now + days * DAY, ..entry(30) };
        log.seal(vec![forged.clone()], 118, 140);
        log.seals.last_mut().unwrap().0.sealed_at = now + 10;
        log.seal(vec![Entry { xid: 141, ..entry(33) }], 140, 150);
        let report = check(&log.lines(), &[]);
        let faults: Vec<_> = report.problems.iter().map(|one| (one.fault, one.entry_id)).collect();
        assert_eq!(faults, [(Fault::Inserted, Some(forged.entry_id))][..usize::from(is_found)], "{days}");
    }
    // Of a clock that was ahead and is set right nothing is found, but what is dated back against the clock by which it was sealed.
    let mut fast = log.clone();
    fast.seal(vec![Entry { xid: 130, at: now + 45 * DAY, ..entry(30) }], 118, 140);
    fast.seal(vec![Entry { xid: 141, at: now + 1000, ..entry(33) }], 140, 150);
    for (days, is_found) in [(-7, false), (-40, true)] {
        let mut log = fast.clone();
        let last = Entry { xid: 151, at: now + days * DAY, ..entry(36) };
        log.seal(vec![last.clone()], 150, 160);
        log.seals.last_mut().unwrap().0.sealed_at = now + 2000;
        let unsealed = Entry { xid: 161, at: now + 3000, ..entry(39) };
        let report = with(&log.lines(), &unsealed);
        let faults: Vec<_> = report.problems.iter().map(|one| (one.fault, one.entry_id)).collect();
        assert_eq!(faults, [(Fault::Inserted, Some(last.entry_id))][..usize::from(is_found)], "{days}");
    }
    let unsealed = Entry { xid: 161, at: now + 3000, ..entry(39) };
    fast.seals.pop();
    let report = with(&fast.lines(), &unsealed);
    assert!(report.is_intact(), "{:?}", report.problems);
    let ahead = Entry { xid: 130, at: now + 40 * DAY, ..entry(30) };
    log.seal(vec![ahead.clone()], 118, 140);
    log.seals.last_mut().unwrap().0.sealed_at = now + 10;
    log.seal(vec![Entry { xid: 141, ..entry(33) }], 140, 150);
    let report = check(&log.lines(), &[]);
    let faults: Vec<_> = report.problems.iter().map(|one| (one.fault, one.entry_id)).collect();
    assert_eq!(faults, [(Fault::Inserted, Some(ahead.entry_id))], "{:?}", report.problems);
    // An export of before that line was there is checked as then.
    assert!(check(&Log::new(2, 6).lines(), &[]).is_intact());
}

#[test]
fn garbage_is_a_problem_and_no_panic() {
    for line in
        ["", "{}", "[]", "nothing", r#"{"seal": 1}"#, r#"{"entry": "x"}"#, "{\"seal\":1,\"leaves\":\"zz\"}"]
    {
        assert_eq!(check(&[line.to_owned()], &[]).problems[0].fault, Fault::Unreadable, "{line}");
    }
    assert!(Anchor::read("{}").is_err() && Anchor::read("x").is_err());
    assert_eq!(hash_from_hex("00"), None);
}

/// Whoever pads one value, or many, hides no short one; what is there fits, and says how much is not.
#[test]
fn a_long_document_keeps_its_short_values() {
    let long = |n: usize| "é\n".repeat(n / 3);
    let plain = serde_json::json!({"from": {"a": "b"}, "reason": long(300), "n": 7});
    assert_eq!(shorten(plain.clone(), 1000), plain);
    let many: serde_json::Map<_, _> = (0..3000).map(|n| (format!("key {n}"), n.into())).collect();
    for (lengths, is_nested) in
        [(vec![20_000], false), (vec![900, 20_000, 300_000], false), (vec![20_000; 20], true)]
    {
        let texts: serde_json::Map<_, _> =
            lengths.iter().enumerate().map(|(n, length)| (format!("t{n}"), long(*length).into())).collect();
        let mut changed = texts.clone();
        changed.insert("classification".into(), "public".into());
        changed.insert("schema".into(), many.clone().into());
        let document = if is_nested {
            serde_json::json!({"from": changed, "to": changed, "undone": true})
        } else {
            serde_json::Value::Object(changed)
        };
        let short = shorten(document.clone(), 16_000);
        assert!(short.to_string().len() <= 16_000, "{}", short.to_string().len());
        let (before, after) =
            if is_nested { (&document["from"], &short["from"]) } else { (&document, &short) };
        assert_eq!(after["classification"], "public");
        for (name, length) in (0..).map(|n| format!("t{n}")).zip(&lengths) {
            let (text, kept) = (before[&name].as_str().unwrap(), &after[&name]);
            if *length < 1000 {
                assert_eq!(kept, text);
                continue;
            }
            let begin = kept["begin"].as_str().unwrap();
            assert!(text.starts_with(begin) && !begin.is_empty(), "{name}");
            assert_eq!(kept["left_out_bytes"], text.len() - begin.len());
            assert_eq!(kept["sha256"], hex(&sha256(text)));
        }
        assert!(after["schema"]["begin"].as_str().unwrap().starts_with("{\"key 0\":0"), "{after}");
    }
    let object = shorten_text(&long(3000), 1000);
    assert!(object.starts_with(&long(900)) && object.len() < 1200 && object.contains("2001 bytes left out"));
    assert_eq!(shorten_text("short", 1000), "short");
}

fn sha256(text: &str) -> Hash {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).into()
}
