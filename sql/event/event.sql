-- The event type. Its functions are pure: PUBLIC may use them.

CREATE TYPE tally.event;

CREATE FUNCTION tally_internal.event_in(cstring) RETURNS tally.event
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_in';
COMMENT ON FUNCTION tally_internal.event_in(cstring) IS
  'text form of an event: one JSON object';

CREATE FUNCTION tally_internal.event_out(tally.event) RETURNS cstring
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_out';
COMMENT ON FUNCTION tally_internal.event_out(tally.event) IS
  'text form of an event: one JSON object, times in UTC';

CREATE FUNCTION tally_internal.event_recv(internal) RETURNS tally.event
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_recv';
COMMENT ON FUNCTION tally_internal.event_recv(internal) IS
  'binary form of an event; docs/formats.md has the layout';

CREATE FUNCTION tally_internal.event_send(tally.event) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_send';
COMMENT ON FUNCTION tally_internal.event_send(tally.event) IS
  'binary form of an event; docs/formats.md has the layout';

CREATE TYPE tally.event (
  INPUT = tally_internal.event_in, OUTPUT = tally_internal.event_out, RECEIVE = tally_internal.event_recv, SEND = tally_internal.event_send,
  INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended
);
COMMENT ON TYPE tally.event IS
  'one event: tenant_id, account_id, name, occurred_at, event_id, optional user_id, session_id and properties';

CREATE CAST (json AS tally.event) WITH INOUT;
CREATE CAST (jsonb AS tally.event) WITH INOUT;
CREATE CAST (tally.event AS json) WITH INOUT;
CREATE CAST (tally.event AS jsonb) WITH INOUT;

CREATE FUNCTION tally_internal.event_lt(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_lt';
COMMENT ON FUNCTION tally_internal.event_lt(tally.event, tally.event) IS
  'whether a is before b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_le(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_le';
COMMENT ON FUNCTION tally_internal.event_le(tally.event, tally.event) IS
  'whether a is not after b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_eq(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_eq';
COMMENT ON FUNCTION tally_internal.event_eq(tally.event, tally.event) IS
  'whether a is equal to b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_ne(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_ne';
COMMENT ON FUNCTION tally_internal.event_ne(tally.event, tally.event) IS
  'whether a is not equal to b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_ge(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_ge';
COMMENT ON FUNCTION tally_internal.event_ge(tally.event, tally.event) IS
  'whether a is not before b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_gt(a tally.event, b tally.event) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_gt';
COMMENT ON FUNCTION tally_internal.event_gt(tally.event, tally.event) IS
  'whether a is after b, by tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_cmp(a tally.event, b tally.event) RETURNS int4
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_cmp';
COMMENT ON FUNCTION tally_internal.event_cmp(tally.event, tally.event) IS
  'order of two events by tenant, account, time and event_id: -1, 0 or 1';

CREATE FUNCTION tally_internal.event_hash(event tally.event) RETURNS int4
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_hash';
COMMENT ON FUNCTION tally_internal.event_hash(tally.event) IS
  'hash of tenant, account, time and event_id';

CREATE FUNCTION tally_internal.event_hash_extended(event tally.event, seed int8) RETURNS int8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_hash_extended';
COMMENT ON FUNCTION tally_internal.event_hash_extended(tally.event, int8) IS
  'seeded hash of tenant, account, time and event_id';

CREATE OPERATOR tally.< (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_lt,
  COMMUTATOR = OPERATOR(tally.>), NEGATOR = OPERATOR(tally.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR tally.< (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR tally.<= (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_le,
  COMMUTATOR = OPERATOR(tally.>=), NEGATOR = OPERATOR(tally.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR tally.<= (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR tally.= (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_eq,
  COMMUTATOR = OPERATOR(tally.=), NEGATOR = OPERATOR(tally.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR tally.= (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR tally.<> (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_ne,
  COMMUTATOR = OPERATOR(tally.<>), NEGATOR = OPERATOR(tally.=), RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR tally.<> (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR tally.>= (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_ge,
  COMMUTATOR = OPERATOR(tally.<=), NEGATOR = OPERATOR(tally.<), RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR tally.>= (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR tally.> (
  LEFTARG = tally.event, RIGHTARG = tally.event, FUNCTION = tally_internal.event_gt,
  COMMUTATOR = OPERATOR(tally.<), NEGATOR = OPERATOR(tally.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR tally.> (tally.event, tally.event) IS 'order by tenant, account, time and event_id';

CREATE OPERATOR CLASS tally.event_ops DEFAULT FOR TYPE tally.event USING btree AS
  OPERATOR 1 tally.<, OPERATOR 2 tally.<=, OPERATOR 3 tally.=, OPERATOR 4 tally.>=, OPERATOR 5 tally.>,
  FUNCTION 1 tally_internal.event_cmp(tally.event, tally.event);
CREATE OPERATOR CLASS tally.event_hash_ops DEFAULT FOR TYPE tally.event USING hash AS
  OPERATOR 1 tally.=,
  FUNCTION 1 tally_internal.event_hash(tally.event),
  FUNCTION 2 tally_internal.event_hash_extended(tally.event, int8);

CREATE FUNCTION tally.tenant_id(event tally.event) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_tenant_id';
COMMENT ON FUNCTION tally.tenant_id(tally.event) IS
  'the tenant';

CREATE FUNCTION tally.account_id(event tally.event) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_account_id';
COMMENT ON FUNCTION tally.account_id(tally.event) IS
  'the account';

CREATE FUNCTION tally.name(event tally.event) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_name';
COMMENT ON FUNCTION tally.name(tally.event) IS
  'the name of the event';

CREATE FUNCTION tally.user_id(event tally.event) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_user_id';
COMMENT ON FUNCTION tally.user_id(tally.event) IS
  'who acted; null where it was not sent';

CREATE FUNCTION tally.session_id(event tally.event) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_session_id';
COMMENT ON FUNCTION tally.session_id(tally.event) IS
  'in which session; null where it was not sent';

CREATE FUNCTION tally.occurred_at(event tally.event) RETURNS timestamptz
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_occurred_at';
COMMENT ON FUNCTION tally.occurred_at(tally.event) IS
  'when it occurred';

CREATE FUNCTION tally.event_id(event tally.event) RETURNS uuid
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_event_id';
COMMENT ON FUNCTION tally.event_id(tally.event) IS
  'its idempotency key';

CREATE FUNCTION tally.properties(event tally.event) RETURNS jsonb
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_properties';
COMMENT ON FUNCTION tally.properties(tally.event) IS
  'everything else, an object';

CREATE FUNCTION tally.event_id(key text) RETURNS uuid
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_event_id_from_key';
COMMENT ON FUNCTION tally.event_id(text) IS
  'an event_id made from any other unique key, the same every time (UUID version 5)';
