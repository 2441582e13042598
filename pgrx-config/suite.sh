#!/usr/bin/env bash
# Runs a command of this checkout where PostgreSQL $PG_MAJOR is at home: here, if this machine's release packages it; else under
# the Debian release that does, in a chroot made on first use (.pg/suite-MAJOR, about a gigabyte, two to four minutes).
# usage: suite.sh COMMAND...    PG_MAJOR says which
# Where it can't be had, this says why and ends with 77.
# The checkout, ../shared, Rust and cargo's registry are mounted at the paths that they have outside, so nothing is built twice that
# doesn't depend on the major. Mounts and processes live in namespaces of their own and end with the command, however it ends.
. "$(dirname "$0")/paths.sh"
. "$ROOT/pgrx-config/chroot.sh"
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }

is_at_home() {
  [ -x "$SYSTEM_PG/bin/postgres" ] || [ -n "${TALLY_IN_SUITE:-}" ] || [ "$(packaged_major)" = "$PG_MAJOR" ] ||
    apt-cache show "postgresql-$PG_MAJOR" >/dev/null 2>&1
}
if is_at_home; then exec "$@"; fi

suite=$(suite_of "$PG_MAJOR") ||
  fail "no Debian release packages PostgreSQL $PG_MAJOR; install its server and headers, or choose another PG_MAJOR (17, 18)"
must_allow_roots
root=$PRIVATE/suite-$PG_MAJOR

if [ ! -f "$root/.ready" ]; then
  echo "making a chroot of Debian $suite for PostgreSQL $PG_MAJOR in $root"
  make_root "$root" "$suite" ca-certificates,git,make,perl,procps
  touch "$root/.ready"
fi
shared=$(dirname "$ROOT")/shared
places=("$ROOT" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}")
[ "$PRIVATE" = "$ROOT/.pg" ] || places+=("$PRIVATE")
[ ! -d "$shared" ] || places+=("$(readlink -f "$shared")")
for place in "${places[@]}"; do mkdir -p "$root$place"; done
if [ -L "$shared" ]; then mkdir -p "$root$(dirname "$shared")"; ln -sfn "$(readlink -f "$shared")" "$root$shared"; fi
export root TALLY_IN_SUITE=$suite
exec unshare --mount --pid --fork --kill-child --propagation private bash -c '
  set -e
  count=$1; shift
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  for ((; count > 0; count--)); do mount --bind "$1" "$root$1"; shift; done
  # A server that is killed with the namespace would leave a pid file that means another process in the next one.
  chroot "$root" bash -c "cd \"\$1\"; shift; \"\$@\"; code=\$?; ./pgrx-config/cluster.sh stop >/dev/null 2>&1; exit \$code" bash "$@"' bash "${#places[@]}" "${places[@]}" "$ROOT" "$@"
