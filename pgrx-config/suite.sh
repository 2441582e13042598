#!/usr/bin/env bash
# Runs a command of this checkout where PostgreSQL $PG_MAJOR is at home: here, if this machine's release packages it; else under
# the Debian release that does, in a chroot made on first use (.pg/suite-MAJOR, about a gigabyte, two to four minutes).
# usage: suite.sh COMMAND...    PG_MAJOR says which
# The checkout, ../shared, Rust and cargo's registry are mounted at the paths that they have outside, so nothing is built twice that
# doesn't depend on the major. Mounts and processes live in namespaces of their own and end with the command, however it ends.
. "$(dirname "$0")/paths.sh"
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }

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
[ "$(id -u)" = 0 ] || fail "PostgreSQL $PG_MAJOR is not packaged for this machine's release, and the chroot that has it needs root"
root=$PRIVATE/suite-$PG_MAJOR

make_chroot() {
  # The mirror that this machine's apt uses, and no other.
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -v security | head -1 | tr -d ' ' || true)
  [ -n "$mirror" ] || fail "found no Debian mirror in this machine's apt sources: PostgreSQL $PG_MAJOR can't be had here"
  if ! command -v debootstrap >/dev/null; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends debootstrap >/dev/null
  fi
  mkdir -p "$LOGS"
  echo "making a chroot of Debian $suite for PostgreSQL $PG_MAJOR in $root"
  rm -rf "$root"
  debootstrap --variant=minbase --include=ca-certificates,git,make,perl,procps "$suite" "$root" "$mirror" >"$LOGS/suite-$PG_MAJOR.log" 2>&1 ||
    { tail -5 "$LOGS/suite-$PG_MAJOR.log" >&2; fail "no chroot of Debian $suite (is there a network?); log: $LOGS/suite-$PG_MAJOR.log"; }
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
places=("$ROOT" "$HOME/.cargo" "$HOME/.rustup")
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
