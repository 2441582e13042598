#!/usr/bin/env bash
# Prints the path of a Python that has the PyPI package datasketches, installing it beside the private server; fails where
# that can't be had.
. "$(dirname "$0")/../pgrx-config/paths.sh"
python=$PRIVATE/python-$PG_MAJOR/bin/python
wanted=5.2.0
if ! "$python" -c "import importlib.metadata as m; assert m.version('datasketches') == '$wanted'" 2>/dev/null; then
  rm -rf "$PRIVATE/python-$PG_MAJOR"
  python3 -m venv "$PRIVATE/python-$PG_MAJOR" >&2
  "$PRIVATE/python-$PG_MAJOR/bin/pip" install --quiet --disable-pip-version-check "datasketches==$wanted" >&2
fi
echo "$python"
