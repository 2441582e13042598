//! Hostile sketch bytes in the server, as an ordinary role: every truncation and every single-bit flip of valid
//! sketches, and garbage, through the bytea cast, the text form and the aggregates. A value or an error, the same
//! backend afterwards. `TALLY_HOSTILE` sets the number of garbage inputs for each type (default 20,000).

use tally_server_tests::Database;

/// Feeds one input to a type and, where it is taken, to everything that reads a stored sketch.
const FEED: &str = "
CREATE FUNCTION pg_temp.feed(kind text, input bytea) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE h tally.hll; t tally.tdigest; again bytea;
BEGIN
  IF kind = 'hll' THEN
    h := input::tally.hll;
    PERFORM tally.distinct_count(tally.merge(h, h)), tally.stderror(h), tally.distinct_count_upper(h, 2);
    PERFORM tally.distinct_count(tally.rollup(s)) FROM (VALUES (h), (h)) AS v(s);
    ASSERT h::text::tally.hll::text = h::text, 'text form';
    again := h::bytea;
    ASSERT again::tally.hll::text = h::text, 'bytea form';
  ELSE
    t := input::tally.tdigest;
    PERFORM tally.approx_percentile(0.5, tally.merge(t, t)), tally.approx_percentile_rank(1, t), tally.mean(t),
            tally.min_val(t), tally.max_val(t), tally.trimmed_mean(t, 0.1, 0.9);
    PERFORM tally.num_vals(tally.rollup(s)) FROM (VALUES (t), (t)) AS v(s);
    ASSERT t::bytea = input, 'what is taken is canonical';
  END IF;
  RETURN true;
EXCEPTION
  WHEN data_exception THEN RETURN false;
  WHEN OTHERS THEN
    IF SQLSTATE LIKE '22%' THEN RETURN false; END IF;
    RAISE;
END $$";

const SEEDS: &str = "
CREATE TEMP TABLE seeds AS
SELECT 'hll' AS kind, tally.hll(g)::bytea AS image FROM generate_series(1, 3) AS g
UNION ALL SELECT 'hll', tally_internal.hll_send(tally.hll(g)) FROM generate_series(1, 3) AS g
UNION ALL SELECT 'hll', tally_internal.hll_send(tally.hll('u' || g, '\\x00112233445566778899aabbccddeeff', 7)) FROM generate_series(1, 20) AS g
UNION ALL SELECT 'hll', tally.hll(g)::bytea FROM generate_series(1, 100) AS g
UNION ALL SELECT 'hll', tally_internal.hll_send(tally.hll(g)) FROM generate_series(1, 3000) AS g
UNION ALL SELECT 'hll', tally.hll(g)::bytea FROM generate_series(1, 3000) AS g
UNION ALL SELECT 'tdigest', tally.tdigest(g)::bytea FROM generate_series(1, 1) AS g
UNION ALL SELECT 'tdigest', tally.tdigest(g % 5)::bytea FROM generate_series(1, 100) AS g
UNION ALL SELECT 'tdigest', tally.tdigest(g * 1.5, 20)::bytea FROM generate_series(1, 5000) AS g
UNION ALL SELECT 'tdigest', tally.tdigest(sqrt(g))::bytea FROM generate_series(1, 5000) AS g";

#[test]
fn hostile_bytes_are_a_value_or_an_error() {
    let garbage: i64 =
        std::env::var("TALLY_HOSTILE").ok().map_or(20_000, |text| text.parse().expect("a number"));
    let mut database = Database::new("hostile");
    let attacker = database.role("attacker", &[]);
    database
        .superuser()
        // Bytes of keyed sketches are taken from such a role; from others none is, which layout.rs holds.
        .batch_execute(&format!(
            "GRANT TEMPORARY ON DATABASE {} TO {attacker}; ALTER ROLE {attacker} BYPASSRLS;
             -- Clients call the types' own functions by the binary protocol; here they are called by name.
             GRANT USAGE ON SCHEMA tally_internal TO {attacker}",
            database.name()
        ))
        .unwrap();
    let mut client = database.connect(&attacker);
    let pid = |client: &mut postgres::Client| -> i32 {
        client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
    };
    let before = pid(&mut client);
    client.batch_execute(FEED).unwrap();
    client.batch_execute(SEEDS).unwrap();
    let counts = |client: &mut postgres::Client, query: &str| -> (i64, i64) {
        let row = client.query_one(query, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    let (taken, whole) =
        counts(&mut client, "SELECT count(*) FILTER (WHERE pg_temp.feed(kind, image)), count(*) FROM seeds");
    assert_eq!(taken, whole, "the seeds are valid");

    let (taken, truncated) = counts(
        &mut client,
        "SELECT count(*) FILTER (WHERE pg_temp.feed(kind, substr(image, 1, n))), count(*)
           FROM seeds, generate_series(0, length(image) - 1) AS n",
    );
    println!("{truncated} truncations, {taken} of them sketches");
    let (taken, flipped) = counts(
        &mut client,
        "SELECT count(*) FILTER (WHERE pg_temp.feed(kind, set_bit(image, n, 1 - get_bit(image, n)))), count(*)
           FROM seeds, generate_series(0, 8 * length(image) - 1) AS n",
    );
    println!("{flipped} bit flips, {taken} of them sketches");
    assert!(truncated > 3_500 && flipped == 8 * truncated);
    // Garbage behind the first bytes of a valid sketch, so that it gets past the header.
    let (taken, fed) = counts(
        &mut client,
        &format!(
            "SELECT count(*) FILTER (WHERE pg_temp.feed(kind, substr(image, 1, keep) || rest)), count(*)
               FROM (SELECT kind, image, (random() * 12)::int AS keep,
                            (SELECT string_agg(decode(md5(random()::text || n || i), 'hex'), '')
                               FROM generate_series(1, 1 + n % 5) AS i) AS rest
                       FROM seeds, generate_series(1, {garbage} / 5) AS n) AS inputs"
        ),
    );
    println!("{fed} garbage inputs, {taken} of them sketches");
    assert_eq!(pid(&mut client), before, "the backend is the same");
}
