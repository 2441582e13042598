#!/usr/bin/env bash
# Packs what `make build` installed into the private server as a Debian package, and prints its path.
# usage: deb.sh [DIRECTORY]    default: target/package
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing: this is no Debian system"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=postgresql-$PG_MAJOR-pg-tally
architecture=$(dpkg --print-architecture)
share=usr/share/postgresql/$PG_MAJOR/extension
library=$SERVER/lib/pg_tally.so
[ -f "$library" ] || fail "nothing is installed in the private server; run: make build"

out=${1:-target/package}
mkdir -p "$out"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
install -D -m 644 "$library" "$tree/usr/lib/postgresql/$PG_MAJOR/lib/pg_tally.so"
if command -v strip >/dev/null; then strip --strip-debug "$tree/usr/lib/postgresql/$PG_MAJOR/lib/pg_tally.so"; fi
install -d "$tree/$share"
install -m 644 "$PRIVATE/root/$share/pg_tally.control" "$PRIVATE/root/$share/pg_tally--$version.sql" "$tree/$share/"
for script in sql/pg_tally--*--*.sql tests/upgrade/pg_tally--*.sql; do
  [ ! -f "$script" ] || [ -e "$tree/$share/${script##*/}" ] || install -m 644 "$script" "$tree/$share/"
done
# As they lie in the sources, so that what they say of each other is right. What is run lies elsewhere: slim systems leave out documents.
documents=$tree/usr/share/doc/$name
install -D -m 644 -t "$documents" README.md CHANGELOG.md
for folder in docs docs/runbooks docs/decisions; do install -D -m 644 -t "$documents/$folder" $folder/*.md; done
install -D -m 644 -t "$documents/docs/images" docs/images/*
extras=$tree/usr/share/$name
install -D -m 644 -t "$extras/monitoring" monitoring/*
install -D -m 644 -t "$extras/dashboards" dashboards/grafana.json
install -D -m 644 -t "$extras/integrations/bi" integrations/bi/*
install -D -m 644 -t "$extras/packaging" packaging/tally-doctor.sql
size=$(du -sk "$tree/usr" | cut -f1)
# The C library that this machine has is the oldest that the library was tried with.
libc=$(dpkg-query -W -f '${Version}' libc6 | sed 's/-.*//')
install -d "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $architecture
Maintainer: pg_tally maintainers <maintainers@users.noreply.example>
Section: database
Priority: optional
Depends: postgresql-$PG_MAJOR, libc6 (>= $libc), libgcc-s1
Installed-Size: $size
Description: multi-tenant product analytics inside PostgreSQL $PG_MAJOR
 Idempotent ingest, account-level rollups with distinct counts and percentiles,
 and isolation of tenants by row security, as an extension.
CONTROL
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
package=$out/${name}_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z3 --build "$tree" "$package" >/dev/null
echo "$package"
