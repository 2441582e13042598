-- As for tally.funnel().
DROP FUNCTION tally.metric_value(text, timestamptz, timestamptz);
DROP FUNCTION tally.metric_series(text, timestamptz, timestamptz, text);
DROP FUNCTION tally.cohort_members(text, timestamptz, timestamptz);
