-- As for tally.funnel().
DROP FUNCTION tally.retention_curve(text, text, text, timestamptz, timestamptz, text, text, int4[]);
DROP FUNCTION tally.retention(text, text, text, timestamptz, timestamptz, text, text, int4[]);
DROP FUNCTION tally.activation(text, text, interval, timestamptz, timestamptz, text, text);
DROP FUNCTION tally.revenue(timestamptz, timestamptz, text, text, text, text);
