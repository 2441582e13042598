-- More arguments are another function: views of one's own that call the old ones stop this, and are named; make them anew
-- afterwards.
DROP FUNCTION tally.funnel(text[], interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean);
DROP FUNCTION tally.funnel(jsonb, interval, timestamptz, timestamptz, text, boolean, text, text, text[], boolean);
