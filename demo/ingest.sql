\c - demo_app
\echo
SELECT count(*) AS batches FROM demo_batch \gset
\echo == Ingest: the last 91 days of three tenants in :batches batches, each in its own transaction; then the same again, as after a lost answer ==
DO $$
DECLARE
  attempt text;
  chosen  int;
BEGIN
  FOREACH attempt IN ARRAY ARRAY['1 first', '2 again'] LOOP
    FOR chosen IN SELECT position FROM demo_batch ORDER BY position LOOP
      INSERT INTO demo_outcome
      SELECT attempt, s.accepted, s.duplicates, s.conflicts, s.rejected
        FROM tally.ingest((SELECT batch FROM demo_batch WHERE position = chosen)) AS s;
      COMMIT;
    END LOOP;
  END LOOP;
END
$$;
SELECT attempt, count(*) AS batches, sum(accepted) AS accepted, sum(duplicates) AS duplicates,
       sum(conflicts) AS conflicts, sum(rejected) AS rejected
  FROM demo_outcome GROUP BY attempt ORDER BY attempt;

\echo == A client with a broken clock and a wrong key: both events are kept, with the reason ==
-- The key is that of the first event of all.
SELECT s.accepted, s.conflicts, s.rejected
  FROM demo_batch AS b
 CROSS JOIN LATERAL (SELECT b.batch::json -> 0 ->> 'event_id' AS key) AS first
 CROSS JOIN LATERAL tally.ingest(json_build_array(
   json_build_object('tenant_id', 'acme', 'account_id', 'harbor-foods', 'name', 'report.run', 'occurred_at', now() + interval '3 days',
                     'event_id', '00000000-0000-4000-8000-00000000dead'),
   json_build_object('tenant_id', b.batch::json -> 0 ->> 'tenant_id', 'account_id', 'harbor-foods', 'name', 'report.deleted',
                     'occurred_at', now(), 'event_id', first.key))) AS s
 WHERE b.position = 1;
