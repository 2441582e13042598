#!/usr/bin/env bash
# Shows the whole path at work on a private cluster: install, ingest, retry, read inside a scope, be refused outside.
# Starts from an empty database each time. The cluster stays up afterwards: `make psql` opens it, `make stop` stops it.
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"
cluster=$ROOT/pgrx-config/cluster.sh
began=$(date +%s%N)

"$cluster" start demo
# The generator is a program of its own: no extension code has a part in making what the extension is shown.
cargo build --quiet --locked --profile harness -p tally-story
mkdir -p "$PRIVATE/demo"
"${CARGO_TARGET_DIR:-target}/harness/tally-story" >"$PRIVATE/demo/batches.jsonl"

"$cluster" psql demo -q -d postgres -v ON_ERROR_STOP=1 -c 'SET client_min_messages = warning' \
  -c 'DROP DATABASE IF EXISTS tally_demo WITH (FORCE)' \
  -c 'DROP ROLE IF EXISTS demo_app, demo_tenant, demo_operator' -c 'CREATE DATABASE tally_demo'
cd demo
for chapter in install ingest read refuse; do
  PGOPTIONS='-c client_min_messages=warning' "$cluster" psql demo -q -d tally_demo -v ON_ERROR_STOP=1 \
    -v batches="$PRIVATE/demo/batches.jsonl" -P pager=off -P footer=off -f "$chapter.sql"
done
# By this `make dashboard` sees that the demo came to its end.
"$cluster" psql demo -q -d tally_demo -c "INSERT INTO demo_outcome (attempt) VALUES ('3 told')"
awk -v ns=$(($(date +%s%N) - began)) 'BEGIN { printf "\ndemo done in %.1f s; make psql opens its database, make dashboard shows it in a browser\n", ns / 1e9 }'
