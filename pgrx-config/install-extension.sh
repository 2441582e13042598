#!/usr/bin/env bash
# Builds the extension (release) and installs it.
# usage: install-extension.sh [PG_CONFIG]    default: the private server of this checkout
. "$(dirname "$0")/paths.sh"
cd "$ROOT"
"$ROOT/pgrx-config/private-postgres.sh"

pg_config=${1:-$SERVER/bin/pg_config}
[ -x "$pg_config" ] || fail "$pg_config is not a pg_config program"
version=$("$pg_config" --version)
major=$(echo "$version" | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
[[ " $PG_SUPPORTED " == *" $major "* ]] || fail "$version is not supported; supported: $PG_SUPPORTED"

# The bindings follow the headers: another release of Postgres gets a build of its own.
if [ "$version" != "$("$SERVER/bin/pg_config" --version)" ]; then
  PGRX_HOME=$PRIVATE/pgrx-$major
  export CARGO_TARGET_DIR=$ROOT/target/pg$major
  mkdir -p "$PGRX_HOME"
  printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" >"$PGRX_HOME/config.toml"
fi
perl packaging/upgrade-script.pl
cargo pgrx install --release --pg-config "$pg_config" --no-default-features --features "pg$major"
# A dump of an earlier version is restored into that version, and updated there.
for released in tests/upgrade/pg_tally--*.sql; do
  place=$("$pg_config" --sharedir)/extension/${released##*/}
  [ -e "$place" ] || cp "$released" "$place"
done
