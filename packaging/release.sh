#!/usr/bin/env bash
# Freezes the installed install script of the present version as a release: `make build` first. From then on a test holds
# every change against it (tests/server/tests/extension/upgrade.rs, docs/runbooks/release.md).
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
script=$SERVER/../../../share/postgresql/$PG_MAJOR/extension/pg_tally--$version.sql
frozen=tests/upgrade/pg_tally--$version.sql
mkdir -p tests/upgrade
[ -f "$script" ] || fail "$script is not there; run: make build"
[ ! -f "$frozen" ] || fail "version $version is released already: $frozen; raise the version in Cargo.toml"
for earlier in tests/upgrade/pg_tally--*.sql; do
  [ -e "$earlier" ] || continue
  from=$(basename "$earlier" .sql); from=${from#pg_tally--}
  ls sql/pg_tally--"$from"--*.sql >/dev/null 2>&1 || fail "there is no upgrade script from $from; run: make build"
done
# pgrx notes where each object came from; that isn't part of what is released.
sed -e '/^-- \(\.\.\/\)*[a-z_/]*\.rs:[0-9]*$/d' "$script" >"$frozen"
echo "frozen: $frozen"
echo "next: note the release in CHANGELOG.md, commit, git tag v$version, and raise the version in Cargo.toml with the first change of sql/"
