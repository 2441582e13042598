-- The aggregates over parts of units' activity, in order of unit (src/metric/in_order.rs).

CREATE FUNCTION tally_internal.retention_triangle_trans(internal, text, text, bytea, int4, text, date, date, text, int4[], bytea) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_triangle_trans';
COMMENT ON FUNCTION tally_internal.retention_triangle_trans(internal, text, text, bytea, int4, text, date, date, text, int4[], bytea) IS
  'aggregate support: adds a part of a unit''s activity';

CREATE FUNCTION tally_internal.retention_triangle_final(internal) RETURNS int8[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_triangle_final';
COMMENT ON FUNCTION tally_internal.retention_triangle_final(internal) IS
  'aggregate support: the triangle''s numbers';

CREATE FUNCTION tally_internal.active_counts_trans(internal, text, text, bytea, date, date, bytea) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_active_counts_trans';
COMMENT ON FUNCTION tally_internal.active_counts_trans(internal, text, text, bytea, date, date, bytea) IS
  'aggregate support: adds a part of a unit''s activity';

CREATE FUNCTION tally_internal.active_counts_final(internal) RETURNS int8[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_active_counts_final';
COMMENT ON FUNCTION tally_internal.active_counts_final(internal) IS
  'aggregate support: the numbers of each day';

CREATE FUNCTION tally_internal.unit_parts_trans(internal, text, text, bytea, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_unit_parts_trans';
COMMENT ON FUNCTION tally_internal.unit_parts_trans(internal, text, text, bytea, int4) IS
  'aggregate support: packs a part of a unit''s activity';

CREATE FUNCTION tally_internal.unit_parts_final(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_unit_parts_final';
COMMENT ON FUNCTION tally_internal.unit_parts_final(internal) IS
  'aggregate support: the packed parts in order of unit';

CREATE AGGREGATE tally_internal.unit_parts(tenant_id text, unit_id text, days bytea, role int4) (
  SFUNC = tally_internal.unit_parts_trans, STYPE = internal, SSPACE = 65536, FINALFUNC = tally_internal.unit_parts_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally_internal.unit_parts(text, text, bytea, int4) IS
  'parts of units'' activity, packed in order of unit, for tally_internal.retention_triangle and tally_internal.active_counts to merge with the rows that they read';

-- Not to be combined: the rows' order is what makes them cheap.
CREATE AGGREGATE tally_internal.retention_triangle(tenant_id text, unit_id text, days bytea, role int4, grain text, first_day date,
    end_day date, kind text, brackets int4[], others bytea) (
  SFUNC = tally_internal.retention_triangle_trans, STYPE = internal, SSPACE = 65536, FINALFUNC = tally_internal.retention_triangle_final,
  FINALFUNC_MODIFY = READ_WRITE, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally_internal.retention_triangle(text, text, bytea, int4, text, date, date, text, int4[], bytea) IS
  'the triangle of tally.retention from parts of units'' days in order of unit, as numbers: first day of the cohort (from 2000-01-01), period, size, retained; role is 1 where a unit begins on its first of these days, 2 where it returns on them, 3 where both; others are more parts, packed by tally_internal.unit_parts';

CREATE AGGREGATE tally_internal.active_counts(tenant_id text, unit_id text, days bytea, first_day date, end_day date, others bytea) (
  SFUNC = tally_internal.active_counts_trans, STYPE = internal, SSPACE = 65536, FINALFUNC = tally_internal.active_counts_final,
  FINALFUNC_MODIFY = READ_WRITE, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally_internal.active_counts(text, text, bytea, date, date, bytea) IS
  'for each day, the units active on it, in the 7 and in the 30 days that end with it, from parts of their days in order of unit; others are more parts, packed by tally_internal.unit_parts';

CREATE FUNCTION tally_internal.funnel_counts_trans(internal, interval, text, text, text, timestamptz, int4, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_counts_trans';
COMMENT ON FUNCTION tally_internal.funnel_counts_trans(internal, interval, text, text, text, timestamptz, int4, int4) IS
  'aggregate support: adds an event of a unit';

CREATE FUNCTION tally_internal.funnel_counts_final(internal) RETURNS int8[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_funnel_counts_final';
COMMENT ON FUNCTION tally_internal.funnel_counts_final(internal) IS
  'aggregate support: the numbers of each step';

CREATE AGGREGATE tally_internal.funnel_counts("window" interval, mode text, tenant_id text, unit_id text, occurred_at timestamptz,
    steps int4, mask int4) (
  SFUNC = tally_internal.funnel_counts_trans, STYPE = internal, SSPACE = 1048576, FINALFUNC = tally_internal.funnel_counts_final,
  FINALFUNC_MODIFY = READ_ONLY, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally_internal.funnel_counts(interval, text, text, text, timestamptz, int4, int4) IS
  'for each step how many units took it, and median and 90th percentile of what it took them after the step before, in microseconds (-1 where nobody did); window, mode and steps are constants; the mask is that of tally.funnel_times';
