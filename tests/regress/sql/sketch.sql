-- The sketches through SQL: aggregates in every kind of plan, questions, casts, refusals.
-- No estimate is printed: it is compared with the exact answer inside its bound, or with another plan's bytes.
\set VERBOSITY sqlstate
CREATE TABLE v AS
  SELECT g, g % 7 AS grp, 'u' || g % 5000 AS u, (g * 7919 % 100003)::float8 AS x, g % 3 = 0 AS third
    FROM generate_series(1, 60000) AS g;
ANALYZE v;

-- Exact while small, whatever the integer's width; numbers by value, nulls left out, the empty set is null.
SELECT tally.distinct_count(tally.hll(x)) FROM (VALUES (1::int2), (1), (2), (NULL)) AS t(x);
SELECT tally.distinct_count(tally.merge(tally.merge(tally.hll(1::int2), tally.hll(1::int4)), tally.hll(1::int8)));
SELECT tally.distinct_count(tally.hll(x)) FROM (VALUES (1.0), (1.00), (1e0), (2)) AS t(x);
SELECT tally.distinct_count(tally.hll(x)) FROM (VALUES ('\x01'::bytea), ('\x02'), ('\x01')) AS t(x);
SELECT tally.distinct_count(tally.hll(x)) FROM (VALUES ('2026-01-01'::timestamptz), ('2026-01-01 00:00+00')) AS t(x);
SELECT tally.distinct_count(tally.hll(gen_random_uuid())) FROM generate_series(1, 100);
SELECT tally.hll(u) IS NULL, tally.tdigest(x) IS NULL FROM v WHERE g < 0;
SELECT tally.stderror(tally.hll(u)) = 0, tally.distinct_count(tally.hll(u)) = count(DISTINCT u) FROM v WHERE g <= 192;

-- Large: within four standard errors.
SELECT abs(tally.distinct_count(s) - 5000) < 4 * 5000 * tally.stderror(s), tally.stderror(s) < 0.0235,
       tally.distinct_count_lower(s, 3) < tally.distinct_count(s), tally.distinct_count_upper(s, 3) > tally.distinct_count(s)
  FROM (SELECT tally.hll(u) AS s FROM v) AS t;

-- Percentiles within half a per cent of rank; count, ends exact.
SELECT tally.num_vals(s), tally.min_val(s) = exact.low, tally.max_val(s) = exact.high, abs(tally.mean(s) / exact.mean - 1) < 1e-9,
       abs(tally.approx_percentile_rank(tally.approx_percentile(0.95, s), s) - 0.95) < 0.005,
       (SELECT bool_and(abs((SELECT count(*) FROM v WHERE x <= p.value) / 60000.0 - p.fraction) < 0.01)
          FROM unnest(ARRAY[0.01, 0.5, 0.95, 0.99, 0.999], tally.approx_percentile(ARRAY[0.01, 0.5, 0.95, 0.99, 0.999], s)) AS p(fraction, value)),
       abs(tally.trimmed_mean(s, 0.1, 0.9) / 50001 - 1) < 0.02
  FROM (SELECT tally.tdigest(x) AS s FROM v) AS t,
       (SELECT min(x) AS low, max(x) AS high, avg(x) AS mean FROM v) AS exact;

-- Every plan gives the same sketch as the serial one: by parallel workers, by partition, rolled up, filtered, in sets.
CREATE TABLE serial AS SELECT grp, tally.hll(u) AS h, tally.hll(u) FILTER (WHERE third) AS f, tally.num_vals(tally.tdigest(x)) AS n FROM v GROUP BY grp;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT grp, tally.hll(u), tally.tdigest(x) FROM v GROUP BY grp;
SELECT bool_and(s.h::text = p.h::text), bool_and(s.f::text = p.f::text), bool_and(s.n = p.n), count(*)
  FROM serial AS s JOIN (SELECT grp, tally.hll(u) AS h, tally.hll(u) FILTER (WHERE third) AS f,
                                tally.num_vals(tally.tdigest(x)) AS n FROM v GROUP BY grp) AS p USING (grp);
-- One filter that nothing passes, in a parallel plan.
SELECT tally.hll(u) FILTER (WHERE g < 0) IS NULL, tally.tdigest(x) FILTER (WHERE g < 0) IS NULL FROM v;
CREATE TABLE w (LIKE v) PARTITION BY LIST (grp);
CREATE TABLE w0 PARTITION OF w FOR VALUES IN (0, 1, 2);
CREATE TABLE w1 PARTITION OF w FOR VALUES IN (3, 4, 5, 6);
INSERT INTO w SELECT * FROM v;
SET enable_partitionwise_aggregate = on;
SET max_parallel_workers_per_gather = 0;
SELECT tally.hll(u)::text = (SELECT tally.rollup(h)::text FROM serial) FROM w;
SELECT bool_and(s.h::text = p.h::text), count(*) FROM serial AS s JOIN (SELECT grp, tally.hll(u) AS h FROM w GROUP BY grp) AS p USING (grp);
RESET enable_partitionwise_aggregate;
SELECT grp, tally.distinct_count(tally.hll(g)) FROM v WHERE g <= 100 GROUP BY GROUPING SETS ((grp), ()) ORDER BY 1;
SELECT g, tally.distinct_count(tally.hll(u) OVER (ORDER BY g ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)),
       tally.num_vals(tally.tdigest(x) OVER (ORDER BY g ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)) FROM v WHERE g <= 4 ORDER BY g;

-- Travel: text, bytea, binary.
SELECT bool_and(h::text::tally.hll::text = h::text), bool_and(h::bytea::tally.hll::text = h::text) FROM serial;
SELECT tally.tdigest(x)::bytea::tally.tdigest::text = tally.tdigest(x)::text FROM v WHERE g <= 1000;
SELECT tally.hll('a'::text)::bytea;

-- Unlike sketches refuse to merge, each for a reason of its own.
\set key '''\\x00112233445566778899aabbccddeeff'''
SELECT tally.distinct_count(tally.merge(tally.hll('a'::text, :key::bytea, 1), tally.hll('b'::text, :key::bytea, 1)));
SELECT tally.merge(tally.hll('a'::text), tally.hll('a'::text, :key::bytea, 1));
SELECT tally.merge(tally.hll('a'::text, :key::bytea, 1), tally.hll('a'::text, :key::bytea, 2));
SELECT tally.merge(tally.tdigest(1), tally.tdigest(1, 200));
SELECT tally.hll('a'::text, '\x00', 1);
SELECT tally.tdigest(1, 5);
SELECT tally.tdigest('NaN'::float8);
SELECT tally.tdigest('infinity'::float8);
SELECT tally.approx_percentile(1.5, tally.tdigest(1));
SELECT tally.distinct_count_lower(tally.hll(1), 4);
SELECT ''::tally.hll;
SELECT '\x'::tally.hll;
SELECT '\xb1'::tally.hll;
SELECT '\xzz'::tally.hll;
SELECT '\x'::bytea::tally.tdigest;
SELECT decode(repeat('ff', 70000), 'hex')::tally.hll;
SELECT tally_internal.hll_deserialize('\x00', NULL);
SELECT tally_internal.hll_final(NULL);

-- Nulls in, null out.
SELECT tally.distinct_count(NULL), tally.stderror(NULL), tally.merge(NULL::tally.hll, NULL) IS NULL,
       tally.distinct_count(tally.merge(NULL, tally.hll(1))), tally.approx_percentile(0.5, NULL) IS NULL,
       tally.approx_percentile(ARRAY[0.5, NULL], tally.tdigest(3)), tally.approx_percentile('{}'::float8[], tally.tdigest(3));
