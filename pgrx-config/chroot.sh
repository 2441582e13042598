# Roots of Debian releases beside this machine's own. Sourced after paths.sh, by what makes one or runs in one.

# Ends with 77, as a test does that can't be run here.
unavailable() { echo "PostgreSQL $PG_MAJOR can't be had here: $*" >&2; exit 77; }

# The first Debian release whose own packages have a major version.
suite_of() {
  case $1 in 15) echo bookworm ;; 17) echo trixie ;; 18) echo sid ;; *) return 1 ;; esac
}

# Ends with 77 unless this machine allows a chroot with mounts of its own.
must_allow_roots() {
  local probe probed
  [ "$(id -u)" = 0 ] || unavailable "a chroot of a Debian release needs root"
  command -v unshare >/dev/null || unavailable "unshare is missing"
  # A container may allow less than its root asks for.
  probe=$(mktemp -d)
  probed=$(unshare --mount --pid --fork --kill-child --propagation private bash -c \
    'mount -t proc proc "$1" && mount --rbind /dev "$1" && mount --bind / "$1" && chroot "$1" /bin/true' bash "$probe" 2>&1) ||
    { rmdir "$probe"; unavailable "no chroot with mounts of its own is allowed (${probed##*$'\n'})"; }
  rmdir "$probe"
}

make_root() { # path suite packages,that,come,along
  local root=$1 suite=$2 include=$3 mirror file
  # The mirror that this machine's apt uses, and no other.
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -v security | head -1 | tr -d ' ' || true)
  [ -n "$mirror" ] || unavailable "this machine's apt sources name no Debian mirror"
  if ! command -v debootstrap >/dev/null; then
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends debootstrap; } >/dev/null ||
      unavailable "debootstrap can't be installed"
  fi
  mkdir -p "$LOGS"
  rm -rf --one-file-system "$root"
  timeout 900 debootstrap --variant=minbase --include="$include" "$suite" "$root" "$mirror" >"$LOGS/suite.log" 2>&1 ||
    { tail -5 "$LOGS/suite.log" >&2; unavailable "debootstrap failed (is there a network?), see $LOGS/suite.log"; }
  # Of this machine's own release all that its apt has of Debian, with security updates.
  if [ "$suite" = "$(. /etc/os-release; echo "${VERSION_CODENAME:-}")" ]; then
    { grep -rlE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null || true; } | { grep -E '\.(list|sources)$' || true; } |
      while read -r file; do rm -f "$root/etc/apt/sources.list"; cp "$file" "$root$file"; done
  fi
  # What clients of package registries need: names, configuration, certificates.
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  for file in /etc/pip.conf /etc/apt/apt.conf.d/* $(certificates); do
    [ ! -f "$file" ] || { mkdir -p "$root$(dirname "$file")"; [ -e "$root$file" ] && [[ $file != *cert* ]] || cp -L "$file" "$root$file"; }
  done
}

# Files that variables of the environment name as certificates.
certificates() {
  echo /etc/ssl/certs/ca-certificates.crt
  env | sed -n 's/^[A-Z_]*\(CERT\|CERTS\|CAINFO\|BUNDLE\|CERT_FILE\|CERTS_FILE\|FILE_PATH\)=\(\/.*\)$/\2/p' | sort -u
}
