-- Months that are there, and those that somebody took out by hand: of these the rollup usage has numbers.
INSERT INTO tally.raw_month (month, lost_at)
SELECT m.month, CASE WHEN pg_catalog.bool_or(m.is_there) THEN NULL ELSE pg_catalog.now() END
  FROM (SELECT pg_catalog.make_timestamptz(pg_catalog.substr(c.relname, 9, pg_catalog.length(c.relname) OPERATOR(pg_catalog.-) 11)::pg_catalog.int4,
                 pg_catalog."right"(c.relname, 2)::pg_catalog.int4, 1, 0, 0, 0, 'UTC') AS month, true AS is_there
          FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
         WHERE i.inhparent OPERATOR(pg_catalog.=) 'tally.events'::pg_catalog.regclass AND c.relname OPERATOR(pg_catalog.~) '^events_p[0-9]{4,}_[0-9]{2}$'
        UNION ALL SELECT pg_catalog.date_trunc('month', u.bucket, 'UTC'), false FROM tally.usage_day_base AS u
        UNION ALL SELECT pg_catalog.date_trunc('month', u.bucket, 'UTC'), false FROM tally.usage_pending AS u) AS m
 WHERE m.is_there OR m.month OPERATOR(pg_catalog.>=) coalesce((SELECT pg_catalog.max(d.raw_from) FROM tally.raw_horizon AS d), '-infinity')
 GROUP BY m.month;
-- What was removed before nobody had noted whose it was, nor had the rollup payment counted it.
INSERT INTO tally.raw_loss (whole_from, payments_from, tenant_id)
SELECT l.whole_from, l.whole_from, l.tenant_id
  FROM (SELECT greatest((SELECT max(d.raw_from) FROM tally.raw_horizon AS d), h.raw_from) AS whole_from, t.tenant_id
          FROM tally.tenant AS t LEFT JOIN tally.tenant_horizon AS h ON h.tenant_id OPERATOR(pg_catalog.=) t.tenant_id
        UNION ALL SELECT max(d.raw_from), '' FROM tally.raw_horizon AS d) AS l
 WHERE l.whole_from IS NOT NULL;
INSERT INTO tally.raw_loss AS l (whole_from, payments_from, tenant_id)
SELECT m.month_end, m.month_end, m.tenant_id
  FROM (SELECT u.tenant_id, pg_catalog.max(pg_catalog.date_trunc('month', g.month OPERATOR(pg_catalog.+) interval '32 days', 'UTC')) AS month_end
          FROM tally.raw_month AS g
          JOIN (SELECT b.tenant_id, b.bucket FROM tally.usage_day_base AS b UNION ALL SELECT p.tenant_id, p.bucket FROM tally.usage_pending AS p) AS u
            ON g.month OPERATOR(pg_catalog.=) pg_catalog.date_trunc('month', u.bucket, 'UTC')
         WHERE g.lost_at IS NOT NULL GROUP BY 1) AS m
    ON CONFLICT (tenant_id) DO UPDATE SET whole_from = greatest(l.whole_from, excluded.whole_from),
       payments_from = greatest(l.payments_from, excluded.payments_from);
