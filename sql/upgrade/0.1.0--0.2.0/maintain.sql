-- What a step did, the step alone says.
REVOKE ALL ON FUNCTION tally_internal.note_maintenance(text, text, timestamptz, int8, text, text) FROM tally_admin;
