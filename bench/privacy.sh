#!/usr/bin/env bash
# What protecting costs ingest, by the processor time of the session that ingests: rounds of 100,000 events in batches of 2,000, rollups as
# installed, each side in turn. Two properties tokenised against nothing declared; and, where another build of the library is given,
# this one against that, nothing declared. Uses what is installed on the private cluster "bench".
# usage: privacy.sh [PAIRS [OTHER_LIBRARY]]
. "$(dirname "$0")/../pgrx-config/paths.sh"
pairs=${1:-5} other=${2:-}
cluster=$ROOT/pgrx-config/cluster.sh
library=$("$SERVER/bin/pg_config" --pkglibdir)/pg_tally.so
"$cluster" start bench
own=$(mktemp -d)
cp "$library" "$own/present.so"
use() { cp "$1" "$library.new" && mv "$library.new" "$library"; }
trap 'use "$own/present.so"; rm -rf "$own" /tmp/tally_bench.key; "$cluster" stop bench' EXIT
sql() { "$cluster" psql bench -q -X -At -v ON_ERROR_STOP=1 "$@"; }

make_database() {
  sql -d postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1"
  sql -d postgres -c "COPY (SELECT repeat('ab', 32)) TO PROGRAM 'umask 077; cat > /tmp/tally_bench.key'" 
  sql -d postgres -c "ALTER DATABASE $1 SET tally.key_file = '/tmp/tally_bench.key'"
  sql -d "$1" <<'S'
CREATE EXTENSION pg_tally;
SELECT tally.open_months('2026-03-01') \g /dev/null
CREATE UNLOGGED TABLE batch AS
  SELECT b AS number, (SELECT jsonb_agg(jsonb_build_object('tenant_id', 't' || n % 5, 'account_id', 'a' || n % 50, 'name', 'n' || n % 20,
           'event_id', 'RRRRRRRR-0000-4000-8000-' || lpad((b * 2000 + n)::text, 12, '0'), 'user_id', 'u' || (b * 2000 + n) * 7 % 9001, 'session_id', 's' || (b * 2000 + n) / 3,
           'occurred_at', timestamptz '2026-03-01Z' + (b * 2000 + n) * interval '20 seconds',
           'properties', jsonb_build_object('email', 'user' || (b * 2000 + n) * 7 % 9001 || '@mail.example', 'name', 'Name Of ' || md5(n::text), 'plan', 'p' || n % 3, 'value', n)))
         FROM generate_series(0, 1999) AS n)::text AS events
    FROM generate_series(0, 49) AS b;
VACUUM ANALYZE batch;
S
}

# Nanoseconds of processor time of each batch; every event must be accepted.
round() {
  sql -d "$1" <<S
CREATE TEMP TABLE took (number int, ns bigint);
CREATE FUNCTION pg_temp.used() RETURNS bigint LANGUAGE sql AS \$\$ SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint \$\$;
SELECT accepted FROM tally.ingest('[]') \g /dev/null
DO \$\$ DECLARE b record; got bigint; began bigint; BEGIN
  FOR b IN SELECT number, replace(events, 'RRRRRRRR', lpad('$2', 8, '0')) AS events FROM batch ORDER BY number LOOP
    began := pg_temp.used();
    SELECT accepted INTO STRICT got FROM tally.ingest(b.events);
    COMMIT;
    INSERT INTO took VALUES (b.number, pg_temp.used() - began);
    ASSERT got = 2000, got;
  END LOOP;
END \$\$;
SELECT number, ns FROM took;
S
}

# Of all rounds, and of each batch's round that took least: others on the machine make one take longer, nothing makes it take less.
report() { # label; lines "SIDE BATCH NANOSECONDS"
  awk -v label="$1" '{ all[$1] += $3; key = $1 " " $2; if (!(key in least) || $3 < least[key]) least[key] = $3 }
    END { for (key in least) { split(key, part, " "); sum[part[1]] += least[key] }
      printf "%s: %.0f and %.0f ms of processor time, ratio %.3f; of each batch the least %.0f and %.0f ms, ratio %.3f\n", label,
        all["a"] / 1e6, all["b"] / 1e6, all["b"] / all["a"], sum["a"] / 1e6, sum["b"] / 1e6, sum["b"] / sum["a"] }'
}

side() { # side, database, number of the round
  round "$2" "$3" | tr '|' ' ' | sed "s/^/$1 /"
}

make_database tally_plain
make_database tally_protected
sql -d tally_protected -c "SELECT tally.protect_property(NULL, 'email', 'token'), tally.protect_property(NULL, 'name', 'token')" -c 'CALL tally.maintain()' >/dev/null
round tally_plain 1 >/dev/null
round tally_protected 1 >/dev/null
for pair in $(seq "$pairs"); do
  if ((pair % 2)); then order="plain protected"; else order="protected plain"; fi
  for which in $order; do
    [ "$which" = plain ] && name=a || name=b
    side "$name" "tally_$which" $((pair + 1))
  done
done | report 'nothing declared, and two properties tokenised'
[ -n "$other" ] || exit 0
for pair in $(seq "$pairs"); do
  number=$((1000 + 2 * pair))
  if ((pair % 2)); then order="$other $own/present.so"; else order="$own/present.so $other"; fi
  for build in $order; do
    use "$build"
    [ "$build" = "$other" ] && name=a || name=b
    side "$name" tally_plain "$number"
    number=$((number + 1))
  done
done | report 'the other library, and this one, nothing declared'
