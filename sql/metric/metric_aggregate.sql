-- The aggregates over steps and conditions (src/metric), which know nothing of events.

CREATE FUNCTION tally_internal.window_funnel_trans(internal, interval, timestamptz, VARIADIC boolean[]) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_funnel_trans';
COMMENT ON FUNCTION tally_internal.window_funnel_trans(internal, interval, timestamptz, VARIADIC boolean[]) IS
  'aggregate support: adds an event to a state';

CREATE FUNCTION tally_internal.window_funnel_trans(internal, interval, text, timestamptz, VARIADIC boolean[]) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_funnel_trans_mode';
COMMENT ON FUNCTION tally_internal.window_funnel_trans(internal, interval, text, timestamptz, VARIADIC boolean[]) IS
  'aggregate support: adds an event to a state';

CREATE FUNCTION tally_internal.funnel_times_trans(internal, interval, text, timestamptz, int4, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_times_trans';
COMMENT ON FUNCTION tally_internal.funnel_times_trans(internal, interval, text, timestamptz, int4, int4) IS
  'aggregate support: adds an event to a state';

CREATE FUNCTION tally_internal.funnel_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_combine';
COMMENT ON FUNCTION tally_internal.funnel_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.funnel_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_serialize';
COMMENT ON FUNCTION tally_internal.funnel_serialize(internal) IS
  'aggregate support: a state as bytes';

CREATE FUNCTION tally_internal.funnel_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_deserialize';
COMMENT ON FUNCTION tally_internal.funnel_deserialize(bytea, internal) IS
  'aggregate support: a state from bytes, checked';

CREATE FUNCTION tally_internal.window_funnel_final(internal) RETURNS int4
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_funnel_final';
COMMENT ON FUNCTION tally_internal.window_funnel_final(internal) IS
  'aggregate support: the depth reached';

CREATE FUNCTION tally_internal.funnel_times_final(internal) RETURNS timestamptz[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_times_final';
COMMENT ON FUNCTION tally_internal.funnel_times_final(internal) IS
  'aggregate support: the times of the steps reached';

CREATE FUNCTION tally_internal.retention_mask_trans(internal, VARIADIC boolean[]) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_mask_trans';
COMMENT ON FUNCTION tally_internal.retention_mask_trans(internal, VARIADIC boolean[]) IS
  'aggregate support: adds a row to a state';

CREATE FUNCTION tally_internal.retention_mask_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_mask_combine';
COMMENT ON FUNCTION tally_internal.retention_mask_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.retention_mask_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_mask_serialize';
COMMENT ON FUNCTION tally_internal.retention_mask_serialize(internal) IS
  'aggregate support: a state as bytes';

CREATE FUNCTION tally_internal.retention_mask_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_mask_deserialize';
COMMENT ON FUNCTION tally_internal.retention_mask_deserialize(bytea, internal) IS
  'aggregate support: a state from bytes, checked';

CREATE FUNCTION tally_internal.retention_mask_final(internal) RETURNS boolean[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_mask_final';
COMMENT ON FUNCTION tally_internal.retention_mask_final(internal) IS
  'aggregate support: the conditions met';

CREATE AGGREGATE tally.window_funnel("window" interval, occurred_at timestamptz, VARIADIC steps boolean[]) (
  SFUNC = tally_internal.window_funnel_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.window_funnel_final,
  COMBINEFUNC = tally_internal.funnel_combine, SERIALFUNC = tally_internal.funnel_serialize,
  DESERIALFUNC = tally_internal.funnel_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.window_funnel(interval, timestamptz, VARIADIC boolean[]) IS
  'how many of the steps a group took in their order, the last no more than the window after the first';

CREATE AGGREGATE tally.window_funnel("window" interval, mode text, occurred_at timestamptz, VARIADIC steps boolean[]) (
  SFUNC = tally_internal.window_funnel_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.window_funnel_final,
  COMBINEFUNC = tally_internal.funnel_combine, SERIALFUNC = tally_internal.funnel_serialize,
  DESERIALFUNC = tally_internal.funnel_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.window_funnel(interval, text, timestamptz, VARIADIC boolean[]) IS
  'the same with a mode: strict_increase, strict_order, both with a comma between in any order, or any_order';

CREATE AGGREGATE tally.funnel_times("window" interval, mode text, occurred_at timestamptz, steps int4, mask int4) (
  SFUNC = tally_internal.funnel_times_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.funnel_times_final,
  COMBINEFUNC = tally_internal.funnel_combine, SERIALFUNC = tally_internal.funnel_serialize,
  DESERIALFUNC = tally_internal.funnel_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.funnel_times(interval, text, timestamptz, int4, int4) IS
  'when each step of the deepest chain was taken; bit k of the mask says that the row fits step k + 1, bit 31 that it ends chains that go on after it';

CREATE AGGREGATE tally.retention_mask(VARIADIC conditions boolean[]) (
  SFUNC = tally_internal.retention_mask_trans, STYPE = internal, SSPACE = 64, FINALFUNC = tally_internal.retention_mask_final,
  COMBINEFUNC = tally_internal.retention_mask_combine, SERIALFUNC = tally_internal.retention_mask_serialize,
  DESERIALFUNC = tally_internal.retention_mask_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.retention_mask(VARIADIC boolean[]) IS
  'which conditions a group met in any of its rows, all false unless it met the first';
