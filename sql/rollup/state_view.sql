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

