-- The aggregates of funnels and retention: what they answer, that plans don't change it, and what they refuse.
\set VERBOSITY sqlstate
SET timezone = 'UTC';
CREATE TABLE visit (u text, at timestamptz, page text);
INSERT INTO visit VALUES
  ('all', '2026-01-01 10:00', 'home'), ('all', '2026-01-01 10:05', 'cart'), ('all', '2026-01-01 11:00', 'paid'),
  ('late', '2026-01-01 10:00', 'home'), ('late', '2026-01-01 10:05', 'cart'), ('late', '2026-01-01 11:00:00.000001', 'paid'),
  ('again', '2026-01-01 09:00', 'home'), ('again', '2026-01-01 10:00', 'home'), ('again', '2026-01-01 10:01', 'cart'),
  ('again', '2026-01-01 10:59', 'paid'), ('backwards', '2026-01-01 10:00', 'paid'), ('backwards', '2026-01-01 10:01', 'cart'),
  ('backwards', '2026-01-01 10:02', 'home'), ('tie', '2026-01-01 10:00', 'paid'), ('tie', '2026-01-01 10:00', 'cart'),
  ('tie', '2026-01-01 10:00', 'home'), ('detour', '2026-01-01 10:00', 'home'), ('detour', '2026-01-01 10:01', 'help'),
  ('detour', '2026-01-01 10:02', 'cart'), ('nothing', '2026-01-01 10:00', 'help'), ('unknown', NULL, 'home');

SELECT u, tally.window_funnel('1 hour', at, page = 'home', page = 'cart', page = 'paid') AS plain,
       tally.window_funnel('1 hour', 'strict_increase', at, page = 'home', page = 'cart', page = 'paid') AS increase,
       tally.window_funnel('1 hour', 'strict_order', at, page = 'home', page = 'cart', page = 'paid') AS strict,
       tally.window_funnel('1 hour', 'any_order', at, page = 'home', page = 'cart', page = 'paid') AS any_order,
       tally.funnel_times('1 hour', '', at, 3, CASE page WHEN 'home' THEN 1 WHEN 'cart' THEN 2 WHEN 'paid' THEN 4 ELSE 0 END) AS times
  FROM visit GROUP BY u ORDER BY u;
SELECT tally.window_funnel('1 hour', at, page = 'home') FROM visit WHERE false;
-- Bit 31: a cart ends every attempt that began before it.
SELECT u, tally.funnel_times('1 hour', '', at, 2, CASE page WHEN 'home' THEN 1 WHEN 'paid' THEN 2 WHEN 'cart' THEN -2147483648 ELSE 0 END)
  FROM visit WHERE u IN ('all', 'tie', 'backwards') GROUP BY u ORDER BY u;

SELECT u, tally.retention_mask(page = 'home', page = 'cart', page = 'help') FROM visit GROUP BY u ORDER BY u;
SELECT tally.retention_mask(page = NULL, true) FROM visit;
SELECT tally.retention_mask(true) FROM visit WHERE false;

-- The same by parallel workers and over partitions, with groups that a worker or a partition has nothing of.
CREATE TABLE walk (u int, at timestamptz, page int) PARTITION BY RANGE (page);
CREATE TABLE walk_0 PARTITION OF walk FOR VALUES FROM (0) TO (1);
CREATE TABLE walk_1 PARTITION OF walk FOR VALUES FROM (1) TO (3);
CREATE TABLE walk_2 PARTITION OF walk FOR VALUES FROM (3) TO (5);
INSERT INTO walk SELECT hashint4(g) & 1023, '2026-01-01'::timestamptz + (hashint4(g + 1) & 65535) * interval '1 second',
  (hashint4(g + 2) & 3) FROM generate_series(1, 20000) AS g;
ANALYZE walk;
CREATE TABLE serial AS
  SELECT u, tally.window_funnel('1 hour', at, page = 0, page = 1, page = 3, page = 0) AS depth,
         tally.window_funnel('1 hour', at, page = 0, page = 1) FILTER (WHERE u % 2 = 0) AS filtered,
         tally.funnel_times('2 hours', 'strict_order', at, 3, 1 << page) AS times,
         tally.retention_mask(page = 0, page = 1, page = 2) AS mask FROM walk GROUP BY u;
SELECT depth, count(*) FROM serial GROUP BY depth ORDER BY depth;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET enable_partitionwise_aggregate = on; SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT u, tally.window_funnel('1 hour', at, page = 0, page = 1), tally.retention_mask(page = 0) FROM walk GROUP BY u;
CREATE TABLE parallel AS
  SELECT u, tally.window_funnel('1 hour', at, page = 0, page = 1, page = 3, page = 0) AS depth,
         tally.window_funnel('1 hour', at, page = 0, page = 1) FILTER (WHERE u % 2 = 0) AS filtered,
         tally.funnel_times('2 hours', 'strict_order', at, 3, 1 << page) AS times,
         tally.retention_mask(page = 0, page = 1, page = 2) AS mask FROM walk GROUP BY u;
SELECT count(*) FROM (TABLE serial EXCEPT TABLE parallel) AS missing;
SELECT count(*) FROM (TABLE parallel EXCEPT TABLE serial) AS extra;
-- A hash aggregate that runs out of memory spills: the states are charged.
RESET max_parallel_workers_per_gather; SET max_parallel_workers_per_gather = 0; SET work_mem = '64kB'; SET enable_sort = off;
CREATE TABLE spilled AS
  SELECT u, tally.window_funnel('1 hour', at, page = 0, page = 1, page = 3, page = 0) AS depth FROM walk GROUP BY u;
SELECT count(*) FROM (SELECT u, depth FROM serial EXCEPT TABLE spilled) AS missing;

\set VERBOSITY default
SELECT tally.window_funnel('0', at, true) FROM visit;
SELECT tally.window_funnel('1 month', at, true) FROM visit;
SELECT tally.window_funnel(NULL, at, true) FROM visit;
SELECT tally.window_funnel('1 day', 'sideways', at, true) FROM visit;
SELECT tally.window_funnel('1 day', at, VARIADIC '{}'::boolean[]) FROM visit;
SELECT tally.window_funnel('1 day', at, VARIADIC NULL::boolean[]) FROM visit;
SELECT tally.window_funnel('1 day', at, VARIADIC array_fill(true, ARRAY[32])) FROM visit;
SELECT tally.window_funnel(interval '1 day' * length(u), at, true) FROM visit;
SELECT tally.retention_mask(VARIADIC array_fill(true, ARRAY[length(u)])) FROM visit;
SELECT tally.funnel_times('1 day', '', at, 0, 1) FROM visit;
