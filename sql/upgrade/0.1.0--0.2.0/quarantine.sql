-- It returns the format of a payload, too.
DROP FUNCTION tally_internal.take_quarantined(int8, int4, text, text, timestamptz, timestamptz, int4);
