#!/usr/bin/env bash
# Fails if the test cluster's log tells of a crash. A kill -9 by a test is no crash; a signal that a fault raises is.
. "$(dirname "$0")/../pgrx-config/paths.sh"
log=$LOGS/postgres-test.log
crashes=$(grep -nE 'terminated by signal (4|5|6|7|8|11):|PANIC:|TRAP:' "$log" || true)
[ -z "$crashes" ] || { echo "the server crashed:"; echo "$crashes"; exit 1; }
echo "no crash in $(wc -l <"$log") lines of the server's log"
