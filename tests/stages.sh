#!/usr/bin/env bash
# Runs stages in order, prints how long each took, and ends with "N passed, N failed" over all tests.
# usage: stages.sh STAGE...    a failed stage does not stop those after it, except that nothing runs without a build
#   TALLY_RESULTS  a file to which "stage passed failed skipped seconds" lines are added; the caller then prints the sum
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"
mkdir -p "$LOGS"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto} TALLY_SKIPPED=$LOGS/skipped.$$ TALLY_UNSTEADY=$LOGS/unsteady.$$
trap 'rm -f "$TALLY_SKIPPED" "$TALLY_UNSTEADY"' EXIT

stage_fmt() { cargo fmt --all --check; }
stage_clippy() {
  ./pgrx-config/private-postgres.sh
  cargo clippy --locked --profile harness --workspace --all-targets --no-default-features --features "pg$PG_MAJOR" -- -D warnings
}
stage_dependencies() { ./tests/dependencies.sh; }
stage_other-versions() { ./tests/other-versions.sh; }
stage_pgspot() { ./tests/pgspot.sh; }
stage_unit() { cargo test --locked --no-fail-fast --profile harness -p tally-core -p tally-schema -p tally-workload -p tally-story -p tally-verify -p tally-bench; }
stage_build() { ./pgrx-config/install-extension.sh; ./tests/template-database.sh; }
stage_regress() { ./tests/sql-tier.sh regress; }
stage_isolation() { ./tests/sql-tier.sh isolation; }
stage_server-tests() { cargo test --locked --no-run --profile harness -p tally-server-tests; }
# Of the same, what depends on Postgres' own ways: hooks, commands, settings, catalogs, plans, replication, dumps and upgrades.
by_major="administrator ambient bindings capture confined corruption differential export expressions failover hostile_arguments installation
  limits lineage lint package pg_upgrade pgbouncer quota readable replicated restore row_limit upgrade worker"
stage_server-by-major() { server_tests -- $(printf '%s:: ' $by_major); }
stage_server() { server_tests; }
# These depend on many processes' timing. One or two that fail are run once more, alone: who passes then is told as unsteady, which asks
# for its cause as a failure does, but doesn't stand for all others.
server_tests() {
  local run=(cargo test --locked --no-fail-fast --profile harness -p tally-server-tests) output program test failed
  output=$(mktemp)
  if "${run[@]}" "$@" 2>&1 | tee "$output"; then rm "$output"; return 0; fi
  mapfile -t failed < <(awk '/^ +Running tests\// { split($2, path, "/"); program = path[2] } /^test .* FAILED$/ { print program, $2 }' "$output")
  # A program that ends by a signal names no test.
  local programs
  programs=$(grep -c '^error: test failed, to rerun pass' "$output") || true
  rm "$output"
  [ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le 2 ] || return 1
  [ "$(printf '%s\n' "${failed[@]% *}" | sort -u | wc -l)" = "$programs" ] || return 1
  local code=0
  for test in "${failed[@]}"; do
    read -r program test <<<"$test"
    echo "once more, alone: $test of $program"
    if "${run[@]}" --test "$program" -- --exact "$test"; then
      echo "$test failed and then passed alone" >>"$TALLY_UNSTEADY"
    else
      code=1
    fi
  done
  return $code
}
# Outside of the chroots of suite.sh: it makes a root of its own.
stage_package() {
  local code=0
  ./tests/package.sh || code=$?
  if [ "$code" = 77 ]; then
    echo "the package of PostgreSQL $PG_MAJOR wasn't installed anywhere" >>"$TALLY_SKIPPED"
  elif [ "$code" != 0 ]; then
    return "$code"
  fi
  echo "test result: ok. 1 passed; 0 failed; 0 ignored"
}
stage_server-log() { ./tests/server-log.sh; }

now() { date +%s%N; }
seconds() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", (to - from) / 1e9 }'; }

results=${TALLY_RESULTS:-$(mktemp)}
failed_stages= built=yes number=0
for stage in "$@"; do
  number=$((number + 1))
  case $stage in
    regress | isolation | server*)
      if [ "$built" = no ]; then echo "--- $stage not run: the build failed"; echo "$stage 0 0 0 0" >>"$results"; continue; fi ;;
  esac
  echo "=== $number/$#: $stage"
  : >"$TALLY_SKIPPED"
  : >"$TALLY_UNSTEADY"
  began=$(now) code=0
  # A subshell of its own with set -e: inside an `if` or before `||`, bash would go on after a failed command.
  set +e
  (set -e; "stage_$stage") </dev/null 2>&1 | tee "$LOGS/stage-$stage.log"
  code=${PIPESTATUS[0]}
  set -e
  skipped=$(wc -l <"$TALLY_SKIPPED")
  sed 's/^/SKIPPED: /' "$TALLY_SKIPPED"
  sed 's/^/UNSTEADY: /' "$TALLY_UNSTEADY"
  # cargo test and the SQL tiers end alike: "test result: ok. 3 passed; 0 failed; 1 ignored".
  read -r passed failed ignored < <(awk '/^test result:/ { for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) g += $(i-1) } }
    END { print p + 0, f + 0, g + 0 }' "$LOGS/stage-$stage.log")
  # A test that found its input missing returns early, which its harness counts as passed.
  passed=$((passed - skipped)) skipped=$((skipped + ignored)) failed=$((failed - $(wc -l <"$TALLY_UNSTEADY")))
  if [ "$code" != 0 ]; then
    [ "$failed" -gt 0 ] || failed=1
    failed_stages+=" $stage"
    [ "$stage" != build ] || built=no
    verdict=FAILED
  else
    verdict=ok
  fi
  took=$(seconds "$began")
  if grep -q '^test result:' "$LOGS/stage-$stage.log"; then verdict+=", $passed passed, $failed failed, $skipped skipped"; fi
  echo "--- $stage $verdict, $took s"
  echo "$stage $passed $failed $skipped $took" >>"$results"
done

# What a test that failed said, once more: it stands far above.
for stage in $failed_stages; do
  grep -hE -A 3 "^thread '.*panicked at" "$LOGS/stage-$stage.log" 2>/dev/null | head -60 || true
done
if [ -n "$failed_stages" ]; then echo "failed stages:$failed_stages (logs in $LOGS)"; fi
if [ -z "${TALLY_RESULTS:-}" ]; then
  awk '{ p += $2; f += $3; s += $4; t += $5 } END { if (s) print s " skipped"; printf "%d passed, %d failed\n", p, f }' "$results"
  rm -f "$results"
fi
[ -z "$failed_stages" ]
