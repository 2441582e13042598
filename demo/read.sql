-- One query text, whose answer depends on the scope alone.
\set usage 'SELECT day, count(DISTINCT tenant_id) AS tenants, count(DISTINCT account_id) AS accounts, sum(events) AS events FROM tally.usage_day WHERE day > current_date - 4 GROUP BY day ORDER BY day;'

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
SELECT tally.enter('acme') \g /dev/null
:usage
SELECT account_id AS account FROM tally.usage_day GROUP BY account_id ORDER BY sum(events) DESC, account_id LIMIT 1 \gset
COMMIT;
\echo == One account of it ==
BEGIN;
SELECT tally.enter('acme', :'account') \g /dev/null
:usage
COMMIT;

\c - demo_tenant
\echo == From here on as the login of one tenant, which is in scope from the start: whose calls have become slow, and when? ==
SELECT account_id, day, events, round(value_p50::numeric) AS p50_ms, round(value_p95::numeric) AS p95_ms
  FROM tally.usage_day
 WHERE name = 'api.call' AND day > current_date - 7
 ORDER BY value_p95 DESC LIMIT 3;

\echo == How far do people get who signed up in the last four weeks? ==
SELECT step, name, units, round(100 * from_first) AS per_cent
  FROM tally.funnel(ARRAY['signed_up', 'project.created', 'report.run', 'report.shared'], '7 days', now() - interval '28 days', now());

\echo == Who comes? Growing, and quiet on weekends ==
SELECT day, to_char(day, 'Dy') AS weekday, dau, wau, mau FROM tally.active_users(daterange(current_date - 7, current_date));

\echo == What do accounts pay, and what has been lost? ==
SELECT period AS month, sum(amount) AS amount, sum(new) AS new, sum(expansion) AS expansion, sum(contraction) AS contraction, sum(churned) AS churned
  FROM tally.revenue(date_trunc('month', now() - interval '90 days'), now(), event => 'paid') WHERE complete
 GROUP BY period ORDER BY period;

\echo == Sums of distinct users are wrong; the sketches that lie beside them merge ==
SELECT sum(users) AS summed, (SELECT tally.distinct_count(tally.rollup(users)) FROM tally.usage_day_state) AS merged,
       (SELECT count(*) FROM tally.users) AS exact
  FROM tally.usage_day;
