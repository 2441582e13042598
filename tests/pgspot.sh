#!/usr/bin/env bash
# Has pgspot look through the install script for what an attacker could capture: unqualified names and operators, elevated
# functions without a path, IF NOT EXISTS, OR REPLACE. Nothing may be found.
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"

wanted=0.9.4
pgspot=$PRIVATE/pgspot-$PG_MAJOR/bin/pgspot
if [ "$("$pgspot" --version 2>/dev/null | awk '{print $NF}')" != "$wanted" ]; then
  rm -rf "$PRIVATE/pgspot-$PG_MAJOR"
  if ! { python3 -m venv "$PRIVATE/pgspot-$PG_MAJOR" && "$PRIVATE/pgspot-$PG_MAJOR/bin/pip" install --quiet --disable-pip-version-check "pgspot==$wanted"; } >&2; then
    rm -rf "$PRIVATE/pgspot-$PG_MAJOR"
    echo "pgspot can't be installed" >>"${TALLY_SKIPPED:-/dev/stderr}"
    exit 0
  fi
fi

# pgspot fails on BEGIN ATOMIC. Such a body is parsed once, in the script's own path, which is what the text that takes
# its place says.
readable() {
  awk '/^CREATE FUNCTION/ { has_path = 0 }
    /^ *SET search_path/ { has_path = 1 }
    /^ *BEGIN ATOMIC$/ { atomic = 1; print (has_path ? "" : "SET search_path = pg_catalog, pg_temp") " AS $atomic$"; next }
    atomic && /^  END;$/ { atomic = 0; print "$atomic$;"; next }
    { gsub(/MODULE_PATHNAME/, "pg_tally"); print }' "$1"
}
# Procedures that commit can't have a path of their own. They run with their caller's rights, and every name in them is
# qualified.
without_path=(--proc-without-search-path "tally.maintain(fold_rows int8)" --proc-without-search-path "tally.probe()")
path=$(grep -m 1 '^SET LOCAL search_path' sql/extension/roles.sql) || fail "sql/extension/roles.sql sets no search_path"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

perl packaging/upgrade-script.pl
checked=0 failed=0
for file in $(sed -n 's/^.*"..\/\(sql\/[a-z_/]*\.sql\)".*/\1/p' src/lib.rs) sql/pg_tally--*--*.sql; do
  # Upgrade scripts replace functions of ours; Postgres itself refuses to replace what isn't part of the extension.
  { echo "$path"; readable "$file" | sed 's/^CREATE OR REPLACE /CREATE /'; } >"$scratch/script.sql"
  found=$("$pgspot" "${without_path[@]}" "$scratch/script.sql" 2>&1 || true)
  # Its parser of PL/pgSQL knows neither variables of a table's row type nor loops over EXECUTE: there it reads the rest.
  if [[ "$found" == *"is not a known variable"* || "$found" == *"syntax error at or near"* ]]; then
    found=$("$pgspot" "${without_path[@]}" --no-plpgsql "$scratch/script.sql" 2>&1 || true)
  fi
  checked=$((checked + 1))
  if [ "$(echo "$found" | tr -d '[:space:]')" != "Errors:0Warnings:0Unknown:0" ]; then
    echo "$file:"; echo "$found"; failed=$((failed + 1))
  fi
done
echo "pgspot $wanted: $checked files looked through, something found in $failed"
[ "$failed" = 0 ] && [ "$checked" -gt 20 ]
