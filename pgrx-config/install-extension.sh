#!/usr/bin/env bash
# Builds the extension (release) and installs it.
# usage: install-extension.sh [PG_CONFIG]    default: the private server of this checkout
. "$(dirname "$0")/paths.sh"
cd "$ROOT"
[ -n "${1:-}" ] || "$ROOT/pgrx-config/private-postgres.sh"

pg_config=${1:-$SERVER/bin/pg_config}
[ -x "$pg_config" ] || fail "$pg_config is not a pg_config program"
version=$("$pg_config" --version)
major=$(echo "$version" | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
[[ " $PG_SUPPORTED " == *" $major "* ]] || fail "$version is not supported; supported: $PG_SUPPORTED"

# The bindings follow the headers: another release of Postgres gets a build of its own.
if [ "$version" != "$("$SERVER/bin/pg_config" --version 2>/dev/null || true)" ]; then
  PGRX_HOME=$PRIVATE/pgrx-$major
  export CARGO_TARGET_DIR=$ROOT/target/pg$major
  mkdir -p "$PGRX_HOME"
  printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" >"$PGRX_HOME/config.toml"
fi
found=$(cargo pgrx --version 2>/dev/null | awk '{ print $2 }' || true)
[ "$found" = "$PGRX_VERSION" ] || fail "cargo-pgrx $PGRX_VERSION is needed (found: ${found:-none}); run: cargo install cargo-pgrx --version $PGRX_VERSION --locked"
perl packaging/upgrade-script.pl
cargo pgrx install --release --pg-config "$pg_config" --no-default-features --features "pg$major"
# A dump of an earlier version is restored into that version, and updated there.
for released in tests/upgrade/pg_tally--*.sql; do
  place=$("$pg_config" --sharedir)/extension/${released##*/}
  [ -e "$place" ] || cp "$released" "$place"
done
# Another minor version of the private server (prerequisites.sh) runs the same files.
older=$PRIVATE/older-$major
if [ -z "${1:-}" ] && [ -d "$older/usr" ]; then
  cp "$SERVER/lib/pg_tally.so" "$older$SYSTEM_PG/lib/"
  cp "$PRIVATE/root/usr/share/postgresql/$major/extension/pg_tally"* "$older/usr/share/postgresql/$major/extension/"
fi
