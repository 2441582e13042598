-- The enriched layer: built-in rollups that say who was active when, and the views that register users, accounts and
-- sessions on first sight. Ingest keeps them like any rollup: in its transaction, each event once.

-- A year's bucket, since what is kept of a user hardly grows with time: a bit a day.
SELECT tally.create_rollup('user_activity',
  grains     => '{year}',
  dimensions => '{user_id,name}',
  measures   => ARRAY['count(*) AS events',
                      'min(occurred_at) AS first_at',
                      'max(occurred_at) AS last_at',
                      'days(occurred_at) AS days']);
-- By user first, and with the days: what is to be known of users is read in their order from the index alone, without
-- sorting them. Which columns a unique key has matters to a fold, not their order.
ALTER TABLE tally.user_activity_year_base DROP CONSTRAINT user_activity_year_key;
ALTER TABLE tally.user_activity_year_base ADD CONSTRAINT user_activity_year_key
  UNIQUE NULLS NOT DISTINCT (tenant_id, user_id, name, account_id, bucket) INCLUDE (days);
SELECT pg_catalog.pg_extension_config_dump('tally.user_activity_pending', '');
SELECT pg_catalog.pg_extension_config_dump('tally.user_activity_year_base', '');

SELECT tally.create_rollup('session',
  grains     => '{month}',
  dimensions => '{user_id,session_id}',
  measures   => ARRAY['count(*) AS events',
                      'min(occurred_at) AS first_at',
                      'max(occurred_at) AS last_at',
                      'session_windows(CASE WHEN session_id IS NULL THEN occurred_at END) AS windows'],
  filter     => 'session_id IS NOT NULL OR user_id IS NOT NULL');
SELECT pg_catalog.pg_extension_config_dump('tally.session_pending', '');
SELECT pg_catalog.pg_extension_config_dump('tally.session_month_base', '');

CREATE VIEW tally_internal.user_activity_part WITH (security_invoker = true) AS
  SELECT tenant_id, account_id, bucket, user_id, name, events, first_at, last_at, days FROM tally.user_activity_year_base
   UNION ALL
  SELECT tenant_id, account_id, bucket, user_id, name, events, first_at, last_at, days FROM tally.user_activity_pending;
COMMENT ON VIEW tally_internal.user_activity_part IS
  'what is known of users by account and name of event, in parts that the metrics merge as they read';
COMMENT ON COLUMN tally_internal.user_activity_part.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally_internal.user_activity_part.account_id IS 'the account';
COMMENT ON COLUMN tally_internal.user_activity_part.bucket IS 'start of the year (UTC)';
COMMENT ON COLUMN tally_internal.user_activity_part.user_id IS 'the user; null for events without one';
COMMENT ON COLUMN tally_internal.user_activity_part.name IS 'name of the events';
COMMENT ON COLUMN tally_internal.user_activity_part.events IS 'number of events';
COMMENT ON COLUMN tally_internal.user_activity_part.first_at IS 'time of the earliest';
COMMENT ON COLUMN tally_internal.user_activity_part.last_at IS 'time of the latest';
COMMENT ON COLUMN tally_internal.user_activity_part.days IS 'the days (UTC) with an event, as a set: tally.day_list shows it';

CREATE VIEW tally.users WITH (security_invoker = true) AS
  SELECT tenant_id, user_id, min(first_at) AS first_seen, max(last_at) AS last_seen, sum(events)::int8 AS events,
         tally.day_count(tally.union_days(days)) AS active_days
    FROM tally_internal.user_activity_part WHERE user_id IS NOT NULL GROUP BY tenant_id, user_id;
COMMENT ON VIEW tally.users IS 'every user in scope, from its first event on; one of two accounts is one user of the tenant';
COMMENT ON COLUMN tally.users.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.users.user_id IS 'the user';
COMMENT ON COLUMN tally.users.first_seen IS 'time of its earliest event';
COMMENT ON COLUMN tally.users.last_seen IS 'time of its latest event';
COMMENT ON COLUMN tally.users.events IS 'number of its events. Adds up';
COMMENT ON COLUMN tally.users.active_days IS 'number of days (UTC) with an event. Doesn''t add up: users share days';

CREATE VIEW tally.accounts WITH (security_invoker = true) AS
  SELECT tenant_id, account_id, min(first_at) AS first_seen, max(last_at) AS last_seen, sum(events)::int8 AS events,
         tally.day_count(tally.union_days(days)) AS active_days, count(DISTINCT user_id) AS users
    FROM tally_internal.user_activity_part GROUP BY tenant_id, account_id;
COMMENT ON VIEW tally.accounts IS 'every account in scope, from its first event on';
COMMENT ON COLUMN tally.accounts.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.accounts.account_id IS 'the account';
COMMENT ON COLUMN tally.accounts.first_seen IS 'time of its earliest event';
COMMENT ON COLUMN tally.accounts.last_seen IS 'time of its latest event';
COMMENT ON COLUMN tally.accounts.events IS 'number of its events. Adds up';
COMMENT ON COLUMN tally.accounts.active_days IS 'number of days (UTC) with an event. Doesn''t add up: accounts share days';
COMMENT ON COLUMN tally.accounts.users IS 'number of its users, exact. Doesn''t add up where accounts share users: count the rows of tally.users';

-- A session may lie in several months' buckets and in pending rows.
CREATE VIEW tally.sessions WITH (security_invoker = true) AS
  WITH part AS NOT MATERIALIZED (
    SELECT tenant_id, account_id, user_id, session_id, events, first_at, last_at, windows FROM tally.session_month_base
     UNION ALL
    SELECT tenant_id, account_id, user_id, session_id, events, first_at, last_at, windows FROM tally.session_pending
  )
  SELECT p.tenant_id, p.account_id, p.session_id, max(p.user_id) AS user_id, min(p.first_at) AS started_at,
         max(p.last_at) AS ended_at, sum(p.events)::int8 AS events
    FROM part AS p WHERE p.session_id IS NOT NULL GROUP BY p.tenant_id, p.account_id, p.session_id
   UNION ALL
  SELECT u.tenant_id, u.account_id, NULL, u.user_id, w.started_at, w.ended_at, w.events
    FROM (SELECT p.tenant_id, p.account_id, p.user_id, tally.union_session_windows(p.windows) AS windows
            FROM part AS p WHERE p.session_id IS NULL GROUP BY p.tenant_id, p.account_id, p.user_id) AS u
   CROSS JOIN LATERAL unnest(tally.session_window_starts(u.windows), tally.session_window_ends(u.windows),
                             tally.session_window_events(u.windows)) AS w (started_at, ended_at, events);
COMMENT ON VIEW tally.sessions IS
  'every session in scope: the events of an account with the same session_id; of a user''s events without one, those with no more than 30 minutes from each to the next';
COMMENT ON COLUMN tally.sessions.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally.sessions.account_id IS 'the account';
COMMENT ON COLUMN tally.sessions.session_id IS 'the session_id that was sent; null where the session was found by inactivity';
COMMENT ON COLUMN tally.sessions.user_id IS 'the user; of several in one session_id the greatest';
COMMENT ON COLUMN tally.sessions.started_at IS 'time of its first event';
COMMENT ON COLUMN tally.sessions.ended_at IS 'time of its last event';
COMMENT ON COLUMN tally.sessions.events IS 'number of its events. Adds up';

GRANT SELECT ON tally_internal.user_activity_part, tally.users, tally.accounts, tally.sessions TO tally_reader;
