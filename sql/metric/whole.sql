-- What metrics rest on: from when on the raw events of each tenant are whole, what is kept of the earlier ones for ever, and
-- what is said where that doesn't suffice.

CREATE TABLE tally.raw_loss (
  whole_from    timestamptz NOT NULL,
  payments_from timestamptz NOT NULL DEFAULT '-infinity',
  tenant_id     text COLLATE "C" NOT NULL CONSTRAINT raw_loss_pkey PRIMARY KEY
);
COMMENT ON TABLE tally.raw_loss IS 'tenants whose raw events went with months that were dropped or detached';
COMMENT ON COLUMN tally.raw_loss.whole_from IS 'earlier raw events are gone; tenant_horizon has what the tenant''s own retention removed';
COMMENT ON COLUMN tally.raw_loss.payments_from IS 'earlier amounts are missing in the rollup payment, too: they were gone before it was declared';
COMMENT ON COLUMN tally.raw_loss.tenant_id IS 'the tenant; empty for how far such months were looked through';

ALTER TABLE tally.raw_loss OWNER TO tally_owner;
SELECT tally_internal.secure_table('tally.raw_loss');
REVOKE ALL ON tally.raw_loss FROM PUBLIC;
GRANT SELECT ON tally.raw_loss TO tally_analyst, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.raw_loss', '');

CREATE FUNCTION tally_internal.record_losses(months timestamptz[]) RETURNS void
  LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
  INSERT INTO tally.raw_loss AS l (tenant_id, whole_from)
  SELECT u.tenant_id, max(m.start + interval '1 month')
    FROM unnest(months) AS m (start)
    JOIN (SELECT tenant_id, bucket FROM tally.usage_day_base UNION ALL SELECT tenant_id, bucket FROM tally.usage_pending) AS u
      ON u.bucket >= m.start AND u.bucket < m.start + interval '1 month'
   GROUP BY 1 ORDER BY 1
  ON CONFLICT (tenant_id) DO UPDATE SET whole_from = excluded.whole_from WHERE l.whole_from < excluded.whole_from
$$;
COMMENT ON FUNCTION tally_internal.record_losses(timestamptz[]) IS
  'notes whose raw events went with months (UTC) that were taken out by hand: of the tenants of which the rollup usage has counted some there';
REVOKE ALL ON FUNCTION tally_internal.record_losses(timestamptz[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.record_losses(timestamptz[]) TO tally_owner;

CREATE FUNCTION tally_internal.has_numbers(month timestamptz) RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
  SELECT EXISTS (SELECT FROM tally.usage_day_base AS u WHERE u.bucket >= month AND u.bucket < month + interval '1 month')
      OR EXISTS (SELECT FROM tally.usage_pending AS u WHERE u.bucket >= month AND u.bucket < month + interval '1 month')
$$;
COMMENT ON FUNCTION tally_internal.has_numbers(timestamptz) IS
  'whether the rollup usage has counted events of a month, which begins then (UTC)';
REVOKE ALL ON FUNCTION tally_internal.has_numbers(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.has_numbers(timestamptz) TO tally_owner;

CREATE VIEW tally_internal.usage_hour_part WITH (security_invoker = true) AS
  SELECT tenant_id, account_id, bucket, name, events, value_sum, first_at, last_at FROM tally.usage_hour_base
   UNION ALL
  SELECT tenant_id, account_id, bucket, name, events, value_sum, first_at, last_at FROM tally.usage_pending;
COMMENT ON VIEW tally_internal.usage_hour_part IS 'events by account, name and hour, in parts that the metrics add up as they read';
COMMENT ON COLUMN tally_internal.usage_hour_part.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally_internal.usage_hour_part.account_id IS 'the account';
COMMENT ON COLUMN tally_internal.usage_hour_part.bucket IS 'start of the hour (UTC)';
COMMENT ON COLUMN tally_internal.usage_hour_part.name IS 'name of the events';
COMMENT ON COLUMN tally_internal.usage_hour_part.events IS 'number of events';
COMMENT ON COLUMN tally_internal.usage_hour_part.value_sum IS 'sum of their property value';
COMMENT ON COLUMN tally_internal.usage_hour_part.first_at IS 'time of the earliest';
COMMENT ON COLUMN tally_internal.usage_hour_part.last_at IS 'time of the latest';

CREATE VIEW tally_internal.usage_day_part WITH (security_invoker = true) AS
  SELECT tenant_id, account_id, bucket, name, events, first_at, last_at FROM tally.usage_day_base
   UNION ALL
  SELECT tenant_id, account_id, bucket, name, events, first_at, last_at FROM tally.usage_pending;
COMMENT ON VIEW tally_internal.usage_day_part IS 'events by account, name and day or part of a day, in parts that the metrics add up as they read';
COMMENT ON COLUMN tally_internal.usage_day_part.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally_internal.usage_day_part.account_id IS 'the account';
COMMENT ON COLUMN tally_internal.usage_day_part.bucket IS 'start of the day, of what is pending of the hour (UTC)';
COMMENT ON COLUMN tally_internal.usage_day_part.name IS 'name of the events';
COMMENT ON COLUMN tally_internal.usage_day_part.events IS 'number of events';
COMMENT ON COLUMN tally_internal.usage_day_part.first_at IS 'time of the earliest';
COMMENT ON COLUMN tally_internal.usage_day_part.last_at IS 'time of the latest';

CREATE VIEW tally_internal.payment_part WITH (security_invoker = true) AS
  SELECT tenant_id, account_id, bucket, name, currency, payments, amount, first_at, last_at FROM tally.payment_day_base
   UNION ALL
  SELECT tenant_id, account_id, bucket, name, currency, payments, amount, first_at, last_at FROM tally.payment_pending;
COMMENT ON VIEW tally_internal.payment_part IS 'amounts by account, name of event, currency and day, in parts that the metrics add up as they read';
COMMENT ON COLUMN tally_internal.payment_part.tenant_id IS 'the tenant';
COMMENT ON COLUMN tally_internal.payment_part.account_id IS 'the account';
COMMENT ON COLUMN tally_internal.payment_part.bucket IS 'start of the day (UTC)';
COMMENT ON COLUMN tally_internal.payment_part.name IS 'name of the events';
COMMENT ON COLUMN tally_internal.payment_part.currency IS 'their property currency; a text of more than 200 bytes cut, with a hash of the whole';
COMMENT ON COLUMN tally_internal.payment_part.payments IS 'number of events with a number as their property amount';
COMMENT ON COLUMN tally_internal.payment_part.amount IS 'sum of these numbers';
COMMENT ON COLUMN tally_internal.payment_part.first_at IS 'time of the earliest';
COMMENT ON COLUMN tally_internal.payment_part.last_at IS 'time of the latest';
GRANT SELECT ON tally_internal.usage_hour_part, tally_internal.usage_day_part, tally_internal.payment_part TO tally_reader;

CREATE FUNCTION tally_internal.raw_horizons() RETURNS TABLE (tenant_id text, whole_from timestamptz, payments_from timestamptz)
  LANGUAGE c STABLE PARALLEL SAFE STRICT ROWS 20 AS 'MODULE_PATHNAME', 'raw_horizons_wrapper';
COMMENT ON FUNCTION tally_internal.raw_horizons() IS
  'the tenants in scope whose raw events may be gone, as of now: before whole_from events, before payments_from also what the rollup payment would have of them; no month is dropped until the transaction ends';

CREATE FUNCTION tally_internal.warn_unconfined() RETURNS void
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'warn_unconfined_wrapper';
COMMENT ON FUNCTION tally_internal.warn_unconfined() IS
  'a warning, once a statement, where row security hides nothing from the caller and the scope is not global';

CREATE FUNCTION tally_internal.lost_until(names text[], "from" timestamptz, "to" timestamptz, account text DEFAULT NULL)
  RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
  -- What came to pass is kept by day for ever, so that who never had events there lost none.
  SELECT max(h.whole_from) FROM tally_internal.raw_horizons() AS h
   WHERE h.whole_from > "from"
     AND EXISTS (SELECT FROM tally_internal.usage_day_part AS u
                  WHERE u.tenant_id = h.tenant_id COLLATE "C" AND u.bucket < h.whole_from
                    AND u.bucket >= date_trunc('day', "from", 'UTC')
                    AND u.last_at >= "from" AND u.first_at < "to"
                    AND (names IS NULL OR u.name = ANY (names)) AND (account IS NULL OR u.account_id = account))
$$;
COMMENT ON FUNCTION tally_internal.lost_until(text[], timestamptz, timestamptz, text) IS
  'the moment from which on all raw events in scope of these names (null for any) and this account (null for all) from "from" to "to" are there; null where none is gone';

CREATE FUNCTION tally_internal.times_lost_until(event text, "from" timestamptz, "to" timestamptz, unit text, account text)
  RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
  -- How often an account did something is kept by hour; of a user only on which days.
  SELECT l.lost FROM (SELECT tally_internal.lost_until(CASE WHEN event IS NOT NULL THEN ARRAY[event] END, "from", "to", account) AS lost) AS l
   WHERE l.lost IS NOT NULL
     AND (unit <> 'account'
          OR EXISTS (SELECT FROM tally_internal.raw_horizons() AS h JOIN tally_internal.usage_hour_part AS u ON u.tenant_id = h.tenant_id COLLATE "C"
                      WHERE u.bucket < h.whole_from AND u.bucket >= date_trunc('hour', "from", 'UTC') AND u.bucket < "to"
                        AND u.last_at >= "from" AND u.first_at < "to" AND (u.first_at < "from" OR u.last_at >= "to")
                        AND (event IS NULL OR u.name = event) AND (account IS NULL OR u.account_id = account)))
$$;
COMMENT ON FUNCTION tally_internal.times_lost_until(text, timestamptz, timestamptz, text, text) IS
  'as tally_internal.lost_until(), for how often units had events of a name (null for any) in this account (null for all): null, too, where the rollup usage tells it';

CREATE FUNCTION tally_internal.refuse_incomplete(whole_from timestamptz) RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone constant text := format('raw events from before %s, which this answer rests on, are gone', whole_from);
BEGIN
  IF current_setting('tally.incomplete', true) = 'mark' THEN
    RAISE WARNING USING ERRCODE = '55T20', MESSAGE = gone,
      HINT = format('what has exact = false doesn''t count them; from %s on the raw events are whole', whole_from);
  ELSE
    RAISE EXCEPTION USING ERRCODE = '55T20', MESSAGE = gone,
      HINT = format('from %s on the raw events are whole: ask for a range from there on, or set tally.incomplete to mark to have the answer with exact = false', whole_from);
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.refuse_incomplete(timestamptz) IS
  'says that raw events from before a moment are gone: as an error, or as a warning where tally.incomplete is mark; nothing for null';

CREATE FUNCTION tally_internal.kept_totals(event text, "from" timestamptz, "to" timestamptz, account text, OUT events int8, OUT value_sum numeric,
    OUT payments int8, OUT amount numeric, OUT events_split boolean, OUT payments_split boolean)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- A horizon lies at midnight, so that no bucket has events of before and after it.
  -- Asked once: each part of the answer must begin where the other ends, also while a horizon moves.
  WITH horizon AS MATERIALIZED (SELECT * FROM tally_internal.raw_horizons())
  SELECT coalesce(sum(n.events), 0), sum(n.value_sum), coalesce(sum(n.payments), 0), sum(n.amount),
         coalesce(bool_or(n.events_split), false), coalesce(bool_or(n.payments_split), false)
    INTO kept_totals.events, kept_totals.value_sum, kept_totals.payments, kept_totals.amount, events_split, payments_split
    FROM (SELECT count(*) AS events, sum(tally.property_number(e.properties, 'value')) AS value_sum,
                 count(tally.property_number(e.properties, 'amount')) AS payments,
                 sum(tally.property_number(e.properties, 'amount')) AS amount, false AS events_split, false AS payments_split
            FROM tally.events AS e LEFT JOIN horizon AS h ON h.tenant_id COLLATE "C" = e.tenant_id
           WHERE e.occurred_at >= "from" AND e.occurred_at < "to" AND (event IS NULL OR e.name = event)
             AND (account IS NULL OR e.account_id = account) AND (h.whole_from IS NULL OR e.occurred_at >= h.whole_from)
          UNION ALL
          SELECT sum(u.events) FILTER (WHERE u.first_at >= "from" AND u.last_at < "to"),
                 sum(u.value_sum) FILTER (WHERE u.first_at >= "from" AND u.last_at < "to"), 0, NULL,
                 bool_or(u.first_at < "from" OR u.last_at >= "to"), false
            FROM horizon AS h JOIN tally_internal.usage_hour_part AS u ON u.tenant_id = h.tenant_id COLLATE "C"
           WHERE u.bucket < h.whole_from AND u.bucket >= date_trunc('hour', "from", 'UTC') AND u.bucket < "to"
             AND u.last_at >= "from" AND u.first_at < "to" AND (event IS NULL OR u.name = event)
             AND (account IS NULL OR u.account_id = account)
          UNION ALL
          SELECT 0, NULL, sum(p.payments) FILTER (WHERE p.first_at >= "from" AND p.last_at < "to"),
                 sum(p.amount) FILTER (WHERE p.first_at >= "from" AND p.last_at < "to"), false,
                 bool_or(p.first_at < "from" OR p.last_at >= "to")
            FROM horizon AS h JOIN tally_internal.payment_part AS p ON p.tenant_id = h.tenant_id COLLATE "C"
           WHERE p.bucket < h.whole_from AND p.bucket >= date_trunc('day', "from", 'UTC') AND p.bucket < "to"
             AND p.last_at >= "from" AND p.first_at < "to" AND (event IS NULL OR p.name = event)
             AND (account IS NULL OR p.account_id = account)) AS n;
  -- Where the rollup was declared after a loss, it doesn't know what was lost.
  payments_split := payments_split OR EXISTS (
    SELECT FROM tally_internal.raw_horizons() AS h JOIN tally_internal.usage_day_part AS u ON u.tenant_id = h.tenant_id COLLATE "C"
     WHERE u.bucket < h.payments_from AND u.last_at >= "from" AND u.first_at < "to" AND (event IS NULL OR u.name = event)
       AND (account IS NULL OR u.account_id = account));
END
$$;
COMMENT ON FUNCTION tally_internal.kept_totals(text, timestamptz, timestamptz, text) IS
  'numbers of a range in scope, of an account (null for all), from raw events and, where these are gone, from the rollups usage and payment: events of a name (null for any), sum of value; events with an amount, sum of amount; split where a bucket at an end of the range can''t be divided, or isn''t known';

CREATE FUNCTION tally_internal.kept_units(event text, "from" timestamptz, "to" timestamptz, unit text, account text, OUT units int8, OUT split boolean)
  RETURNS record
  LANGUAGE plpgsql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  -- The days that lie in the range as a whole, and those that it touches.
  inner_first date := ("from" + interval '1 day' - interval '1 microsecond')::date;
  inner_last  date := "to"::date - 1;
  outer_first date := "from"::date;
  outer_last  date := ("to" - interval '1 microsecond')::date;
BEGIN
  SELECT count(*) FILTER (WHERE u.seen), coalesce(bool_or(NOT u.seen), false) INTO kept_units.units, split
    FROM (SELECT n.tenant_id, n.unit_id, bool_or(n.seen) AS seen
            FROM (SELECT e.tenant_id, CASE unit WHEN 'user' THEN e.user_id ELSE e.account_id END AS unit_id, true AS seen
                    FROM tally.events AS e LEFT JOIN tally_internal.raw_horizons() AS h ON h.tenant_id COLLATE "C" = e.tenant_id
                   WHERE e.occurred_at >= "from" AND e.occurred_at < "to" AND (event IS NULL OR e.name = event)
                     AND (account IS NULL OR e.account_id = account) AND (h.whole_from IS NULL OR e.occurred_at >= h.whole_from)
                  UNION ALL
                  SELECT a.tenant_id, CASE unit WHEN 'user' THEN a.user_id ELSE a.account_id END,
                         d.seen OR (a.first_at >= "from" AND a.first_at < "to") OR (a.last_at >= "from" AND a.last_at < "to")
                    FROM tally_internal.raw_horizons() AS h JOIN tally_internal.user_activity_part AS a ON a.tenant_id = h.tenant_id COLLATE "C"
                   CROSS JOIN LATERAL (
                     SELECT bool_or(day BETWEEN inner_first AND inner_last) AS seen FROM unnest(tally.day_list(a.days)) AS day
                      WHERE day BETWEEN outer_first AND outer_last AND day < h.whole_from::date) AS d
                   WHERE a.first_at < least("to", h.whole_from) AND a.last_at >= "from" AND (event IS NULL OR a.name = event)
                     AND (account IS NULL OR a.account_id = account) AND d.seen IS NOT NULL) AS n
           WHERE n.unit_id IS NOT NULL GROUP BY 1, 2) AS u;
END
$$;
COMMENT ON FUNCTION tally_internal.kept_units(text, timestamptz, timestamptz, text, text) IS
  'distinct units in scope with an event of a name (null for any) in a range, in an account (null for all), from raw events and, where these are gone, from the enriched layer; split where a unit may have had its events on a day of which the range has a part';

REVOKE ALL ON FUNCTION tally_internal.raw_horizons(), tally_internal.warn_unconfined(), tally_internal.lost_until(text[], timestamptz, timestamptz, text),
  tally_internal.times_lost_until(text, timestamptz, timestamptz, text, text), tally_internal.refuse_incomplete(timestamptz), tally_internal.kept_totals(text, timestamptz, timestamptz, text),
  tally_internal.kept_units(text, timestamptz, timestamptz, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.raw_horizons(), tally_internal.warn_unconfined(), tally_internal.lost_until(text[], timestamptz, timestamptz, text),
  tally_internal.times_lost_until(text, timestamptz, timestamptz, text, text), tally_internal.refuse_incomplete(timestamptz), tally_internal.kept_totals(text, timestamptz, timestamptz, text),
  tally_internal.kept_units(text, timestamptz, timestamptz, text, text) TO tally_reader;
