REVOKE ALL ON FUNCTION tally.read_public_key(bytea) FROM tally_owner;
