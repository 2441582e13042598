-- What views over rollups group with. A group there is a base row and what is pending of it, so a partial aggregate by workers and a
-- final one write and read each state for nothing; without a combine function the planner has no such plan. docs/decisions/rollup.md
-- has the measurement.

CREATE AGGREGATE tally_internal.total(count int8) (
  SFUNC = int8pl, STYPE = int8, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.total(int8) IS 'sum of counts, for groups of few rows';

CREATE AGGREGATE tally_internal.rollup_few(sketch tally.hll) (
  SFUNC = tally_internal.hll_rollup_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.rollup_few(tally.hll) IS 'tally.rollup() for groups of few rows';

CREATE AGGREGATE tally_internal.rollup_few(sketch tally.tdigest) (
  SFUNC = tally_internal.tdigest_rollup_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.tdigest_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.rollup_few(tally.tdigest) IS 'tally.rollup() for groups of few rows';

CREATE AGGREGATE tally_internal.union_few_days(bytea) (
  SFUNC = tally_internal.union_days_trans, STYPE = internal, SSPACE = 128, FINALFUNC = tally_internal.days_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.union_few_days(bytea) IS 'tally.union_days() for groups of few rows';

CREATE AGGREGATE tally_internal.union_few_session_windows(bytea) (
  SFUNC = tally_internal.union_session_windows_trans, STYPE = internal, SSPACE = 128,
  FINALFUNC = tally_internal.session_windows_final, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.union_few_session_windows(bytea) IS 'tally.union_session_windows() for groups of few rows';


-- Which of the base rows have something pending, for views to group these alone: the rows of a reader's own scope are asked, by what the
-- reader itself may read of what is pending.
CREATE FUNCTION tally_internal.pending_keys_trans(internal, tenant_id text, account_id text, bucket timestamptz, grain text) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_pending_keys_trans';
COMMENT ON FUNCTION tally_internal.pending_keys_trans(internal, text, text, timestamptz, text) IS
  'aggregate support: adds a pending row''s key to a state';

CREATE FUNCTION tally_internal.pending_keys_final(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_pending_keys_final';
COMMENT ON FUNCTION tally_internal.pending_keys_final(internal) IS
  'aggregate support: the keys as a filter';

CREATE AGGREGATE tally_internal.pending_keys(tenant_id text, account_id text, bucket timestamptz, grain text) (
  SFUNC = tally_internal.pending_keys_trans, STYPE = internal, SSPACE = 8192, FINALFUNC = tally_internal.pending_keys_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally_internal.pending_keys(text, text, timestamptz, text) IS
  'the tenants, accounts and buckets, at a grain, of pending rows, as a filter for may_have_pending()';

CREATE FUNCTION tally_internal.may_have_pending(keys bytea, tenant_id text, account_id text, bucket timestamptz) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_may_have_pending';
COMMENT ON FUNCTION tally_internal.may_have_pending(bytea, text, text, timestamptz) IS
  'whether a tenant, an account and a bucket may be among pending_keys(): true of all that are, and of one in a hundred that are not';
