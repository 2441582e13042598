#!/usr/bin/env bash
# Removes everything that the other scripts made for this checkout, except packages and cargo-pgrx.
. "$(dirname "$0")/paths.sh"
"$ROOT/pgrx-config/cluster.sh" stop
for part in root data log demo results pgrx pgrx-16 pgrx-17 pgrx-18; do rm -rf "${PRIVATE:?}/$part"; done
if [ -d "$SOCKETS" ]; then rm -rf "$SOCKETS"; fi
if [ -d "$PRIVATE" ]; then rmdir --ignore-fail-on-non-empty "$PRIVATE"; fi
(cd "$ROOT" && cargo clean)
