REVOKE ALL ON FUNCTION tally_internal.read_public_key(bytea) FROM tally_owner;
