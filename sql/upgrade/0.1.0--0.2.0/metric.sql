-- As for tally.funnel().
DROP FUNCTION tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[]);
DROP FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]);
