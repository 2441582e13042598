//! Distinct-count sketches travel between this server and Apache DataSketches in Python, both ways, and their unions are
//! equal on both sides. The Python program is that of the core's fixture.

use std::path::{Path, PathBuf};
use std::process::Command;
use tally_server_tests::{Database, skip};

/// Sizes on both sides of every change of form.
const SIZES: [i64; 9] = [1, 7, 8, 9, 192, 193, 1_000, 40_000, 200_000];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn python() -> Option<String> {
    let output = Command::new(repository().join("tests/python.sh")).output().expect("running python.sh");
    if !output.status.success() {
        skip(
            "the PyPI package datasketches can't be installed, so sketches were not sent to and from Python",
        );
        return None;
    }
    Some(String::from_utf8(output.stdout).expect("a path").trim().to_owned())
}

fn run(python: &str, arguments: &[&str]) -> String {
    let script = repository().join("crates/core/tests/data/travel.py");
    let output = Command::new(python).arg(script).args(arguments).output().expect("running Python");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The values that the Python program adds: integers from -50, or texts with a letter beyond ASCII.
fn value(kind: &str) -> &'static str {
    if kind == "int" { "g - 50" } else { "'user-' || g || '-é'" }
}

#[test]
fn sketches_travel_to_python_and_back() {
    let Some(python) = python() else { return };
    let mut database = Database::new("travel");
    let role = database.role("reader", &[]);
    let mut client = database.connect(&role);
    let directory = std::env::temp_dir().join(format!("tally_travel_{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("images").to_str().unwrap().to_owned();

    // To Python: built here in one go, and as a union of two halves that overlap.
    let mut lines = String::new();
    for kind in ["int", "text"] {
        for size in SIZES {
            let build = format!(
                "SELECT encode(tally.hll({0})::bytea, 'hex'), encode((SELECT tally.rollup(s) FROM (
                   SELECT tally.hll({0}) FILTER (WHERE g <= $1 / 2) AS s FROM generate_series(0, $1::int8 - 1) AS g
                   UNION ALL SELECT tally.hll({0}) FILTER (WHERE g >= $1 / 3) FROM generate_series(0, $1::int8 - 1) AS g
                 ) AS halves)::bytea, 'hex') FROM generate_series(0, $1::int8 - 1) AS g",
                value(kind)
            );
            let row = client.query_one(&build, &[&size]).unwrap();
            for image in [row.get::<_, &str>(0), row.get(1)] {
                lines.push_str(&format!("{kind} 0 {size} {image}\n"));
            }
        }
    }
    std::fs::write(&file, lines).unwrap();
    let said = run(&python, &[&file]);
    assert!(said.starts_with("36 images"), "{said}");

    // From Python: every form that it writes is read as the sketch that is built here, alone and in a union.
    run(&python, &["--write", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut seen = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (kind, end, image) = (words[0], words[2].parse::<i64>().unwrap(), words[5]);
        let same = format!(
            "WITH theirs AS (SELECT decode($1, 'hex')::tally.hll AS s),
                  ours AS (SELECT tally.hll({0}) AS s FROM generate_series(0, $2::int8 - 1) AS g),
                  more AS (SELECT tally.hll({0}) AS s FROM generate_series($2::int8 / 2, $2::int8 + 999) AS g),
                  whole AS (SELECT tally.hll({0}) AS s FROM generate_series(0, $2::int8 + 999) AS g)
             SELECT coalesce(theirs.s::text = ours.s::text, tally.distinct_count(theirs.s) = 0),
                    tally.merge(theirs.s, more.s)::text = whole.s::text FROM theirs, ours, more, whole",
            value(kind)
        );
        let row = client.query_one(&same, &[&image, &end]).unwrap();
        assert!(row.get::<_, bool>(0), "read: {}", &line[..line.len().min(60)]);
        assert!(row.get::<_, bool>(1), "union: {}", &line[..line.len().min(60)]);
        seen += 1;
    }
    assert_eq!(seen, 36);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A million groups stay within work_mem by spilling, and the answers are those of a plan that needs no memory.
#[test]
fn a_million_small_groups_spill() {
    let mut database = Database::new("spill");
    let role = database.role("reader", &[]);
    let mut client = database.connect(&role);
    client
        .batch_execute(
            "SET work_mem = '4MB'; SET max_parallel_workers_per_gather = 0; SET jit = off; SET enable_sort = off;
             CREATE TEMP TABLE t AS SELECT g AS k, 'u' || g AS u, g::float8 AS x FROM generate_series(1, 1000000) AS g;
             ANALYZE t;",
        )
        .unwrap();
    for aggregate in ["tally.hll(u)", "tally.hll(k)", "tally.tdigest(x)"] {
        let plan: serde_json::Value = client
            .query_one(&format!("EXPLAIN (ANALYZE, FORMAT JSON) SELECT {aggregate} FROM t GROUP BY k"), &[])
            .unwrap()
            .get(0);
        let node = &plan[0]["Plan"];
        assert_eq!(node["Strategy"], "Hashed", "{plan}");
        assert!(node["HashAgg Batches"].as_i64().unwrap() > 1, "{aggregate}: {node}");
        assert!(node["Disk Usage"].as_i64().unwrap() > 0, "{aggregate}: {node}");
        // hash_mem is twice work_mem on 15.
        let peak = node["Peak Memory Usage"].as_i64().unwrap();
        assert!(peak <= 2 * 4096 * 5 / 4, "{aggregate}: {peak} kB");
    }
    let wrong: i64 = client
        .query_one(
            "SELECT count(*) FROM (SELECT tally.distinct_count(tally.hll(u)) AS d, tally.num_vals(tally.tdigest(x)) AS n
               FROM t GROUP BY k) AS g WHERE d <> 1 OR n <> 1",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(wrong, 0);
}
