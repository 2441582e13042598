\set ON_ERROR_STOP off
\set HIDE_ERROR_CONTEXT errors
\o /dev/null

\c - demo_app
\echo
\echo == Reading without a scope ==
SELECT count(*) FROM tally.usage_day;
\set refused :ERROR
\ir refused.sql
SELECT count(*) FROM tally.events;
\set refused :ERROR
\ir refused.sql

\c - demo_tenant
\echo == A login bound to tenant acme asks for globex ==
SELECT tally.enter('globex');
\set refused :ERROR
\ir refused.sql
SET tally.scope = 'globex';
\set refused :ERROR
\ir refused.sql
\o
SELECT count(*) FILTER (WHERE tenant_id = 'acme') > 0 AS sees_own_rows,
       count(*) FILTER (WHERE tenant_id <> 'acme') AS rows_of_others FROM tally.events \gset
\echo sees its own rows: :sees_own_rows, rows of other tenants: :rows_of_others
\if :rows_of_others
  \warn other tenants show
  \set ON_ERROR_STOP on
  SELECT 'the demo fails'::int;
\endif
