#!/usr/bin/env bash
# Opens psql on the demo's cluster, in a database that is made where it isn't there, unless it is the demo's.
# usage: psql.sh DATABASE LOGIN
. "$(dirname "$0")/paths.sh"
cluster=$ROOT/pgrx-config/cluster.sh
"$cluster" start demo >&2
found=$(echo "SELECT count(*) FROM pg_database WHERE datname = :'name'" | "$cluster" psql demo -d postgres -At -v name="$1")
[ "$found" = 1 ] || [ "$1" != tally_demo ] || fail "there is no demo yet; run: make demo"
[ "$found" = 1 ] || echo 'CREATE DATABASE :"name"' | "$cluster" psql demo -d postgres -q -v name="$1" -v ON_ERROR_STOP=1
exec "$cluster" psql demo -d "$1" -U "$2"
