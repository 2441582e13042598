#!/usr/bin/env bash
# What the audit log costs, by processor time (schedstat), on the private cluster "bench", with what is installed there. The background worker
# is at work throughout. Each side in turn within one session, in blocks of 20 transactions, or of 20 queries:
#   ingest     calls of 100 events, a transaction each, by a trusted login that enters the tenant first, against the same calls that enter
#              nothing, of which nothing is recorded: entering counts as audit, too, so the truth is no dearer than what is printed. Of a
#              thousand tenants, each another one than in the call before, so that every call is an entry; and of one, whose repeats are counted.
#              The session has been in each tenant before, more than the 10 seconds ago within which repeats are counted. And the entry
#              alone: a thousand tenants, each entered and then entered again in the next block, when it is counted and no entry of its own.
#   dashboard  30 days of the daily rollup as a bound login, each query recorded (policy "all"), against none (policy "none").
#   seals      the age of the oldest entry without a seal, looked at five times a second while events come in; and what part of the worker's
#              time storing and sealing takes.
# usage: audit.sh [ROUNDS]    a round is 1,000 calls a side
. "$(dirname "$0")/../pgrx-config/paths.sh"
rounds=${1:-3}
cluster=$ROOT/pgrx-config/cluster.sh
own=$(mktemp -d)
watcher=
sql() { "$cluster" psql bench -q -X -At -v ON_ERROR_STOP=1 "$@"; }
finish() {
  [ -z "$watcher" ] || kill "$watcher"
  sql -d postgres -c 'ALTER SYSTEM RESET ALL' || true
  "$cluster" stop bench
  rm -rf "$own"
}
trap finish EXIT

"$cluster" start bench
sql -d postgres <<'S'
SET client_min_messages = warning;
LOAD 'pg_tally';
DROP DATABASE IF EXISTS tally_audit WITH (FORCE);
CREATE DATABASE tally_audit;
DO $$ DECLARE name text; BEGIN
  FOREACH name IN ARRAY '{audit_app,audit_bi,audit_worker}'::text[] LOOP
    BEGIN EXECUTE 'CREATE ROLE ' || name || ' LOGIN'; EXCEPTION WHEN duplicate_object THEN NULL; END;
  END LOOP;
END $$;
ALTER SYSTEM SET shared_preload_libraries = 'pg_tally';
ALTER SYSTEM SET tally.worker_databases = 'tally_audit';
ALTER SYSTEM SET tally.worker_role = 'audit_worker';
ALTER SYSTEM SET tally.worker_interval = 1;
ALTER SYSTEM SET track_functions = 'pl';
S
sql -d tally_audit <<'S'
CREATE EXTENSION pg_tally;
SET client_min_messages = warning;
GRANT tally_writer TO audit_app;
GRANT tally_reader TO audit_bi;
GRANT tally_admin TO audit_worker;
SELECT tally.trust_role('audit_app'), tally.bind_role('audit_bi', 'tenant1') \g /dev/null
S
"$cluster" stop bench
"$cluster" start bench

# Lines of a script for psql: calls of 100 events in blocks of 20, one that enters its tenants and one that doesn't, in turning order; and
# between them lines that note the session's processor time.
write_calls() { # tenants, round, whether the other side enters again
  sql -d tally_audit -v tenants="$1" -v round="$2" -v again="${3:-false}" -v mark="\\! echo %s \$(cut -d' ' -f1 /proc/\$PID/schedstat) >>$own/marks" <<'S'
WITH calls AS (
  SELECT call, block, CASE WHEN :again THEN block % 2 = 0 ELSE (block + block / 2) % 2 = 0 END AS is_entry, tenant FROM generate_series(0, 1999) AS call,
    LATERAL (SELECT call / 20 AS block, call / 40 * 20 + call % 20) AS b (block, tenant)),
texts AS (
  SELECT call, block, is_entry, format(E'BEGIN;\n%sSELECT accepted FROM tally.ingest($json$[%s]$json$);\nCOMMIT;',
           CASE WHEN is_entry OR :again THEN format(E'SELECT tally.enter(%L) \\g /dev/null\n', 'tenant' || tenant % :tenants) END,
           string_agg(format('{"tenant_id":"tenant%s","account_id":"account%s","name":"name%s","event_id":"%s-0000-4000-8000-%s","user_id":"user%s","session_id":"s%s","occurred_at":"%s","properties":{"value":%s,"plan":"p%s"}}',
             tenant % :tenants, n % 10, n % 7, lpad(:'round', 8, '0'), lpad((call * 100 + n)::text, 12, '0'), (call * 100 + n) * 7 % 9001, (call * 100 + n) / 3,
             to_char(date_trunc('day', now()) - (call * 100 + n) % 30 * interval '1 day', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), n, n % 3), ',' ORDER BY n)) AS text
    FROM calls, generate_series(0, 99) AS n GROUP BY call, block, is_entry, tenant)
SELECT * FROM (SELECT format(E'BEGIN;\nSELECT tally.enter(%L) \\g /dev/null\nCOMMIT;', 'tenant' || n) FROM generate_series(0, :tenants - 1) AS n) AS once
UNION ALL SELECT '\! sleep 11'
UNION ALL
SELECT * FROM (SELECT format(:'mark', 'other') || E'\n' || string_agg(text, E'\n' ORDER BY call) || E'\n' || format(:'mark', CASE WHEN is_entry THEN 'with' ELSE 'without' END)
  FROM texts GROUP BY block, is_entry ORDER BY block) AS blocks;
S
}

# Runs such a script as a login; every answer of a call must be as wanted.
run() { # login, script, answer, how often
  : >"$own/marks"
  { printf 'SELECT pg_backend_pid() AS pid \\gset\n\\setenv PID :pid\n'; cat "$2"; } | sql -d tally_audit -U "$1" >"$own/answers"
  [ "$(grep -cx "$3" "$own/answers")" = "$4" ] || fail "not every answer is \"$3\""
  # What each block took; the first pair warms the session.
  awk '$1 != "other" { print $1, $2 - last } { last = $2 }' "$own/marks" | tail -n +3 >>"$own/took"
}

report() { # label
  awk -v label="$1" '{ sum[$1] += $2; value[$1, ++count[$1]] = $2 }
    END { pairs = count["with"]; for (i = 1; i <= pairs; i++) { ratio = value["with", i] / value["without", i]
        for (j = i; j > 1 && sorted[j - 1] > ratio; j--) sorted[j] = sorted[j - 1]
        sorted[j] = ratio }
      printf "%s: %.0f ms without, %.0f with, ratio of the sums %.3f; of %d pairs of blocks the median %.3f (quartiles %.3f and %.3f)\n", label,
        sum["without"] / 1e6, sum["with"] / 1e6, sum["with"] / sum["without"], pairs,
        sorted[int((pairs + 1) / 2)], sorted[int((pairs + 3) / 4)], sorted[int((3 * pairs + 3) / 4)] }' "$own/took"
  : >"$own/took"
}

while sleep 0.2; do
  sql -d tally_audit -c "SELECT coalesce(extract(epoch FROM clock_timestamp() - unsealed_since), 0) FROM tally_internal.audit_state()"
done >"$own/lags" & watcher=$!
: >"$own/took"
for tenants in 1000 1; do
  for round in $(seq "$rounds"); do
    write_calls $tenants $((tenants + round)) >"$own/script"
    run audit_app "$own/script" 100 2000
  done
  report "ingest, tenants: $tenants"
done
for round in $(seq "$rounds"); do
  write_calls 1000 $((2000 + round)) true >"$own/script"
  run audit_app "$own/script" 100 2000
done
report "ingest, tenants: 1000, entered again"
kill $watcher
wait $watcher 2>/dev/null || true
watcher=
sort -n "$own/lags" | awk '{ value[NR] = $1 } END { printf "seals: %d looks, the oldest entry without one %.1f s old at the median, %.1f s at most\n", NR, value[int((NR + 1) / 2)], value[NR] }'
sql -d tally_audit -c "SELECT format('entries: %s, seals: %s', (SELECT count(*) FROM tally.audit_entry), (SELECT count(*) FROM tally.audit_seal))" \
  -c "SELECT format('of the worker''s time %s %% are storing and sealing, %s %% all the rest', round((100 * sum(total_time) FILTER (WHERE funcname = 'audit_step') / sum(total_time))::numeric, 1),
                    round((100 * sum(total_time) FILTER (WHERE funcname = 'maintain_step') / sum(total_time))::numeric, 1))
        FROM pg_stat_user_functions WHERE schemaname = 'tally_internal' AND funcname IN ('audit_step', 'maintain_step')"

# The policy is read anew by the next statement.
query="SELECT day, sum(events), max(users) FROM tally.usage_day WHERE day > current_date - 30 GROUP BY day ORDER BY day"
sql -d tally_audit -c 'VACUUM ANALYZE'
psql=$(printf '%q ' "$cluster" psql bench -q -X -At -d tally_audit)
for ((block = 0; block < 100 * rounds; block++)); do
  if (((block + block / 2) % 2)); then side=with policy=all; else side=without policy=none; fi
  echo "\\! $psql -c \"SELECT tally.set_audit_policy('$policy')\" >/dev/null"
  echo "SELECT 1 \\g /dev/null"
  echo "\\! echo other \$(cut -d' ' -f1 /proc/\$PID/schedstat) >>$own/marks"
  for _ in $(seq 20); do echo "$query \\g /dev/null"; done
  echo "SELECT 'rows', count(*) > 9 FROM tally.usage_day;"
  echo "\\! echo $side \$(cut -d' ' -f1 /proc/\$PID/schedstat) >>$own/marks"
done >"$own/script"
run audit_bi "$own/script" 'rows|t' $((100 * rounds))
report "dashboard, reads recorded"
sql -d tally_audit -c "SELECT format('reads recorded: %s', count(*)) FROM tally.audit WHERE act = 'read'"
