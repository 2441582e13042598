-- Declared rollups. The tables and views of each one are made by tally.create_rollup (src/rollup/declare.rs).
-- No foreign keys between these tables: pg_restore with several jobs loads an extension's tables in any order.

CREATE TABLE tally.rollup (
  rollup_name text COLLATE "C" NOT NULL CONSTRAINT rollup_pkey PRIMARY KEY,
  grains      text[] NOT NULL,
  filter      text,
  declared_at timestamptz NOT NULL DEFAULT now(),
  declared_by name NOT NULL DEFAULT session_user,
  whole_from  timestamptz,
  CONSTRAINT rollup_has_a_grain CHECK (cardinality(grains) > 0)
);
COMMENT ON TABLE tally.rollup IS 'declared rollups';
COMMENT ON COLUMN tally.rollup.rollup_name IS 'name of the rollup; its views are <name>_<grain> and <name>_<grain>_state';
COMMENT ON COLUMN tally.rollup.grains IS 'bucket widths, in UTC';
COMMENT ON COLUMN tally.rollup.filter IS 'SQL condition over an event: only events for which it is true are counted';
COMMENT ON COLUMN tally.rollup.declared_at IS 'when it was declared';
COMMENT ON COLUMN tally.rollup.declared_by IS 'the role that logged in and declared it';
COMMENT ON COLUMN tally.rollup.whole_from IS
  'raw events of before this moment were gone, of some tenant, when the rollup was declared, so that it never counted them; null where none were';

CREATE TABLE tally.rollup_column (
  rollup_name text COLLATE "C" NOT NULL,
  position    int4 NOT NULL,
  column_name text COLLATE "C" NOT NULL,
  kind        text COLLATE "C" NOT NULL,
  expression  text,
  CONSTRAINT rollup_column_pkey PRIMARY KEY (rollup_name, position),
  CONSTRAINT rollup_column_kind_known
    CHECK (kind IN ('dimension', 'count', 'sum', 'min', 'max', 'distinct', 'percentiles', 'first', 'last', 'days', 'session_windows')),
  CONSTRAINT rollup_column_needs_expression CHECK (expression IS NOT NULL OR kind = 'count')
);
COMMENT ON TABLE tally.rollup_column IS 'dimensions and measures of the declared rollups';
COMMENT ON COLUMN tally.rollup_column.rollup_name IS 'the rollup';
COMMENT ON COLUMN tally.rollup_column.position IS 'place among its columns, dimensions first';
COMMENT ON COLUMN tally.rollup_column.column_name IS 'name of the column';
COMMENT ON COLUMN tally.rollup_column.kind IS 'dimension, or what the measure computes';
COMMENT ON COLUMN tally.rollup_column.expression IS 'SQL expression over an event; null for count(*)';

CREATE TABLE tally.rollup_backfill (
  filled_from     timestamptz NOT NULL,
  started_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  finished_at     timestamptz,
  events_done     int8 NOT NULL DEFAULT 0,
  events_expected int8 NOT NULL,
  rollup_name     text COLLATE "C" NOT NULL CONSTRAINT rollup_backfill_pkey PRIMARY KEY
);
COMMENT ON TABLE tally.rollup_backfill IS 'progress of the rollups that were declared with backfill => false';
COMMENT ON COLUMN tally.rollup_backfill.filled_from IS 'events from this moment on are counted, earlier ones wait';
COMMENT ON COLUMN tally.rollup_backfill.started_at IS 'when the rollup was declared';
COMMENT ON COLUMN tally.rollup_backfill.updated_at IS 'when the last step was made';
COMMENT ON COLUMN tally.rollup_backfill.finished_at IS 'when nothing was left; null while events wait';
COMMENT ON COLUMN tally.rollup_backfill.events_done IS 'events that the steps counted';
COMMENT ON COLUMN tally.rollup_backfill.events_expected IS 'events in the table when the rollup was declared, by the statistics of ANALYZE';
COMMENT ON COLUMN tally.rollup_backfill.rollup_name IS 'the rollup';

ALTER TABLE tally.rollup_backfill OWNER TO tally_owner;
SELECT tally_internal.confine_table('tally.rollup_backfill');
REVOKE ALL ON tally.rollup_backfill FROM PUBLIC;
GRANT SELECT ON tally.rollup_backfill TO tally_admin, tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.rollup_backfill', '');

ALTER TABLE tally.rollup OWNER TO tally_owner;
ALTER TABLE tally.rollup_column OWNER TO tally_owner;
REVOKE ALL ON tally.rollup, tally.rollup_column FROM PUBLIC;
GRANT SELECT ON tally.rollup, tally.rollup_column TO tally_admin, tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.rollup', $$WHERE rollup_name NOT IN ('usage', 'user_activity', 'session', 'payment')$$);
SELECT pg_catalog.pg_extension_config_dump('tally.rollup_column', $$WHERE rollup_name NOT IN ('usage', 'user_activity', 'session', 'payment')$$);

CREATE FUNCTION tally.property_number(properties jsonb, key text) RETURNS numeric
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_property_number';
COMMENT ON FUNCTION tally.property_number(jsonb, text) IS
  'a property as a number; null where it is missing or is not a JSON number';

CREATE FUNCTION tally.property_float(properties jsonb, key text) RETURNS float8
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_property_float';
COMMENT ON FUNCTION tally.property_float(jsonb, text) IS
  'a property as a double; null where it is missing, not a JSON number, or beyond the range of doubles';

CREATE FUNCTION tally.create_rollup(rollup_name text, grains text[], measures text[],
    dimensions text[] DEFAULT '{}', filter text DEFAULT NULL, backfill boolean DEFAULT true) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'create_rollup_wrapper';
COMMENT ON FUNCTION tally.create_rollup(text, text[], text[], text[], text, boolean) IS
  'declares a rollup: makes its tables and views and fills them from the events that are there, in this transaction (ingest waits meanwhile); with backfill => false only from now on: tally.backfill() or tally.maintain() then counts earlier events, in steps';

CREATE FUNCTION tally.alter_rollup(rollup_name text, add_measures text[] DEFAULT '{}', add_dimensions text[] DEFAULT '{}',
    cascade boolean DEFAULT false) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'alter_rollup_cascade_wrapper';
COMMENT ON FUNCTION tally.alter_rollup(text, text[], text[], boolean) IS
  'adds measures and dimensions to a rollup, and makes its buckets anew from the events, as one change (ingest waits meanwhile); in buckets whose events were dropped what was added is null, or has only what is ingested afterwards: a warning and the comments of the views'' columns say from when on it has everything; what you set on its tables and views stays; its views are made anew, so views of your own or of others on them must be, too: where there are some it is an error, and with cascade => true they are dropped';

CREATE FUNCTION tally.backfill(rollup_name text, max_events int8 DEFAULT 100000) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'backfill_wrapper';
COMMENT ON FUNCTION tally.backfill(text, int8) IS
  'one step of filling a rollup that was declared with backfill => false, from late to early: counts about max_events events (all of one microsecond together) while ingest waits; returns how many, 0 when nothing is left; tally.rollup_backfill shows how far it has come';

CREATE FUNCTION tally.drop_rollup(rollup_name text, cascade boolean DEFAULT false) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'drop_rollup_cascade_wrapper';
COMMENT ON FUNCTION tally.drop_rollup(text, boolean) IS
  'drops a rollup with its tables and views; where other objects depend on those, as a tenant''s own view, it is an error that names them, and with cascade => true they are dropped, too, whoever owns them';

CREATE FUNCTION tally.fold(rollup_name text, max_rows int8 DEFAULT 100000) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'fold_wrapper';
COMMENT ON FUNCTION tally.fold(text, int8) IS
  'merges pending rows into the base rows, at most max_rows of them; returns how many, 0 also where another session is folding the same rollup';

CREATE FUNCTION tally_internal.strange_code(OUT rollup_name text, OUT code text, OUT problem text) RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'strange_code_wrapper';
COMMENT ON FUNCTION tally_internal.strange_code() IS
  'functions in declared expressions that have no fixed search_path (open) or run with their owner''s rights (elevated), and expressions that can''t be read (unreadable), have a literal as ''now'' (momentary) or go by settings (mutable)';
REVOKE ALL ON FUNCTION tally_internal.strange_code() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.strange_code() TO tally_admin, tally_auditor;

REVOKE ALL ON FUNCTION tally.create_rollup(text, text[], text[], text[], text, boolean), tally.drop_rollup(text, boolean),
  tally.alter_rollup(text, text[], text[], boolean), tally.backfill(text, int8), tally.fold(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.create_rollup(text, text[], text[], text[], text, boolean), tally.drop_rollup(text, boolean),
  tally.alter_rollup(text, text[], text[], boolean), tally.backfill(text, int8), tally.fold(text, int8) TO tally_admin;
