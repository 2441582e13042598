#!/usr/bin/env bash
# Runs a command of this checkout where PostgreSQL $PG_MAJOR is at home: here, if this machine's release packages it; else under
# the Debian release that does, in a chroot made on first use (.pg/suite-MAJOR, about a gigabyte, two to four minutes).
# usage: suite.sh COMMAND...    PG_MAJOR says which
# Where it can't be had, this says why and ends with 77.
# The checkout, ../shared, Rust and cargo's registry are mounted at the paths that they have outside, so nothing is built twice that
# doesn't depend on the major. Mounts and processes live in namespaces of their own and end with the command, however it ends.
. "$(dirname "$0")/paths.sh"
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }

# The first Debian release whose own packages have each major.
suite_of() {
  case $1 in 15) echo bookworm ;; 17) echo trixie ;; 18) echo sid ;; *) return 1 ;; esac
}

is_at_home() {
  [ -x "$SYSTEM_PG/bin/postgres" ] || [ -n "${TALLY_IN_SUITE:-}" ] || [ "$(packaged_major)" = "$PG_MAJOR" ] ||
    apt-cache show "postgresql-$PG_MAJOR" >/dev/null 2>&1
}
if is_at_home; then exec "$@"; fi

suite=$(suite_of "$PG_MAJOR") ||
  fail "no Debian release packages PostgreSQL $PG_MAJOR; install its server and headers, or choose another PG_MAJOR (17, 18)"
# Ends with 77, as a test does that can't be run here.
unavailable() { echo "PostgreSQL $PG_MAJOR can't be had here: $*" >&2; exit 77; }

[ "$(id -u)" = 0 ] || unavailable "this machine's release doesn't package it, and the chroot of the one that does needs root"
command -v unshare >/dev/null || unavailable "unshare is missing"
# A container may allow less than its root asks for.
probe=$(mktemp -d)
probed=$(unshare --mount --pid --fork --kill-child --propagation private bash -c \
  'mount -t proc proc "$1" && mount --rbind /dev "$1" && mount --bind / "$1" && chroot "$1" /bin/true' bash "$probe" 2>&1) ||
  { rmdir "$probe"; unavailable "no chroot with mounts of its own is allowed (${probed##*$'\n'})"; }
rmdir "$probe"
root=$PRIVATE/suite-$PG_MAJOR

make_chroot() {
  # The mirror that this machine's apt uses, and no other.
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -v security | head -1 | tr -d ' ' || true)
  [ -n "$mirror" ] || unavailable "this machine's apt sources name no Debian mirror"
  if ! command -v debootstrap >/dev/null; then
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends debootstrap; } >/dev/null ||
      unavailable "debootstrap can't be installed"
  fi
  mkdir -p "$LOGS"
  echo "making a chroot of Debian $suite for PostgreSQL $PG_MAJOR in $root"
  rm -rf "$root"
  timeout 900 debootstrap --variant=minbase --include=ca-certificates,git,make,perl,procps "$suite" "$root" "$mirror" >"$LOGS/suite.log" 2>&1 ||
    { tail -5 "$LOGS/suite.log" >&2; unavailable "debootstrap failed (is there a network?), see $LOGS/suite.log"; }
  # What clients of package registries need: names, configuration, certificates.
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  for file in /etc/pip.conf /etc/apt/apt.conf.d/* $(certificates); do
    [ ! -f "$file" ] || { mkdir -p "$root$(dirname "$file")"; [ -e "$root$file" ] && [[ $file != *cert* ]] || cp -L "$file" "$root$file"; }
  done
  touch "$root/.ready"
}

# Files that variables of the environment name as certificates.
certificates() {
  echo /etc/ssl/certs/ca-certificates.crt
  env | sed -n 's/^[A-Z_]*\(CERT\|CERTS\|CAINFO\|BUNDLE\|CERT_FILE\|CERTS_FILE\|FILE_PATH\)=\(\/.*\)$/\2/p' | sort -u
}

[ -f "$root/.ready" ] || make_chroot
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
