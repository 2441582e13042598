#!/usr/bin/env bash
# Removes everything that the other scripts made for this checkout, except packages and cargo-pgrx.
. "$(dirname "$0")/paths.sh"
"$ROOT/pgrx-config/cluster.sh" stop
for part in root data log demo results; do rm -rf "${PRIVATE:?}/$part"; done
rm -rf "${PRIVATE:?}"/{pgrx,pgspot,python,superset,drivers-,dbt-,suite-,older-}*
if [ -d "$SOCKETS" ]; then rm -rf "$SOCKETS"; fi
if [ -d "$PRIVATE" ]; then rmdir --ignore-fail-on-non-empty "$PRIVATE"; fi
(cd "$ROOT" && cargo clean)
