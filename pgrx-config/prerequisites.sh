#!/usr/bin/env bash
# Installs what is missing, and only that: Debian packages and cargo-pgrx in the version that Cargo.toml names.
# usage: prerequisites.sh [tests]    with `tests`, also what the tests and benchmarks compare with
. "$(dirname "$0")/paths.sh"

packages="postgresql-$PG_MAJOR postgresql-server-dev-$PG_MAJOR clang libclang-dev gcc libc6-dev make"
# cargo-pgrx is built here, and links OpenSSL.
packages+=" pkg-config libssl-dev"
if [ "${1:-}" = tests ]; then
  # hll, tdigest: peers in the benchmarks; pgtap: catalogue assertions; cron: housekeeping from it; pgbouncer: pooled sessions;
  # sqlsmith: random queries; pandas: the metrics computed a second time; cryptography: tokens
  # signed in Python; venv: packages from PyPI; php, ruby, jdbc, go, pgx: the drivers of docs/drivers.md, and of docs/bi.md;
  # logrotate, redis (whose tools hold the server): logs and streams that are read while they grow.
  packages+=" postgresql-$PG_MAJOR-hll postgresql-$PG_MAJOR-tdigest postgresql-$PG_MAJOR-pgtap postgresql-$PG_MAJOR-cron pgbouncer sqlsmith python3-pandas python3-cryptography python3-venv php-cli php-pgsql ruby-pg ruby-activerecord libpostgresql-jdbc-java golang-go golang-github-jackc-pgx-v4-dev logrotate redis-tools"
fi

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif sudo -n true 2>/dev/null; then sudo -n -- "$@"
  else fail "root is needed for: $*"; fi
}

install_packages() {
  missing=()
  for package in $packages; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "not a Debian system; install by hand: ${missing[*]}"
  echo "installing ${missing[*]}"
  as_root apt-get update -q
  apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"; }
  # Debian's package would start a cluster on port 5432; nobody asked for one.
  no_cluster=/etc/postgresql-common/createcluster.d/pg_tally.conf
  if ! installed "postgresql-$PG_MAJOR"; then
    apt_install postgresql-common
    as_root mkdir -p "${no_cluster%/*}"
    echo "create_main_cluster = false" | as_root tee "$no_cluster" >/dev/null
  fi
  apt_install "${missing[@]}"
  as_root rm -f "$no_cluster"
  if [[ " ${missing[*]} " == *" pgbouncer "* ]] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --now pgbouncer
  fi
}

install_cargo_pgrx() {
  command -v cargo >/dev/null || fail "Rust is missing; install it with rustup (https://rustup.rs)"
  found=$(cargo pgrx --version 2>/dev/null | awk '{print $2}' || true)
  [ "$found" != "$PGRX_VERSION" ] || return 0
  # Another version belongs to another project: leave it, and put ours beside the private server.
  if [ -n "$found" ]; then place=(--root "$ROOT/.pg/tools"); else place=(); fi
  echo "installing cargo-pgrx $PGRX_VERSION, which takes some minutes"
  cargo install cargo-pgrx --version "$PGRX_VERSION" --locked "${place[@]}"
}

# Beside the newest minor version the oldest that apt has here: what the newest writes may be too new for a later major's minor version.
# Unpacked, not installed, and no matter where it can't be had.
fetch_older_minor() {
  local name=postgresql-$PG_MAJOR place=$PRIVATE/older-$PG_MAJOR version
  version=$(apt-cache madison "$name" 2>/dev/null | awk 'END { print $3 }')
  [ -n "$version" ] && [ "$version" != "$(dpkg-query -W -f '${Version}' "$name")" ] && [ ! -f "$place/$version" ] || return 0
  rm -rf "$place"
  mkdir -p "$place"
  (cd "$place" && timeout 120 apt-get download -q "$name=$version" "postgresql-client-$PG_MAJOR=$version") >/dev/null 2>&1 || return 0
  for package in "$place"/*.deb; do dpkg-deb -x "$package" "$place"; done
  rm "$place"/*.deb
  touch "$place/$version"
}

install_packages
install_cargo_pgrx
[ "${1:-}" != tests ] || fetch_older_minor
echo "prerequisites are there: PostgreSQL $("$SYSTEM_PG/bin/pg_config" --version | awk '{print $2}'), cargo-pgrx $PGRX_VERSION"
