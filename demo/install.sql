\echo
\echo == Install: one extension, and three logins ==
CREATE EXTENSION pg_tally;
-- The application writes for every tenant; a BI login is bound to one; the operator reads across tenants.
CREATE ROLE demo_app LOGIN IN ROLE tally_writer, tally_reader;
CREATE ROLE demo_tenant LOGIN IN ROLE tally_reader;
CREATE ROLE demo_operator LOGIN IN ROLE tally_analyst;
SELECT tally.trust_role('demo_app'), tally.bind_role('demo_tenant', 'acme') \g /dev/null
SELECT extname, extversion FROM pg_extension WHERE extname = 'pg_tally';

-- What the application is going to send: one batch a row.
CREATE TABLE demo_batch (position int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch text NOT NULL);
CREATE TABLE demo_outcome (attempt text, accepted int8, duplicates int8, conflicts int8, rejected int8);
GRANT SELECT ON demo_batch TO demo_app;
GRANT SELECT, INSERT ON demo_outcome TO demo_app;
-- JSON contains neither of these control characters, so every line arrives as it is.
\set feed '\\copy demo_batch (batch) FROM ' :'batches' ' WITH (FORMAT csv, DELIMITER E\'\\x01\', QUOTE E\'\\x02\')'
:feed
