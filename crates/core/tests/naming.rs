//! Names in texts and queries: found where a person may stand, not in SQL's own words, and in linear time.

use proptest::prelude::*;
use tally_core::export::parameters;
use tally_core::naming::Names;

fn names(of: &[&str]) -> Names {
    Names::new(of.iter().map(|name| (*name).to_owned()))
}

#[test]
fn a_query_names_whom_its_literals_name() {
    let found = |query: &str, name: &str| names(&["nobody@example.org", name]).are_in_query(query);
    for (query, name) in [
        ("SELECT 1 WHERE user_id = 'anna'", "anna"),
        ("SELECT 1 WHERE user_id = 'it''s anna'", "anna"),
        ("SELECT 1 WHERE user_id = 'o''hara'", "o'hara"),
        (r"SELECT E'\'' , 'anna'", "anna"),
        (r"SELECT E'\x61nna', 1", "anna"),
        (r"SELECT E'\141nna', 1", "anna"),
        (r"SELECT e'\u0061nna', 1", "anna"),
        (r"SELECT U&'\0061nna', 1", "anna"),
        (r#"SELECT 1 AS U&"\+000061nna""#, "anna"),
        ("SELECT $a1$anna$a1$", "anna"),
        ("SELECT $$anna$$", "anna"),
        ("SELECT $$a$b$$, 'anna'", "anna"),
        ("SELECT 1 AS \"for anna\"", "anna"),
        ("SELECT 1 -- anna", "anna"),
        ("SELECT 1 /* for /* our */ anna */", "anna"),
        ("SELECT 1 /* a */, 'anna'", "anna"),
        ("SELECT 4711", "4711"),
        ("SELECT x FROM t WHERE id = 'Änn-1'", "Änn-1"),
        ("SELECT 'a'", "a"),
        ("SELECT 'ann@example.com,b@example.com'", "ann@example.com"),
        // Wherever it stands: it is no word of SQL's.
        ("SELECT 'ann@ex' || 'ample.com', ann@example.com", "ann@example.com"),
        ("SELECT a$b$c$d$e, 'anna'", "anna"),
        // As JSON spells it, once or in a document that is a string of another.
        (r#"SELECT '{"who": "\u0061nna"}'::jsonb"#, "anna"),
        (r#"SELECT E'{"who": "\\u0061nna"}'::jsonb"#, "anna"),
        (r#"SELECT $${"who": "\u00c4nn-1"}$$"#, "Änn-1"),
        (r#"SELECT '{"who": "\ud83d\ude00-12"}'"#, "😀-12"),
        (r#"SELECT '{"a": "{\"who\": \"\\u0061nna\"}"}'"#, "anna"),
        (r#"SELECT '{"who": "o\/hara"}'"#, "o/hara"),
        (r"SELECT U&'!0061nna' UESCAPE '!'", "anna"),
        (r#"SELECT 1 AS U&"@0061nna" uescape'@'"#, "anna"),
        (
            r"SELECT U&'!+000061nna' /* so */ UESCAPE -- or
            '!'",
            "anna",
        ),
        (r"SELECT U&'\D83D\DE00-12'", "😀-12"),
        ("SELECT 'an'\n'na'", "anna"),
        ("SELECT 'an' -- of\n  'na'", "anna"),
        ("SELECT e'\\x61n'\n\t'\\x6ea'", "anna"),
        ("SELECT U&'!0061n'\n'n!0061' UESCAPE '!'", "anna"),
    ] {
        assert!(found(query, name), "{query}: {name}");
    }
    for (query, name) in [
        ("SELECT anna FROM anna", "anna"),
        ("SELECT 'hanna', 'anna_b', 'annas'", "anna"),
        ("SELECT 14711, 4711.5e1, a4711", "4711.5"),
        ("SELECT 'an', 1", "a"),
        ("SELECT 1", "1"),
        ("SELECT 'for a'", "a"),
        ("SELECT count(*) FROM t", "count"),
        // Two values, or what is no escape.
        ("SELECT 'an', 'na'", "anna"),
        ("SELECT 'an' 'na'", "anna"),
        (r"SELECT U&'!0061nna'", "anna"),
    ] {
        assert!(!found(query, name), "{query}: {name}");
    }
}

#[test]
fn documents_and_texts_name_people_too() {
    let who = names(&["4711", "anna", "x", "123456789012345678901"]);
    let found = |document: &str| who.are_in_parameters(&parameters(document).unwrap());
    for document in [
        "[4711]",
        r#"["id=4711"]"#,
        r#"[1, "for anna"]"#,
        r#"["x"]"#,
        "[123456789012345678901]",
        r#"["{\"who\": \"\\u0061nna\"}"]"#,
    ] {
        assert!(found(document), "{document}");
    }
    for document in ["[47110]", r#"["ax x"]"#, "[null, true]", "[]", "[123456789012345678902]"] {
        assert!(!found(document), "{document}");
    }
    assert!(who.are_in_text("ticket 12: anna's wish") && who.are_in_text("anna"));
    assert!(!who.are_in_text("x") && !who.are_in_text("joanna") && !who.are_in_text(""));
}

/// Of each kind of text that a pattern with back references would read again and again.
#[test]
fn long_texts_are_read_once() {
    let who = Names::new((0..20_000).map(|n| format!("user-{n}@example.com")));
    for part in ["$", "$a", "a$b", "'", "\"", "/*", "*/", "--", "E'\\", "user-", "1", " ", "Ä"] {
        let query = part.repeat(200_000 / part.len());
        // What is quadratic would take hours.
        assert!(!who.are_in_query(&query), "{part}");
        assert!(!who.are_in_text(&query), "{part}");
    }
}

proptest! {
    #[test]
    fn every_text_is_read_to_its_end(query in "[ae$'\"\\\\u&U+x0-9/*\n .Ä-]{0,60}") {
        let who = names(&["aaaa"]);
        let _ = who.are_in_query(&query);
        let ending = format!("{query}'{query}\"*/$$\n");
        let _ = who.are_in_query(&ending);
    }

    /// A name in a string of Postgres' own making is found.
    #[test]
    fn a_name_in_a_string_is_found(name in "[a-zA-Z0-9'@. \\\\Ä-]{4,12}", before in "[a-z ,()=]{0,20}") {
        let query = format!("{before} '{}'", name.replace('\'', "''"));
        prop_assert!(names(&[&name]).are_in_query(&query), "{query}");
    }
}
