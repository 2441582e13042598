#!/usr/bin/env bash
# Runs the tests that are SQL and expected output, each in a database of its own, cloned from tally_template.
# usage: sql-tier.sh regress|isolation [--accept] [NAME...]
#   regress    tests/regress/sql/NAME.sql, expected/NAME.out         (Postgres' pg_regress)
#   isolation  tests/isolation/specs/NAME.spec, expected/NAME.out    (Postgres' pg_isolation_regress)
#   --accept   takes what the named tests print now for their expected output; read the diff before you commit it
# There is no schedule that a test could be missing from: every file runs, and one without its counterpart is a failure.
# A file whose first line is "-- database: empty" gets a database without the extension.
. "$(dirname "$0")/../pgrx-config/paths.sh"

tier=${1:?regress or isolation}; shift
case $tier in
  regress) source=sql suffix=sql program=regress/pg_regress ;;
  isolation) source=specs suffix=spec program=isolation/pg_isolation_regress ;;
  *) fail "no tier is called '$tier'" ;;
esac
accept=
if [ "${1:-}" = --accept ]; then accept=yes; shift; [ $# -gt 0 ] || fail "--accept wants the names of tests"; fi

input=$ROOT/tests/$tier
output=$PRIVATE/results/$PG_MAJOR/$tier
rm -rf "$output"; mkdir -p "$output"
eval "$("$ROOT/pgrx-config/cluster.sh" env test)"
export PGHOST PGPORT PGUSER
sql() { "$SERVER/bin/psql" -X -q -v ON_ERROR_STOP=1 -d postgres "$@"; }

# Names the files of a folder that end in a suffix; nothing if there is no such folder.
names() { [ ! -d "$input/$1" ] || find "$input/$1" -maxdepth 1 -name "*.$2" -printf '%f\n' | sed "s/\.$2\$//" | sort; }
if [ $# -gt 0 ]; then tests=$*; else tests=$(names "$source" "$suffix"); fi

passed=0 failed=0
for name in $tests; do
  file=$input/$source/$name.$suffix
  [ -f "$file" ] || { echo "test $tier::$name ... FAILED: no file $source/$name.$suffix"; failed=$((failed + 1)); continue; }
  if [ -n "$accept" ]; then
    mkdir -p "$input/expected"; touch "$input/expected/$name.out"
  elif [ ! -f "$input/expected/$name.out" ]; then
    echo "test $tier::$name ... FAILED: no expected/$name.out"; failed=$((failed + 1)); continue
  fi
  template=tally_template
  [ "$(head -1 "$file")" != "-- database: empty" ] || template=template1
  database=tally_${tier}_$name
  sql -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" \
    -c "CREATE DATABASE $database TEMPLATE $template"
  began=$(date +%s%N)
  # The launcher undoes pg_regress' own time zone and date style: expected output is in UTC and ISO.
  if "$SERVER/lib/pgxs/src/test/$program" --use-existing --dbname="$database" --bindir="$SERVER/bin" \
    --inputdir="$input" --outputdir="$output" --host="$PGHOST" --port="$PGPORT" --user=postgres \
    --launcher="env PGTZ=UTC PGDATESTYLE=ISO" --max-connections=1 "$name" >"$output/$name.log" 2>&1; then
    echo "test $tier::$name ... ok ($((($(date +%s%N) - began) / 1000000)) ms)"
    passed=$((passed + 1))
  elif [ -n "$accept" ] && [ -f "$output/results/$name.out" ]; then
    cp "$output/results/$name.out" "$input/expected/$name.out"
    echo "test $tier::$name ... accepted"
  else
    echo "test $tier::$name ... FAILED"
    failed=$((failed + 1))
    if [ -s "$output/regression.diffs" ]; then cat "$output/regression.diffs"; else cat "$output/$name.log"; fi
  fi
  rm -f "$output/regression.diffs"
  sql -c "DROP DATABASE $database WITH (FORCE)"
done

# Expected output that nothing produces is a test that somebody believes in and nobody runs.
if [ $# = 0 ]; then
  for orphan in $(comm -13 <(names "$source" "$suffix") <(names expected out)); do
    # NAME_1.out is pg_regress' second accepted answer of NAME.
    [ ! -f "$input/$source/${orphan%_[0-9]}.$suffix" ] || continue
    echo "test $tier::$orphan ... FAILED: expected/$orphan.out has no $source/$orphan.$suffix"
    failed=$((failed + 1))
  done
  [ $((passed + failed)) -gt 0 ] || echo "no $tier tests yet: tests/$tier/$source is empty"
fi
echo "test result: $passed passed; $failed failed; 0 ignored"
[ "$failed" = 0 ]
