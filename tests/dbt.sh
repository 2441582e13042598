#!/usr/bin/env bash
# Prints the path of dbt, which is installed beside the private server first; fails where it can't be had.
# usage: dbt.sh    TALLY_DBT=1 installs it; without, it is only taken where an earlier run has put it, since that takes a minute and more
. "$(dirname "$0")/../pgrx-config/paths.sh"
core=1.11.16 adapter=1.10.2
place=$PRIVATE/dbt-$core-$adapter-$PG_MAJOR
if [ ! -x "$place/bin/dbt" ]; then
  [ -n "${TALLY_DBT:-}" ] || { echo "not installed here; TALLY_DBT=1 installs it (150 MB from PyPI)" >&2; exit 77; }
  rm -rf "$place"
  python3 -m venv "$place" >&2
  "$place/bin/pip" install --quiet --no-input --disable-pip-version-check "dbt-core==$core" "dbt-postgres==$adapter" >&2 ||
    { rm -rf "$place"; echo "dbt-postgres can't be installed here" >&2; exit 77; }
fi
echo "$place/bin/dbt"
