-- The sketches: types, aggregates and questions. All of them pure: PUBLIC may use them.

CREATE TYPE tally.hll;

CREATE FUNCTION tally_internal.hll_in(cstring) RETURNS tally.hll
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_in';
COMMENT ON FUNCTION tally_internal.hll_in(cstring) IS
  $re$text form of hll: \x and hexadecimal digits$re$;

CREATE FUNCTION tally_internal.hll_out(tally.hll) RETURNS cstring
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_out';
COMMENT ON FUNCTION tally_internal.hll_out(tally.hll) IS
  $re$text form of hll: \x and hexadecimal digits$re$;

CREATE FUNCTION tally_internal.hll_recv(internal) RETURNS tally.hll
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_recv';
COMMENT ON FUNCTION tally_internal.hll_recv(internal) IS
  'binary form of hll: its stored bytes, checked';

CREATE FUNCTION tally_internal.hll_send(tally.hll) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_send';
COMMENT ON FUNCTION tally_internal.hll_send(tally.hll) IS
  'binary form of hll: its stored bytes';

CREATE TYPE tally.hll (
  INPUT = tally_internal.hll_in, OUTPUT = tally_internal.hll_out, RECEIVE = tally_internal.hll_recv, SEND = tally_internal.hll_send,
  INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended
);
COMMENT ON TYPE tally.hll IS 'a HyperLogLog sketch of a set of values: counts them, distinct, in about a kilobyte';

CREATE FUNCTION tally.hll_from_bytea(bytea) RETURNS tally.hll
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_from_bytea';
COMMENT ON FUNCTION tally.hll_from_bytea(bytea) IS
  'hll from its stored bytes or from an image that Apache DataSketches wrote, checked';

CREATE FUNCTION tally.hll_to_bytea(tally.hll) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_to_bytea';
COMMENT ON FUNCTION tally.hll_to_bytea(tally.hll) IS
  'a plain sketch as Apache DataSketches reads it in every language (compact HLL_4 image); a keyed one as it is stored';

CREATE CAST (bytea AS tally.hll) WITH FUNCTION tally.hll_from_bytea(bytea);
CREATE CAST (tally.hll AS bytea) WITH FUNCTION tally.hll_to_bytea(tally.hll);

CREATE TYPE tally.tdigest;

CREATE FUNCTION tally_internal.tdigest_in(cstring) RETURNS tally.tdigest
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_in';
COMMENT ON FUNCTION tally_internal.tdigest_in(cstring) IS
  $re$text form of tdigest: \x and hexadecimal digits$re$;

CREATE FUNCTION tally_internal.tdigest_out(tally.tdigest) RETURNS cstring
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_out';
COMMENT ON FUNCTION tally_internal.tdigest_out(tally.tdigest) IS
  $re$text form of tdigest: \x and hexadecimal digits$re$;

CREATE FUNCTION tally_internal.tdigest_recv(internal) RETURNS tally.tdigest
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_recv';
COMMENT ON FUNCTION tally_internal.tdigest_recv(internal) IS
  'binary form of tdigest: its stored bytes, checked';

CREATE FUNCTION tally_internal.tdigest_send(tally.tdigest) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_send';
COMMENT ON FUNCTION tally_internal.tdigest_send(tally.tdigest) IS
  'binary form of tdigest: its stored bytes';

CREATE TYPE tally.tdigest (
  INPUT = tally_internal.tdigest_in, OUTPUT = tally_internal.tdigest_out, RECEIVE = tally_internal.tdigest_recv, SEND = tally_internal.tdigest_send,
  INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended
);
COMMENT ON TYPE tally.tdigest IS 'a t-digest of a set of numbers: answers percentiles, in one or two kilobytes';

CREATE FUNCTION tally.tdigest_from_bytea(bytea) RETURNS tally.tdigest
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_from_bytea';
COMMENT ON FUNCTION tally.tdigest_from_bytea(bytea) IS
  'tdigest from its stored bytes, checked';

CREATE FUNCTION tally.tdigest_to_bytea(tally.tdigest) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_send';
COMMENT ON FUNCTION tally.tdigest_to_bytea(tally.tdigest) IS
  'stored bytes of a tdigest; docs/formats.md has the layout';

CREATE CAST (bytea AS tally.tdigest) WITH FUNCTION tally.tdigest_from_bytea(bytea);
CREATE CAST (tally.tdigest AS bytea) WITH FUNCTION tally.tdigest_to_bytea(tally.tdigest);

CREATE FUNCTION tally.distinct_count(sketch tally.hll) RETURNS int8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_distinct_count';
COMMENT ON FUNCTION tally.distinct_count(tally.hll) IS
  'estimated number of distinct values; exact up to 192';

CREATE FUNCTION tally.stderror(sketch tally.hll) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_stderror';
COMMENT ON FUNCTION tally.stderror(tally.hll) IS
  'relative standard error of distinct_count: 0 while it is exact, else about 0.023';

CREATE FUNCTION tally.distinct_count_lower(sketch tally.hll, deviations int4) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_lower_bound';
COMMENT ON FUNCTION tally.distinct_count_lower(tally.hll, int4) IS
  'lower bound of the number of distinct values, at 1, 2 or 3 standard deviations';

CREATE FUNCTION tally.distinct_count_upper(sketch tally.hll, deviations int4) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_upper_bound';
COMMENT ON FUNCTION tally.distinct_count_upper(tally.hll, int4) IS
  'upper bound of the number of distinct values, at 1, 2 or 3 standard deviations';

CREATE FUNCTION tally.damage(sketch tally.hll, epoch int4) RETURNS text
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tally_hll_damage';
COMMENT ON FUNCTION tally.damage(tally.hll, int4) IS
  'what is wrong with the stored bytes of a rollup''s sketch, under a tenant key of that epoch (null: whichever); null where nothing is';

CREATE FUNCTION tally.damage(sketch tally.tdigest, compression int4) RETURNS text
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tally_tdigest_damage';
COMMENT ON FUNCTION tally.damage(tally.tdigest, int4) IS
  'what is wrong with the stored bytes of a rollup''s digest, of that compression (null: whichever); null where nothing is';

CREATE FUNCTION tally_internal.agrees(a tally.tdigest, b tally.tdigest) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_agrees';
COMMENT ON FUNCTION tally_internal.agrees(tally.tdigest, tally.tdigest) IS
  'whether two digests can be of the same values: number, extremes and sum are equal, and all values where no cluster formed, else percentiles within 3 % of ranks';

CREATE FUNCTION tally.merge(a tally.hll, b tally.hll) RETURNS tally.hll
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_merge';
COMMENT ON FUNCTION tally.merge(tally.hll, tally.hll) IS
  'sketch of the union; null only where both are null';

CREATE FUNCTION tally.merge(a tally.tdigest, b tally.tdigest) RETURNS tally.tdigest
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_merge';
COMMENT ON FUNCTION tally.merge(tally.tdigest, tally.tdigest) IS
  'digest of both sets; null only where both are null';

CREATE FUNCTION tally.approx_percentile(fraction float8, sketch tally.tdigest) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_approx_percentile';
COMMENT ON FUNCTION tally.approx_percentile(float8, tally.tdigest) IS
  'estimated value at a fraction, 0 to 1, of the way from the smallest to the greatest; null of an empty digest';

CREATE FUNCTION tally.approx_percentile(fractions float8[], sketch tally.tdigest) RETURNS float8[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_approx_percentiles';
COMMENT ON FUNCTION tally.approx_percentile(float8[], tally.tdigest) IS
  'estimated values at several fractions';

CREATE FUNCTION tally.approx_percentile_rank(value float8, sketch tally.tdigest) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_approx_percentile_rank';
COMMENT ON FUNCTION tally.approx_percentile_rank(float8, tally.tdigest) IS
  'estimated fraction of values that are at most this one';

CREATE FUNCTION tally.num_vals(sketch tally.tdigest) RETURNS int8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_num_vals';
COMMENT ON FUNCTION tally.num_vals(tally.tdigest) IS
  'number of values, exact';

CREATE FUNCTION tally.mean(sketch tally.tdigest) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_mean';
COMMENT ON FUNCTION tally.mean(tally.tdigest) IS
  'mean of the values, in double precision';

CREATE FUNCTION tally.min_val(sketch tally.tdigest) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_min_val';
COMMENT ON FUNCTION tally.min_val(tally.tdigest) IS
  'smallest value, exact';

CREATE FUNCTION tally.max_val(sketch tally.tdigest) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_max_val';
COMMENT ON FUNCTION tally.max_val(tally.tdigest) IS
  'greatest value, exact';

CREATE FUNCTION tally.trimmed_mean(sketch tally.tdigest, low float8, high float8) RETURNS float8
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_trimmed_mean';
COMMENT ON FUNCTION tally.trimmed_mean(tally.tdigest, float8, float8) IS
  'estimated mean of the values between two fractions';

CREATE FUNCTION tally_internal.hll_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_combine';
COMMENT ON FUNCTION tally_internal.hll_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.hll_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_serialize';
COMMENT ON FUNCTION tally_internal.hll_serialize(internal) IS
  'aggregate support: a state as stored bytes';

CREATE FUNCTION tally_internal.hll_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_deserialize';
COMMENT ON FUNCTION tally_internal.hll_deserialize(bytea, internal) IS
  'aggregate support: a state from stored bytes, checked';

CREATE FUNCTION tally_internal.hll_final(internal) RETURNS tally.hll
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_final';
COMMENT ON FUNCTION tally_internal.hll_final(internal) IS
  'aggregate support: the finished sketch';

CREATE FUNCTION tally_internal.hll_rollup_trans(internal, tally.hll) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_rollup_trans';
COMMENT ON FUNCTION tally_internal.hll_rollup_trans(internal, tally.hll) IS
  'aggregate support: merges a sketch into a state';

CREATE FUNCTION tally_internal.tdigest_combine(internal, internal) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_combine';
COMMENT ON FUNCTION tally_internal.tdigest_combine(internal, internal) IS
  'aggregate support: merges two states';

CREATE FUNCTION tally_internal.tdigest_serialize(internal) RETURNS bytea
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_serialize';
COMMENT ON FUNCTION tally_internal.tdigest_serialize(internal) IS
  'aggregate support: a state as stored bytes';

CREATE FUNCTION tally_internal.tdigest_deserialize(bytea, internal) RETURNS internal
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_deserialize';
COMMENT ON FUNCTION tally_internal.tdigest_deserialize(bytea, internal) IS
  'aggregate support: a state from stored bytes, checked';

CREATE FUNCTION tally_internal.tdigest_final(internal) RETURNS tally.tdigest
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_final';
COMMENT ON FUNCTION tally_internal.tdigest_final(internal) IS
  'aggregate support: the finished sketch';

CREATE FUNCTION tally_internal.tdigest_rollup_trans(internal, tally.tdigest) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_rollup_trans';
COMMENT ON FUNCTION tally_internal.tdigest_rollup_trans(internal, tally.tdigest) IS
  'aggregate support: merges a sketch into a state';

CREATE FUNCTION tally_internal.hll_trans(internal, int2) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_int2';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, int2) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_int4';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, int4) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, int8) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_int8';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, int8) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, timestamptz) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_int8';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, timestamptz) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, text) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_bytes';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, text) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, bytea) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_bytes';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, bytea) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, uuid) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_uuid';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, uuid) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, numeric) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_numeric';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, numeric) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.hll_trans(internal, text, bytea, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_keyed';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, text, bytea, int4) IS
  'aggregate support: adds a value to a state under a key';

CREATE FUNCTION tally_internal.hll_trans(internal, bytea, bytea, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_keyed';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, bytea, bytea, int4) IS
  'aggregate support: adds a value to a state under a key';

CREATE FUNCTION tally_internal.hll_trans(internal, int8, bytea, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_hll_trans_keyed_int8';
COMMENT ON FUNCTION tally_internal.hll_trans(internal, int8, bytea, int4) IS
  'aggregate support: adds a value to a state under a key';

CREATE FUNCTION tally_internal.tdigest_trans(internal, float8) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_trans';
COMMENT ON FUNCTION tally_internal.tdigest_trans(internal, float8) IS
  'aggregate support: adds a value to a state';

CREATE FUNCTION tally_internal.tdigest_trans(internal, float8, int4) RETURNS internal
  LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tally_tdigest_trans_compression';
COMMENT ON FUNCTION tally_internal.tdigest_trans(internal, float8, int4) IS
  'aggregate support: adds a value to a state';

CREATE AGGREGATE tally.hll(value int2) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(int2) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value int4) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(int4) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value int8) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(int8) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value timestamptz) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(timestamptz) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value text) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(text) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value bytea) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(bytea) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value uuid) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(uuid) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value numeric) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(numeric) IS
  'distinct-count sketch of the values; nulls are left out';

CREATE AGGREGATE tally.hll(value text, key bytea, epoch int4) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(text, bytea, int4) IS
  'distinct-count sketch hashed under a secret of 16 bytes, which the epoch names';

CREATE AGGREGATE tally.hll(value bytea, key bytea, epoch int4) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(bytea, bytea, int4) IS
  'distinct-count sketch hashed under a secret of 16 bytes, which the epoch names';

CREATE AGGREGATE tally.hll(value int8, key bytea, epoch int4) (
  SFUNC = tally_internal.hll_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.hll(int8, bytea, int4) IS
  'distinct-count sketch hashed under a secret of 16 bytes, which the epoch names';

CREATE AGGREGATE tally.rollup(sketch tally.hll) (
  SFUNC = tally_internal.hll_rollup_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.hll_final,
  COMBINEFUNC = tally_internal.hll_combine, SERIALFUNC = tally_internal.hll_serialize,
  DESERIALFUNC = tally_internal.hll_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.rollup(tally.hll) IS
  'sketch of the union of the sketches';

CREATE AGGREGATE tally.tdigest(value float8) (
  SFUNC = tally_internal.tdigest_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.tdigest_final,
  COMBINEFUNC = tally_internal.tdigest_combine, SERIALFUNC = tally_internal.tdigest_serialize,
  DESERIALFUNC = tally_internal.tdigest_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.tdigest(float8) IS
  't-digest of the values, compression 100; nulls are left out';

CREATE AGGREGATE tally.tdigest(value float8, compression int4) (
  SFUNC = tally_internal.tdigest_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.tdigest_final,
  COMBINEFUNC = tally_internal.tdigest_combine, SERIALFUNC = tally_internal.tdigest_serialize,
  DESERIALFUNC = tally_internal.tdigest_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.tdigest(float8, int4) IS
  't-digest of the values; compression, 10 to 1000, is the most centroids it keeps';

CREATE AGGREGATE tally.rollup(sketch tally.tdigest) (
  SFUNC = tally_internal.tdigest_rollup_trans, STYPE = internal, SSPACE = 256, FINALFUNC = tally_internal.tdigest_final,
  COMBINEFUNC = tally_internal.tdigest_combine, SERIALFUNC = tally_internal.tdigest_serialize,
  DESERIALFUNC = tally_internal.tdigest_deserialize, FINALFUNC_MODIFY = READ_ONLY, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tally.rollup(tally.tdigest) IS
  'digest of all that the digests hold';
