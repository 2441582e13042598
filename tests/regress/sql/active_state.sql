-- Sets of days and session windows: what goes in, what comes out, and what is refused.
SET timezone = 'UTC';
SELECT tally.day_list(tally.days(t)), tally.day_count(tally.days(t)), tally.days(t)
  FROM unnest('{2024-02-29 23:59:59.999999Z, 2024-03-01Z, 1999-12-31 12:00Z, 2024-03-01 05:00Z, NULL}'::timestamptz[]) AS t;
SELECT tally.days(t) IS NULL AS no_days, tally.session_windows(t) IS NULL AS no_windows FROM unnest('{NULL}'::timestamptz[]) AS t;
-- A day is a day of UTC, whatever the session's time zone.
SET timezone = 'Pacific/Apia';
SELECT tally.day_list(tally.days('2024-01-01 23:59:59.999999Z')), tally.day_list(tally.days('2024-01-02 00:00Z'));
SET timezone = 'UTC';
-- Merging is union: in any order, as often as one likes, in parts.
WITH part AS (SELECT n % 7 AS part, tally.days(timestamptz '2024-01-01Z' + n * interval '31 hours') AS days
                FROM generate_series(0, 300) AS n GROUP BY 1)
SELECT tally.union_days(days) = (SELECT tally.days(timestamptz '2024-01-01Z' + n * interval '31 hours') FROM generate_series(0, 300) AS n),
       tally.union_days(days ORDER BY part DESC) = tally.union_days(days),
       tally.merge_days((array_agg(days))[1], (array_agg(days))[2]) = tally.merge_days((array_agg(days))[2], (array_agg(days))[1]),
       tally.day_count(tally.union_days(days)), length(tally.union_days(days)) FROM part;
-- The gap is 30 minutes and belongs to the session; a late event joins two.
SELECT tally.session_window_starts(w), tally.session_window_ends(w), tally.session_window_events(w), tally.session_window_count(w)
  FROM (SELECT tally.session_windows(t) AS w
          FROM unnest('{2024-01-01 10:00Z, 2024-01-01 10:30Z, 2024-01-01 11:00:00.000001Z, 2024-01-01 10:30Z}'::timestamptz[]) AS t) AS s;
SELECT tally.session_window_events(tally.merge_session_windows(tally.session_windows(t), (SELECT tally.session_windows('2024-01-01 10:20Z'))))
  FROM unnest('{2024-01-01 10:00Z, 2024-01-01 10:50Z}'::timestamptz[]) AS t;
-- Partial aggregation.
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
CREATE TABLE moment AS SELECT timestamptz '2024-01-01Z' + n * interval '17 minutes' AS t, n % 3 AS g FROM generate_series(1, 3000) AS n;
SELECT g, tally.day_count(tally.days(t)), tally.session_window_count(tally.session_windows(t) FILTER (WHERE g > 0)) FROM moment GROUP BY g ORDER BY g;
-- Units' parts must come in order; those beside them are packed in order.
SELECT tally_internal.active_counts(t, u, tally_days, '2024-01-01', '2024-01-03', NULL)
  FROM (SELECT 't' AS t, u, (SELECT tally.days('2024-01-01Z')) AS tally_days FROM unnest('{a,a,b}'::text[]) AS u) AS p;
SELECT tally_internal.active_counts('t', u, d, '2024-01-01', '2024-01-03', (SELECT tally_internal.unit_parts('t', v, (SELECT tally.days('2024-01-02Z')), 3) FROM unnest('{z,b,a}'::text[]) AS v))
  FROM (SELECT u, (SELECT tally.days('2024-01-01Z')) AS d FROM unnest('{b,c}'::text[]) AS u) AS p;
SELECT tally_internal.funnel_counts('1 hour', '', 't', u, t, 2, m)
  FROM (VALUES ('u', timestamptz '2024-01-01 10:00Z', 1), ('u', '2024-01-01 10:40Z', 2), ('v', '2024-01-01 10:00Z', 1), ('v', '2024-01-01 11:00:00.000001Z', 2)) AS e (u, t, m);
\set VERBOSITY sqlstate
SELECT tally_internal.active_counts('t', u, d, '2024-01-01', '2024-01-03', NULL)
  FROM (SELECT u, (SELECT tally.days('2024-01-01Z')) AS d FROM unnest('{b,a}'::text[]) AS u) AS p;
SELECT tally_internal.active_counts('t', 'a', NULL, '2024-01-01', '2024-01-03', '\x0161');
SELECT tally_internal.active_counts('t', 'a', NULL, '2024-01-03', '2024-01-01', NULL);
SELECT tally_internal.retention_triangle('t', 'a', NULL, 3, 'hour', '2024-01-01', '2024-01-03', 'rolling', '{}', NULL);
SELECT tally_internal.retention_triangle('t', 'a', NULL, 3, 'day', '2024-01-01', '2024-01-03', 'bracketed', '{3,1}', NULL);
SELECT tally_internal.retention_triangle('t', 'a', NULL, 3, 'day', '1024-01-01', '2024-01-03', 'rolling', '{}', NULL);
SELECT tally.day_list(b) FROM unnest('{"","\\x12","\\x1100","\\x1000ff"}'::bytea[]) AS b;
SELECT tally.day_count('\x1100');
SELECT tally.union_days('\x1000ff');
SELECT tally.merge_days('\x1000', '\x');
SELECT tally.day_list('\x10ffffffff0f');
SELECT tally.session_window_starts('\x2000');
SELECT tally.union_session_windows('\x21000001');
SELECT tally_internal.unit_parts('t', 'u', '\x00', 1);
SELECT tally.days('infinity');
SELECT tally_internal.days_final(NULL), tally_internal.days_trans(NULL, '2024-01-01Z');
