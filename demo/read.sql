-- One query text, whose answer depends on the scope alone.
\set usage 'SELECT day, count(DISTINCT tenant_id) AS tenants, count(DISTINCT account_id) AS accounts, sum(events) AS events FROM tally.usage_day WHERE bucket < ''2026-01-08'' GROUP BY day ORDER BY day;'

\c - demo_operator
\echo
\echo == The same query text in three scopes: first the operator, over all tenants ==
BEGIN;
SELECT tally.enter_global() \g /dev/null
:usage
COMMIT;

\c - demo_app
\echo == One tenant ==
BEGIN;
SELECT tally.enter('t01') \g /dev/null
:usage
SELECT account_id AS account FROM tally.usage_day GROUP BY account_id ORDER BY sum(events) DESC, account_id LIMIT 1 \gset
COMMIT;
\echo == One account of it ==
BEGIN;
SELECT tally.enter('t01', :'account') \g /dev/null
:usage
COMMIT;

\echo == Usage by account and day, with distinct users and percentiles of the property value ==
BEGIN;
SELECT tally.enter('t01') \g /dev/null
SELECT tenant_id, account_id, day, name, events, users,
       round(value_p50::numeric, 1) AS p50, round(value_p95::numeric, 1) AS p95, round(value_p99::numeric, 1) AS p99
  FROM tally.usage_day
 WHERE name = 'api.call' AND bucket < '2026-01-07'
 ORDER BY day, events DESC, account_id LIMIT 8;
COMMIT;
