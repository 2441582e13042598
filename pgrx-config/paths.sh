# Names every place that belongs to this checkout alone. Sourced by the other scripts, never run.
#
# PRIVATE   everything that is generated and not Rust: server copy, data directories, logs
# SERVER    the private copy of Postgres, where `make build` installs the extension
# SOCKETS   directory of the Unix sockets: under /tmp because a socket path ends at 107 bytes
# Ports only name the socket files; no server here listens on TCP.

set -euo pipefail
export LC_ALL=C.UTF-8
# A server that inherits it adds a backtrace to every error of ours.
unset RUST_BACKTRACE

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PG_SUPPORTED="15 16 17 18"
# The newest supported major that this machine's release packages.
packaged_major() {
  case $(. /etc/os-release 2>/dev/null; echo "${VERSION_CODENAME:-}") in
    bookworm) echo 15 ;;
    noble) echo 16 ;;
    trixie | plucky | questing) echo 17 ;;
    forky | sid | resolute) echo 18 ;;
    *) for major in 18 17 16 15; do
        if [ -x "/usr/lib/postgresql/$major/bin/postgres" ] || apt-cache show "postgresql-$major" >/dev/null 2>&1; then
          echo "$major"; return
        fi
      done
      echo 15 ;;
  esac
}
export PG_MAJOR=${PG_MAJOR:-$(packaged_major)}
PGRX_VERSION=$(sed -n 's/^pgrx = .*version = "=\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml")
SYSTEM_PG=/usr/lib/postgresql/$PG_MAJOR

checkout_id=$(printf %s "$ROOT" | sha256sum | cut -c1-10)
SOCKETS=/tmp/pg_tally.$checkout_id

fail() { echo "error: $*" >&2; exit 1; }

# Postgres refuses to run as root, so root lends it to the user that Debian's package made.
if [ "$(id -u)" = 0 ]; then SERVER_USER=postgres; else SERVER_USER=$(id -un); fi
as_server() {
  if [ "$(id -un)" = "$SERVER_USER" ]; then (cd / && "$@"); else (cd / && runuser -u "$SERVER_USER" -- "$@"); fi
}

# A checkout under /root cannot be entered by the user postgres: then the private part moves to /var/tmp.
PRIVATE=$ROOT/.pg
if [ "$(id -u)" = 0 ] && id "$SERVER_USER" >/dev/null 2>&1 && ! as_server test -x "$ROOT"; then
  PRIVATE=/var/tmp/pg_tally.$checkout_id
  if [ -z "${TALLY_SAID_PRIVATE:-}" ]; then
    echo "note: user $SERVER_USER cannot enter $ROOT; the private server lives in $PRIVATE" >&2
    export TALLY_SAID_PRIVATE=1
  fi
fi
SERVER=$PRIVATE/root$SYSTEM_PG
LOGS=$PRIVATE/log/$PG_MAJOR

# Makes a directory in a place that others can write to, or refuses one that somebody else put there.
own_directory() { # path owner
  mkdir -m 700 "$1" 2>/dev/null || true
  if [ -L "$1" ] || [ ! -d "$1" ]; then fail "$1 is not a directory"; fi
  [ "$(id -u)" != 0 ] || [ "$(stat -c %U "$1")" != root ] || chown "$2" "$1"
  [ "$(stat -c %U "$1")" = "$2" ] || fail "$1 belongs to $(stat -c %U "$1"), not to $2"
}
if [ "$PRIVATE" != "$ROOT/.pg" ]; then own_directory "$PRIVATE" root; chmod 755 "$PRIVATE"; fi

# One for each major: a build script that sees another one runs again, for minutes.
export PGRX_HOME=$PRIVATE/pgrx-$PG_MAJOR
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
[ ! -x "$ROOT/.pg/tools/bin/cargo-pgrx" ] || PATH=$ROOT/.pg/tools/bin:$PATH
# Set, it would silently drop the linker flag by which cargo-pgrx keeps its schema section.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
