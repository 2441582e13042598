-- Sets of days and session windows, as stored bytes: the aggregates that make and merge them, and what can be asked of
-- them. All of it pure: PUBLIC may use it. docs/formats.md has the bytes, docs/metrics.md the definitions.

CREATE FUNCTION tally_internal.days_trans(internal, timestamptz) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_trans';
COMMENT ON FUNCTION tally_internal.days_trans(internal, timestamptz) IS
  'aggregate support: adds a time to a state';

CREATE FUNCTION tally_internal.union_days_trans(internal, bytea) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_union';
COMMENT ON FUNCTION tally_internal.union_days_trans(internal, bytea) IS
  'aggregate support: merges a stored state into a state';

CREATE FUNCTION tally_internal.days_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_combine';
COMMENT ON FUNCTION tally_internal.days_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.days_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_stored';
COMMENT ON FUNCTION tally_internal.days_serialize(internal) IS
  'aggregate support: a state as bytes';

CREATE FUNCTION tally_internal.days_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_deserialize';
COMMENT ON FUNCTION tally_internal.days_deserialize(bytea, internal) IS
  'aggregate support: a state from bytes, checked';

CREATE FUNCTION tally_internal.days_final(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_days_stored';
COMMENT ON FUNCTION tally_internal.days_final(internal) IS
  'aggregate support: the stored state';

CREATE AGGREGATE tally.days(timestamptz) (
  SFUNC = tally_internal.days_trans, STYPE = internal, SSPACE = 128, FINALFUNC = tally_internal.days_final,
  COMBINEFUNC = tally_internal.days_combine, SERIALFUNC = tally_internal.days_serialize,
  DESERIALFUNC = tally_internal.days_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.days(timestamptz) IS
  'the set of days (UTC) that hold the times, in about a bit a day';

CREATE AGGREGATE tally.union_days(bytea) (
  SFUNC = tally_internal.union_days_trans, STYPE = internal, SSPACE = 128, FINALFUNC = tally_internal.days_final,
  COMBINEFUNC = tally_internal.days_combine, SERIALFUNC = tally_internal.days_serialize,
  DESERIALFUNC = tally_internal.days_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.union_days(bytea) IS
  'several sets of days as one';

CREATE FUNCTION tally.merge_days(bytea, bytea) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_merge_days';
COMMENT ON FUNCTION tally.merge_days(bytea, bytea) IS
  'two sets of days as one';

CREATE FUNCTION tally.days_damage(bytea) RETURNS text
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tally_days_damage';
COMMENT ON FUNCTION tally.days_damage(bytea) IS
  'what is wrong with a stored set of days; null where nothing is';

CREATE FUNCTION tally.session_windows_damage(bytea) RETURNS text
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tally_windows_damage';
COMMENT ON FUNCTION tally.session_windows_damage(bytea) IS
  'what is wrong with a stored set of session windows; null where nothing is';

CREATE FUNCTION tally.day_count(bytea) RETURNS int8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_day_count';
COMMENT ON FUNCTION tally.day_count(bytea) IS
  'how many days a set has';

CREATE FUNCTION tally.day_list(bytea) RETURNS date[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_day_list';
COMMENT ON FUNCTION tally.day_list(bytea) IS
  'the days of a set, ascending';

CREATE FUNCTION tally_internal.session_windows_trans(internal, timestamptz) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_trans';
COMMENT ON FUNCTION tally_internal.session_windows_trans(internal, timestamptz) IS
  'aggregate support: adds a time to a state';

CREATE FUNCTION tally_internal.union_session_windows_trans(internal, bytea) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_union';
COMMENT ON FUNCTION tally_internal.union_session_windows_trans(internal, bytea) IS
  'aggregate support: merges a stored state into a state';

CREATE FUNCTION tally_internal.session_windows_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_combine';
COMMENT ON FUNCTION tally_internal.session_windows_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.session_windows_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_stored';
COMMENT ON FUNCTION tally_internal.session_windows_serialize(internal) IS
  'aggregate support: a state as bytes';

CREATE FUNCTION tally_internal.session_windows_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_deserialize';
COMMENT ON FUNCTION tally_internal.session_windows_deserialize(bytea, internal) IS
  'aggregate support: a state from bytes, checked';

CREATE FUNCTION tally_internal.session_windows_final(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_windows_stored';
COMMENT ON FUNCTION tally_internal.session_windows_final(internal) IS
  'aggregate support: the stored state';

CREATE AGGREGATE tally.session_windows(timestamptz) (
  SFUNC = tally_internal.session_windows_trans, STYPE = internal, SSPACE = 128, FINALFUNC = tally_internal.session_windows_final,
  COMBINEFUNC = tally_internal.session_windows_combine, SERIALFUNC = tally_internal.session_windows_serialize,
  DESERIALFUNC = tally_internal.session_windows_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.session_windows(timestamptz) IS
  'the sessions that the times fall into: cut where nothing happened for more than 30 minutes';

CREATE AGGREGATE tally.union_session_windows(bytea) (
  SFUNC = tally_internal.union_session_windows_trans, STYPE = internal, SSPACE = 128, FINALFUNC = tally_internal.session_windows_final,
  COMBINEFUNC = tally_internal.session_windows_combine, SERIALFUNC = tally_internal.session_windows_serialize,
  DESERIALFUNC = tally_internal.session_windows_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.union_session_windows(bytea) IS
  'several sets of session windows as one';

CREATE FUNCTION tally.merge_session_windows(bytea, bytea) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_merge_windows';
COMMENT ON FUNCTION tally.merge_session_windows(bytea, bytea) IS
  'two sets of session windows as one';

CREATE FUNCTION tally.session_window_count(bytea) RETURNS int8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_count';
COMMENT ON FUNCTION tally.session_window_count(bytea) IS
  'how many windows a set has';

CREATE FUNCTION tally.session_window_starts(bytea) RETURNS timestamptz[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_starts';
COMMENT ON FUNCTION tally.session_window_starts(bytea) IS
  'when each window''s first event was, ascending';

CREATE FUNCTION tally.session_window_ends(bytea) RETURNS timestamptz[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_ends';
COMMENT ON FUNCTION tally.session_window_ends(bytea) IS
  'when each window''s last event was, in the same order';

CREATE FUNCTION tally.session_window_events(bytea) RETURNS int8[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_window_events';
COMMENT ON FUNCTION tally.session_window_events(bytea) IS
  'how many events each window has, in the same order';
