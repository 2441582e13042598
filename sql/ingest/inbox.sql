-- The bulk door: COPY tally.inbox FROM STDIN, and INSERT. Rows go through the pipeline a batch at a time (src/ingest/doors/inbox.rs).

-- Every column is text: a value that isn't what it should be is then rejected like any bad event, and doesn't fail the COPY.
CREATE VIEW tally.inbox WITH (security_invoker = true) AS
  SELECT NULL::text AS tenant_id, NULL::text AS account_id, NULL::text AS name, NULL::text AS occurred_at,
         NULL::text AS event_id, NULL::text AS user_id, NULL::text AS session_id, NULL::text AS properties
   WHERE false;
COMMENT ON VIEW tally.inbox IS
  'the bulk door: events inserted here, by COPY (text, csv, binary) or INSERT, are ingested in batches of 10,000; always empty';
COMMENT ON COLUMN tally.inbox.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.inbox.account_id IS 'the account inside the tenant';
COMMENT ON COLUMN tally.inbox.name IS 'the name of the event';
COMMENT ON COLUMN tally.inbox.occurred_at IS 'when it occurred: RFC 3339 with an offset';
COMMENT ON COLUMN tally.inbox.event_id IS 'its idempotency key, a uuid';
COMMENT ON COLUMN tally.inbox.user_id IS 'who acted; may be null';
COMMENT ON COLUMN tally.inbox.session_id IS 'in which session; may be null';
COMMENT ON COLUMN tally.inbox.properties IS 'everything else, a JSON object; may be null';
ALTER VIEW tally.inbox OWNER TO tally_owner;

CREATE FUNCTION tally_internal.inbox_begin() RETURNS trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_inbox_begin';
COMMENT ON FUNCTION tally_internal.inbox_begin() IS
  'trigger of tally.inbox: checks the scope before a statement''s first row';
CREATE FUNCTION tally_internal.inbox_row() RETURNS trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_inbox_row';
COMMENT ON FUNCTION tally_internal.inbox_row() IS
  'trigger of tally.inbox: keeps a row until its batch is full, then ingests the batch';
CREATE FUNCTION tally_internal.inbox_end() RETURNS trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_inbox_end';
COMMENT ON FUNCTION tally_internal.inbox_end() IS
  'trigger of tally.inbox: ingests what is left after a statement''s last row';
REVOKE ALL ON FUNCTION tally_internal.inbox_begin(), tally_internal.inbox_row(), tally_internal.inbox_end() FROM PUBLIC;

CREATE TRIGGER inbox_begin BEFORE INSERT ON tally.inbox FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.inbox_begin();
CREATE TRIGGER inbox_row INSTEAD OF INSERT ON tally.inbox FOR EACH ROW EXECUTE FUNCTION tally_internal.inbox_row();
CREATE TRIGGER inbox_end AFTER INSERT ON tally.inbox FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.inbox_end();

-- They fire in every mode, also for a subscription's worker, which hands rows on from a trigger of the table it fills. There is no
-- ALTER for a view's triggers; what follows changes the view itself, so that every session takes notice.
UPDATE pg_catalog.pg_trigger SET tgenabled = 'A' WHERE tgrelid OPERATOR(pg_catalog.=) 'tally.inbox'::pg_catalog.regclass;

REVOKE ALL ON tally.inbox FROM PUBLIC;
GRANT INSERT ON tally.inbox TO tally_writer;
