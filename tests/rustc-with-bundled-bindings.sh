#!/bin/sh
# A compiler wrapper (RUSTC_WRAPPER): pgrx-pg-sys takes the bindings that it ships for docs.rs instead of making its own
# from a server's headers. The condition is set for that crate alone: elsewhere it asks for a nightly compiler.
if [ "$CARGO_PKG_NAME" = pgrx-pg-sys ]; then exec "$@" --cfg docsrs; fi
exec "$@"
