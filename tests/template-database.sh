#!/usr/bin/env bash
# Makes the database `tally_template`, with the extension as it was last installed. Tests clone it: a clone costs
# less than CREATE EXTENSION, and no test sees what another one left behind.
. "$(dirname "$0")/../pgrx-config/paths.sh"
"$ROOT/pgrx-config/cluster.sh" start test
"$ROOT/pgrx-config/cluster.sh" psql test -q -v ON_ERROR_STOP=1 -d postgres \
  -c 'SET client_min_messages = warning' \
  -c 'DROP DATABASE IF EXISTS tally_template' -c 'CREATE DATABASE tally_template'
"$ROOT/pgrx-config/cluster.sh" psql test -q -v ON_ERROR_STOP=1 -d tally_template -c 'CREATE EXTENSION pg_tally' \
  -c "SELECT tally.open_months('-infinity')" >/dev/null  # tests' events are of every year; months.rs tests what is open by itself
