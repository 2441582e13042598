-- As for tally.funnel().
DROP FUNCTION tally.active_users(daterange, text);
DROP FUNCTION tally.session_metrics(timestamptz, timestamptz, text);
DROP FUNCTION tally.did_at_least(text, int8, timestamptz, timestamptz, text);
DROP FUNCTION tally.account_health(text, timestamptz, text);
