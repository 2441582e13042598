#!/usr/bin/env bash
# Runs the paired benchmarks on a private cluster of their own, with fsync on.
# usage: run.sh [ROUNDS [bloat|ingest|doors|rollups|sketches|dashboards|funnels|retention|scopes]]
. "$(dirname "$0")/../pgrx-config/paths.sh"
cluster=$ROOT/pgrx-config/cluster.sh
"$ROOT/pgrx-config/install-extension.sh"
"$cluster" start bench
trap '"$cluster" stop bench' EXIT
"$cluster" psql bench -q -d postgres -v ON_ERROR_STOP=1 -c 'SET client_min_messages = warning' \
  -c 'DROP DATABASE IF EXISTS tally_bench WITH (FORCE)' -c 'CREATE DATABASE tally_bench'
eval "$("$cluster" env bench)"
export PGHOST PGPORT PGUSER
cd "$ROOT"
echo "machine: $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) before the start"
cargo run --quiet --locked --profile harness -p tally-bench -- "$@"
