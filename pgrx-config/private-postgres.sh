#!/usr/bin/env bash
# Copies the system's Postgres under this checkout, so that the extension is never installed into somebody's server.
# Postgres finds its files relative to its binary, so the copy is complete: bin, lib and share move together.
. "$(dirname "$0")/paths.sh"

[ -x "$SYSTEM_PG/bin/postgres" ] || fail "PostgreSQL $PG_MAJOR is not installed; run: make setup"
mkdir -p "$PRIVATE/root/usr/lib/postgresql" "$PRIVATE/root/usr/share/postgresql" "$PRIVATE/root/usr/include" "$LOGS"
# Newer files replace, never overwrite: a running server keeps the file that it has mapped.
cp -au --remove-destination "$SYSTEM_PG" "$PRIVATE/root/usr/lib/postgresql/"
cp -au --remove-destination "/usr/share/postgresql/$PG_MAJOR" "$PRIVATE/root/usr/share/postgresql/"
ln -sfn /usr/include/postgresql "$PRIVATE/root/usr/include/postgresql"

# The libraries that its programs were linked with come along: a server of a later release upgrades the clusters of this one.
mkdir -p "$SERVER/lib/of-its-release"
ldd "$SYSTEM_PG/bin/postgres" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libdl|libpthread|librt)\.so/ { print $3 }' |
  xargs -r cp -Lu -t "$SERVER/lib/of-its-release/"

# Written only when it changes: its time of change makes pgrx generate its bindings again, which takes a minute.
mkdir -p "$PGRX_HOME"
config=$(printf '[configs]\npg%s = "%s"' "$PG_MAJOR" "$SERVER/bin/pg_config")
[ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$config" ] || echo "$config" >"$PGRX_HOME/config.toml"
