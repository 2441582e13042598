//! Holds the extension's modules to their layers: a noun uses those below it, never one above, and nothing goes in a circle, nouns
//! or the files of one. Read from the paths in the sources, since prose alone did not keep the layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The nouns of src, lowest first. Those of one line may use each other, in one direction.
const LAYERS: [&[&str]; 11] = [
    &["backend", "settings"],
    &["sketch", "activity", "event"],
    &["scope"],
    &["audit"],
    &["privacy"],
    &["raw"],
    &["registry", "quota"],
    &["rollup"],
    &["ingest"],
    &["metric"],
    // Nothing uses these.
    &["catalog", "erasure", "probe", "retention", "worker", "export"],
];

/// A source file: the modules that lead to it, and its text without comments.
type Sources = BTreeMap<Vec<String>, String>;
/// What uses what.
type Arrows = BTreeSet<(String, String)>;

#[test]
fn nouns_use_what_lies_below_them() {
    let sources = sources();
    let arrows = between_nouns(&sources);
    for known in [("ingest", "rollup"), ("rollup", "raw"), ("raw", "scope"), ("scope", "backend")] {
        assert!(
            arrows.contains(&(known.0.into(), known.1.into())),
            "{known:?} isn't seen: is the test blind?"
        );
    }
    assert_eq!(upward(&arrows), Vec::<String>::new(), "arrows upwards, or of a noun that has no layer");
    assert_eq!(circles(&arrows), Vec::<String>::new(), "nouns in a circle");
}

#[test]
fn files_of_a_noun_do_not_go_in_circles() {
    let sources = sources();
    let arrows = between_files(&sources);
    let known = ("rollup::append".to_owned(), "rollup::accumulate".to_owned());
    assert!(arrows.contains(&known), "{known:?} isn't seen: is the test blind?");
    assert_eq!(circles(&arrows), Vec::<String>::new(), "files in a circle");
}

/// What a backend keeps outlives the statement and the transaction that load it, so it is loaded as of now, by `scan::texts` with
/// `Snapshot::Latest` or `Lookup` with `View::Now`: `sql::rows` may read by an older snapshot.
#[test]
fn what_is_kept_is_not_loaded_by_an_older_snapshot() {
    let sources = sources();
    let keeping: Vec<_> = sources.iter().filter(|(_, text)| text.contains("get_or_load(")).collect();
    assert!(keeping.len() >= 6, "{}", keeping.len());
    let wrong: Vec<_> =
        keeping.iter().filter(|(_, text)| text.contains("sql::rows(")).map(|(name, _)| name).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn an_arrow_upwards_is_found() {
    let sources = given(&[
        ("raw/mod.rs", "mod ledger;"),
        ("raw/ledger.rs", "use crate::{backend, rollup::{fold, Kind}};"),
        ("rollup/mod.rs", "fn a() { crate::probe::send() }"),
        ("worker.rs", "// use crate::nothing;\nuse crate::elsewhere::Thing;"),
    ]);
    let found = upward(&between_nouns(&sources));
    assert_eq!(found, ["raw uses rollup", "rollup uses probe", "worker uses elsewhere"]);
}

#[test]
fn a_circle_is_found() {
    let sources = given(&[
        ("scope/mod.rs", "mod confine;\nmod key;\nmod limit;\npub use key::Scope;"),
        ("scope/key.rs", "pub enum Scope {}"),
        ("scope/confine.rs", "use super::{Scope, limit};"),
        ("scope/limit.rs", "use super::Scope;\nfn f() { super::confine::class() }"),
    ]);
    assert_eq!(circles(&between_files(&sources)), ["scope::confine, scope::limit"]);
    let nouns =
        given(&[("event.rs", "use crate::sketch::text;"), ("sketch.rs", "use crate::event::EventRow;")]);
    assert_eq!(circles(&between_nouns(&nouns)), ["event, sketch"]);
    let parent = given(&[
        ("scope/mod.rs", "mod token;\npub struct Scope;\nfn enter() { token::read() }"),
        ("scope/token.rs", "use super::Scope;"),
    ]);
    assert_eq!(circles(&between_files(&parent)), ["scope, scope::token"]);
}

fn sources() -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the sources can be listed") {
            let path = entry.expect("the sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source can be read");
                let name = path.strip_prefix(&root).expect("lies below the root").to_owned();
                found.push((name.to_str().expect("a plain name").to_owned(), text));
            }
        }
    }
    given(&found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect::<Vec<_>>())
}

fn given(files: &[(&str, &str)]) -> Sources {
    let module = |name: &str| -> Vec<String> {
        let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
        name.split('/').map(str::to_owned).filter(|part| part != "lib").collect()
    };
    let code = |text: &str| -> String {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.flat_map(|line| [line, "\n"]).collect()
    };
    files.iter().map(|(name, text)| (module(name), code(text))).collect()
}

/// Every path in a text that begins with one of these words, each written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str, begins: &dyn Fn(&str) -> bool) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("::") {
        let word_at = rest[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let word = &rest[word_at..at];
        let is_first = !rest[..word_at].ends_with("::");
        if is_first && begins(word) {
            expand(&[word.to_owned()], &rest[at + 2..], &mut found);
        }
        rest = &rest[at + 2..];
        // What follows in the same path is no first word.
        rest = rest.trim_start_matches(is_word);
        while let Some(next) = rest.strip_prefix("::") {
            rest = next.trim_start_matches(is_word);
        }
    }
    found
}

/// Adds what `text`, the rest of a path, makes of its beginning; gives what stands behind it.
fn expand<'a>(begin: &[String], text: &'a str, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            inside = inside.trim_start();
            if let Some(behind) = inside.strip_prefix('}') {
                return behind;
            }
            let before = inside.len();
            inside = expand(begin, inside, found).trim_start();
            inside = inside.strip_prefix(',').unwrap_or(inside);
            if inside.len() == before {
                return inside;
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut path = begin.to_vec();
    if &text[..end] != "self" && end > 0 {
        path.push(text[..end].to_owned());
    }
    match text[end..].strip_prefix("::") {
        Some(more) => expand(&path, more, found),
        None => {
            found.push(path);
            let behind = &text[end..];
            // `as name`
            behind
                .trim_start()
                .strip_prefix("as ")
                .map_or(behind, |named| named.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'))
        }
    }
}

fn between_nouns(sources: &Sources) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, text) in sources {
        let Some(noun) = module.first() else { continue };
        for path in paths(text, &|word| word == "crate") {
            if let Some(used) = path.get(1).filter(|used| *used != noun && !is_macro(text, used)) {
                arrows.insert((noun.clone(), used.clone()));
            }
        }
    }
    arrows
}

/// Whether a name after `crate::` is that of a macro, which has no module.
fn is_macro(text: &str, name: &str) -> bool {
    text.contains(&format!("crate::{name}!"))
}

fn between_files(sources: &Sources) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, text) in sources.iter().filter(|(module, _)| !module.is_empty()) {
        let children: BTreeSet<&str> = sources
            .keys()
            .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
            .map(|child| child[module.len()].as_str())
            .collect();
        let exported = text.replace("pub use ", "\u{0}");
        // What a file merely hands on is not used by it.
        let own: String = exported
            .split('\u{0}')
            .enumerate()
            .map(
                |(place, part)| {
                    if place == 0 { part } else { part.split_once(';').map_or("", |(_, behind)| behind) }
                },
            )
            .collect();
        let begins = |word: &str| matches!(word, "crate" | "super" | "self") || children.contains(word);
        for path in paths(&own, &begins) {
            let mut from = module.clone();
            let mut parts = path.iter().map(String::as_str).peekable();
            match parts.peek() {
                Some(&"crate") => {
                    from.clear();
                    parts.next();
                }
                Some(&"self") => {
                    parts.next();
                }
                _ => {}
            }
            while parts.next_if_eq(&"super").is_some() {
                from.pop();
            }
            let path: Vec<String> = from.into_iter().chain(parts.map(str::to_owned)).collect();
            let used = file_of(sources, &path);
            if used != *module && used.first() == module.first() {
                arrows.insert((module.join("::"), used.join("::")));
            }
        }
    }
    arrows
}

/// The file that has what a path names: the module that goes along with it furthest, or that from which this one hands it on.
fn file_of(sources: &Sources, path: &[String]) -> Vec<String> {
    let mut length = path.len();
    while length > 0 && !sources.contains_key(&path[..length]) {
        length -= 1;
    }
    let module = path[..length].to_vec();
    let (Some(item), Some(text)) = (path.get(length), sources.get(&module)) else { return module };
    let exports = text.split("pub use ").skip(1).filter_map(|part| part.split_once(';'));
    for (export, _) in exports {
        let mut handed_on = Vec::new();
        expand(&[], export, &mut handed_on);
        if let Some(found) = handed_on.iter().find(|found| found.last() == Some(item) && found.len() > 1) {
            let from: Vec<String> = module.iter().cloned().chain(found.iter().cloned()).collect();
            return file_of(sources, &from);
        }
    }
    module
}

fn upward(arrows: &Arrows) -> Vec<String> {
    let layer = |noun: &str| LAYERS.iter().position(|layer| layer.contains(&noun));
    let top = LAYERS.len() - 1;
    let is_allowed = |from: &str, to: &str| match (layer(from), layer(to)) {
        (Some(from), Some(to)) => to <= from && to != top,
        _ => false,
    };
    arrows
        .iter()
        .filter(|(from, to)| !is_allowed(from, to))
        .map(|(from, to)| format!("{from} uses {to}"))
        .collect()
}

/// What can be reached from itself, in groups that reach each other.
fn circles(arrows: &Arrows) -> Vec<String> {
    let reach = |start: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![start];
        while let Some(from) = next.pop() {
            for (_, to) in arrows.iter().filter(|(source, _)| source == from) {
                if reached.insert(to.as_str()) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let every: BTreeSet<&str> = arrows.iter().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = every.iter().map(|&one| (one, reach(one))).collect();
    let groups: BTreeSet<Vec<&str>> = every
        .iter()
        .filter(|one| reached[*one].contains(*one))
        .map(|one| {
            every
                .iter()
                .copied()
                .filter(|other| reached[one].contains(other) && reached[other].contains(one))
                .collect()
        })
        .collect();
    groups.into_iter().map(|group| group.join(", ")).collect()
}
