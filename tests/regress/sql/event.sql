-- The event type: input, output, casts, order, parts, errors.
\set VERBOSITY sqlstate
SET search_path = public, tally;
CREATE TABLE public.e (id int, event tally.event);
INSERT INTO e VALUES
  (1, '{"tenant_id":"acme","account_id":"north","name":"run","occurred_at":"2026-03-02T10:15:00+01:00","event_id":"018F6B1E-7C00-7000-8000-000000000001"}'),
  (2, '{"properties":{"b":1e2,"a":[1,{"x":null}],"z":0.10},"session_id":"s","user_id":"ann","tenant_id":"acme","account_id":"north","name":"run","occurred_at":"2026-03-02 09:15:00.25Z","event_id":"018f6b1e7c007000800000000000000a"}'),
  (3, '{"tenant_id":"acme","account_id":"east","name":"run","occurred_at":"2026-03-02T09:15:00Z","event_id":"018f6b1e-7c00-7000-8000-000000000003","user_id":null}');
SELECT id, event FROM e ORDER BY id;
SELECT id, tally.tenant_id(event), tally.account_id(event), tally.name(event), tally.user_id(event),
       tally.session_id(event), tally.occurred_at(event), tally.event_id(event), tally.properties(event)
  FROM e ORDER BY id;

-- Text and binary forms round trip; json and jsonb casts both ways.
SELECT bool_and(event::text::tally.event::text = event::text) FROM e;
SELECT bool_and(event::jsonb::tally.event::text = event::text), bool_and(event::json::tally.event = event) FROM e;
SELECT event::jsonb -> 'properties' FROM e WHERE id = 2;
SELECT current_setting('data_directory') || '/event.bin' AS file \gset
COPY e TO :'file' (FORMAT binary);
CREATE TABLE public.f (LIKE e);
COPY f FROM :'file' (FORMAT binary);
SELECT count(*) FROM e JOIN f USING (id) WHERE e.event::text = f.event::text;

-- Order: tenant, account, time, event_id.
SELECT id FROM e ORDER BY event;
SELECT id FROM e ORDER BY event DESC;
SELECT a.id, b.id, a.event < b.event AS lt, a.event <= b.event AS le, a.event = b.event AS eq,
       a.event <> b.event AS ne, a.event >= b.event AS ge, a.event > b.event AS gt
  FROM e AS a, e AS b WHERE a.id <= b.id ORDER BY 1, 2;
CREATE INDEX ON e (event);
CREATE INDEX ON e USING hash (event);
SET enable_seqscan = off;
SELECT e.id FROM e WHERE event = (SELECT f.event FROM f WHERE f.id = 2);
SET enable_nestloop = off;
SET enable_mergejoin = off;
SELECT count(*) FROM e JOIN f USING (event);
RESET enable_seqscan;
RESET enable_nestloop;
RESET enable_mergejoin;
SELECT count(DISTINCT event) FROM (SELECT event FROM e UNION ALL SELECT event FROM f) AS both_tables;

-- Equal by key, whatever the rest.
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"2026-01-01T00:00:00Z","event_id":"00000000-0000-0000-0000-000000000001"}'::tally.event
     = '{"tenant_id":"t","account_id":"a","name":"y","occurred_at":"2026-01-01T00:00:00Z","event_id":"00000000-0000-0000-0000-000000000001","properties":{"p":1}}'::tally.event;

-- Errors, each with its SQLSTATE.
SELECT '5'::tally.event;
SELECT '{}'::tally.event;
SELECT '{"tenant_id":"t"'::tally.event;
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"2026-01-01","event_id":"00000000-0000-0000-0000-000000000001"}'::tally.event;
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"infinity","event_id":"00000000-0000-0000-0000-000000000001"}'::tally.event;
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"2026-01-01T00:00:00Z","event_id":"1"}'::tally.event;
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"2026-01-01T00:00:00Z","event_id":"00000000-0000-0000-0000-000000000001","extra":1}'::tally.event;
SELECT '{"tenant_id":"t","account_id":"a","name":"x","occurred_at":"2026-01-01T00:00:00Z","event_id":"00000000-0000-0000-0000-000000000001","properties":{"a":1,"a":2}}'::tally.event;

-- Another key becomes an event_id.
SELECT tally.event_id('invoice/2026/000123'), tally.event_id('invoice/2026/000123') = tally.event_id('invoice/2026/000124');
SELECT tally.event_id(NULL::text), tally.name(NULL);
