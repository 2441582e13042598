//! Equality with a real server: jsonb bytes, jsonb text, times. Needs `psql`, a database (`PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE`) and
//! the right to create the extension pageinspect in it:
//! `cargo test --release --test server -- --ignored`.

mod corpus;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use tally_core::event::{format_timestamp, parse_timestamp};
use tally_core::jsonb::{Bounds, Encoder, check, to_json};

const OBJECTS: usize = 20_000;

/// A tuple must fit on a page, since only there can its bytes be read.
const LARGEST: usize = 8000;

fn psql(script: &str) -> String {
    let mut child = Command::new("psql")
        .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql");
    let mut input = child.stdin.take().expect("a pipe");
    let script = script.to_owned();
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = child.wait_with_output().expect("psql output");
    writer.join().expect("a writer").expect("a written script");
    assert!(output.status.success(), "psql failed");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
#[ignore = "needs a server"]
fn jsonb_equals_the_servers() {
    let mut corpus = corpus::Corpus::new(15);
    let mut encoder = Encoder::new();
    let mut cases = Vec::new();
    let mut script = String::from(
        "CREATE EXTENSION IF NOT EXISTS pageinspect;
         CREATE TEMP TABLE corpus (id int, doc jsonb);
         ALTER TABLE corpus ALTER doc SET STORAGE PLAIN;
         COPY corpus FROM STDIN;\n",
    );
    while cases.len() < OBJECTS {
        let text = corpus.object();
        let mut bytes = Vec::new();
        let digest =
            encoder.encode(&text, Bounds::WIDEST, &mut bytes).unwrap_or_else(|e| panic!("{e}: {text}"));
        if bytes.len() > LARGEST {
            continue;
        }
        let copied =
            text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
        writeln!(script, "{}\t{copied}", cases.len()).expect("a string");
        cases.push((text, bytes, digest));
    }
    script.push_str(
        "\\.
         SELECT encode(t_data, 'hex')
         FROM generate_series(0, pg_relation_size('corpus') / 8192 - 1) AS page,
              heap_page_items(get_raw_page('corpus', page::int));
         SELECT '=';
         SELECT to_jsonb(doc::text) FROM corpus ORDER BY id;\n",
    );
    let answer = psql(&script);
    let mut lines = answer.lines();
    let mut seen = 0;
    for line in lines.by_ref().take_while(|l| *l != "=") {
        let tuple: Vec<u8> = (0..line.len() / 2)
            .map(|i| u8::from_str_radix(&line[i * 2..i * 2 + 2], 16).expect("hex"))
            .collect();
        let id = u32::from_le_bytes([tuple[0], tuple[1], tuple[2], tuple[3]]) as usize;
        let (text, bytes, digest) = &cases[id];
        assert_eq!(&tuple[8..], &bytes[..], "object {id}: {text}");
        assert_eq!(check(&tuple[8..], Bounds::WIDEST), Ok(*digest), "object {id}: {text}");
        seen += 1;
    }
    assert_eq!(seen, OBJECTS);
    for ((text, bytes, _), line) in cases.iter().zip(lines) {
        let mut printed = String::new();
        to_json(bytes, &mut printed).expect("sound bytes");
        let theirs: String = serde_json::from_str(line).expect("a JSON string");
        assert_eq!(printed, theirs, "{text}");
        seen += 1;
    }
    assert_eq!(seen, 2 * OBJECTS);
}

#[test]
#[ignore = "needs a server"]
fn times_equal_the_servers() {
    let mut corpus = corpus::Corpus::new(3339);
    let times: Vec<String> = (0..OBJECTS).map(|_| corpus.time()).collect();
    let mut script = String::from(
        "CREATE TEMP TABLE times (id int, t text);
         CREATE FUNCTION pg_temp.judge(t text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE at timestamptz;
         BEGIN
           at := t::timestamptz;
           RETURN (extract(epoch FROM at) * 1000000)::bigint - 946684800000000;
         EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE;
         END $$;
         COPY times FROM STDIN;\n",
    );
    for (id, time) in times.iter().enumerate() {
        writeln!(script, "{id}\t{time}").expect("a string");
    }
    script.push_str("\\.\nSELECT pg_temp.judge(t) FROM times ORDER BY id;\n");
    let answer = psql(&script);
    let (mut accepted, mut refused) = (0, 0);
    for (time, theirs) in times.iter().zip(answer.lines()) {
        match parse_timestamp(time) {
            Ok(micros) => {
                assert_eq!(micros.to_string(), theirs, "{time}");
                assert_eq!(parse_timestamp(&format_timestamp(micros)), Ok(micros));
                accepted += 1;
            }
            Err(e) => {
                assert_eq!(e.sqlstate, theirs, "{time}");
                refused += 1;
            }
        }
    }
    assert_eq!(accepted + refused, OBJECTS);
    assert!(accepted > OBJECTS / 2 && refused > 100, "{accepted} {refused}");
}
