-- The aggregates over parts of units' activity, in order of unit (src/metric/units.rs).

CREATE FUNCTION tally.retention_triangle_trans(internal, text, text, bytea, int4, text, date, date, text, int4[]) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_triangle_trans';
COMMENT ON FUNCTION tally.retention_triangle_trans(internal, text, text, bytea, int4, text, date, date, text, int4[]) IS
  'aggregate support: adds a part of a unit''s activity';

CREATE FUNCTION tally.retention_triangle_final(internal) RETURNS int8[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_retention_triangle_final';
COMMENT ON FUNCTION tally.retention_triangle_final(internal) IS
  'aggregate support: the triangle''s numbers';

CREATE FUNCTION tally.active_counts_trans(internal, text, text, bytea, date, date) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_active_counts_trans';
COMMENT ON FUNCTION tally.active_counts_trans(internal, text, text, bytea, date, date) IS
  'aggregate support: adds a part of a unit''s activity';

CREATE FUNCTION tally.active_counts_final(internal) RETURNS int8[]
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_active_counts_final';
COMMENT ON FUNCTION tally.active_counts_final(internal) IS
  'aggregate support: the numbers of each day';

-- Not to be combined: the rows' order is what makes them cheap.
CREATE AGGREGATE tally.retention_triangle(tenant_id text, unit_id text, days bytea, role int4, grain text, first_day date,
    end_day date, kind text, brackets int4[]) (
  SFUNC = tally.retention_triangle_trans, STYPE = internal, SSPACE = 65536, FINALFUNC = tally.retention_triangle_final,
  FINALFUNC_MODIFY = READ_WRITE, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally.retention_triangle(text, text, bytea, int4, text, date, date, text, int4[]) IS
  'the triangle of tally.retention from parts of units'' days in order of unit, as numbers: first day of the cohort (from 2000-01-01), period, size, retained; role is 1 where a unit begins on its first of these days, 2 where it returns on them, 3 where both';

CREATE AGGREGATE tally.active_counts(tenant_id text, unit_id text, days bytea, first_day date, end_day date) (
  SFUNC = tally.active_counts_trans, STYPE = internal, SSPACE = 65536, FINALFUNC = tally.active_counts_final,
  FINALFUNC_MODIFY = READ_WRITE, PARALLEL = RESTRICTED
);
COMMENT ON AGGREGATE tally.active_counts(text, text, bytea, date, date) IS
  'for each day, the units active on it, in the 7 and in the 30 days that end with it, from parts of their days in order of unit';
