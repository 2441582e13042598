-- What was removed before nobody had noted whose it was, nor had the rollup payment counted it.
INSERT INTO tally.raw_loss (whole_from, payments_from, tenant_id)
SELECT l.whole_from, l.whole_from, l.tenant_id
  FROM (SELECT greatest((SELECT max(d.raw_from) FROM tally.raw_horizon AS d), h.raw_from) AS whole_from, t.tenant_id
          FROM tally.tenant AS t LEFT JOIN tally.tenant_horizon AS h ON h.tenant_id OPERATOR(pg_catalog.=) t.tenant_id
        UNION ALL SELECT max(d.raw_from), '' FROM tally.raw_horizon AS d) AS l
 WHERE l.whole_from IS NOT NULL;
