\c - demo_app
\echo
\echo == Ingest: 50 batches of 1,000 events, each in its own transaction; then the same again, as after a lost answer ==
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
