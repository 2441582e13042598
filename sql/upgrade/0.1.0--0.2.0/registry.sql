-- 0.1.0 let every tally_writer call it: what it may take is the owner's to ask for.
REVOKE ALL ON FUNCTION tally_internal.check_event_schema(jsonb) FROM tally_admin, tally_writer;
