#!/usr/bin/env bash
# Compiles the extension against each other supported major version of Postgres whose headers are installed; where they
# aren't, against the bindings that pgrx ships.
#   TALLY_BUILT  majors that are left out, since they were built to be run
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"
TALLY_BUILT=${TALLY_BUILT:-}

# What differs by version is in one place, where each difference has its reason.
elsewhere=$(grep -rnE 'feature = "pg1[0-9]"' src --include=*.rs | grep -v '^src/backend/version.rs:' || true)
[ -z "$elsewhere" ] || fail "these belong in src/backend/version.rs: $elsewhere"

absent=
for major in $PG_SUPPORTED; do
  [[ " $PG_MAJOR ${TALLY_BUILT//$'\n'/ } " != *" $major "* ]] || continue
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
[ -n "$absent" ] || exit 0
echo "no headers installed for PostgreSQL$absent (Debian 12 has only 15)"
for major in $absent; do
  echo "compiling against pgrx's own bindings of PostgreSQL $major; nothing is run on it"
  DOCS_RS=1 RUSTC_WRAPPER=$ROOT/tests/rustc-with-bundled-bindings.sh CARGO_TARGET_DIR=$ROOT/target/bindings \
    cargo check --quiet --locked --lib --no-default-features --features "pg$major"
done
