-- Equality of sketches: of their bytes. Logical replication compares whole rows where they have no key, and wants an operator.

CREATE FUNCTION tally_internal.hll_eq(a tally.hll, b tally.hll) RETURNS boolean
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteaeq';
COMMENT ON FUNCTION tally_internal.hll_eq(tally.hll, tally.hll) IS 'whether two sketches have the same bytes';

CREATE FUNCTION tally_internal.hll_ne(a tally.hll, b tally.hll) RETURNS boolean
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteane';
COMMENT ON FUNCTION tally_internal.hll_ne(tally.hll, tally.hll) IS 'whether two sketches have other bytes';

CREATE FUNCTION tally_internal.hll_hash(sketch tally.hll) RETURNS int4
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashvarlena';
COMMENT ON FUNCTION tally_internal.hll_hash(tally.hll) IS 'hash of a sketch''s bytes';

CREATE FUNCTION tally_internal.tdigest_eq(a tally.tdigest, b tally.tdigest) RETURNS boolean
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteaeq';
COMMENT ON FUNCTION tally_internal.tdigest_eq(tally.tdigest, tally.tdigest) IS 'whether two sketches have the same bytes';

CREATE FUNCTION tally_internal.tdigest_ne(a tally.tdigest, b tally.tdigest) RETURNS boolean
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteane';
COMMENT ON FUNCTION tally_internal.tdigest_ne(tally.tdigest, tally.tdigest) IS 'whether two sketches have other bytes';

CREATE FUNCTION tally_internal.tdigest_hash(sketch tally.tdigest) RETURNS int4
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'hashvarlena';
COMMENT ON FUNCTION tally_internal.tdigest_hash(tally.tdigest) IS 'hash of a sketch''s bytes';

CREATE OPERATOR tally.= (
  FUNCTION = tally_internal.hll_eq, LEFTARG = tally.hll, RIGHTARG = tally.hll, COMMUTATOR = OPERATOR(tally.=), NEGATOR = OPERATOR(tally.<>), HASHES
);
CREATE OPERATOR tally.<> (
  FUNCTION = tally_internal.hll_ne, LEFTARG = tally.hll, RIGHTARG = tally.hll, COMMUTATOR = OPERATOR(tally.<>), NEGATOR = OPERATOR(tally.=)
);
CREATE OPERATOR tally.= (
  FUNCTION = tally_internal.tdigest_eq, LEFTARG = tally.tdigest, RIGHTARG = tally.tdigest, COMMUTATOR = OPERATOR(tally.=), NEGATOR = OPERATOR(tally.<>), HASHES
);
CREATE OPERATOR tally.<> (
  FUNCTION = tally_internal.tdigest_ne, LEFTARG = tally.tdigest, RIGHTARG = tally.tdigest, COMMUTATOR = OPERATOR(tally.<>), NEGATOR = OPERATOR(tally.=)
);

CREATE OPERATOR CLASS tally.hll_hash_ops DEFAULT FOR TYPE tally.hll USING hash AS
  OPERATOR 1 tally.= (tally.hll, tally.hll), FUNCTION 1 tally_internal.hll_hash(tally.hll);
CREATE OPERATOR CLASS tally.tdigest_hash_ops DEFAULT FOR TYPE tally.tdigest USING hash AS
  OPERATOR 1 tally.= (tally.tdigest, tally.tdigest), FUNCTION 1 tally_internal.tdigest_hash(tally.tdigest);
