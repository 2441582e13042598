#!/usr/bin/env bash
# Compiles the extension against each other supported major version of Postgres whose headers are installed.
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"

absent=
for major in $PG_SUPPORTED; do
  [ "$major" != "$PG_MAJOR" ] || continue
  pg_config=/usr/lib/postgresql/$major/bin/pg_config
  if [ ! -x "$pg_config" ] || [ ! -f "$("$pg_config" --includedir-server)/postgres.h" ]; then
    absent+=" $major"
    continue
  fi
  home=$PRIVATE/pgrx-$major
  mkdir -p "$home"
  config=$(printf '[configs]\npg%s = "%s"' "$major" "$pg_config")
  [ "$(cat "$home/config.toml" 2>/dev/null)" = "$config" ] || echo "$config" >"$home/config.toml"
  echo "compiling against PostgreSQL $major"
  PGRX_HOME=$home CARGO_TARGET_DIR=$ROOT/target/pg$major \
    cargo check --quiet --locked --lib --no-default-features --features "pg$major"
done
[ -z "$absent" ] || echo "NOT CHECKED: no headers installed for PostgreSQL$absent (Debian 12 has only 15)"
