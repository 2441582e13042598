#!/usr/bin/env bash
# Shows the demo's data in Apache Superset, as the login of one tenant: installs it into a virtual environment under .pg (830 MB, some
# minutes), imports the dashboard from assets/ (over what was changed in it since), listens on 127.0.0.1, prints the address and the password, and runs until
# it is stopped. The demo's cluster stays up.
# usage: run.sh [check]    check: asks for the data of every chart, prints what each one got, and ends
#   TALLY_DASHBOARD_PORT   the port (8088)
. "$(dirname "$0")/../../pgrx-config/paths.sh"
here=$ROOT/dashboards/superset
cluster=$ROOT/pgrx-config/cluster.sh
address=127.0.0.1:${TALLY_DASHBOARD_PORT:-8088}

! (exec 3<>"/dev/tcp/${address/:/\/}") 2>/dev/null || fail "something listens on $address already; TALLY_DASHBOARD_PORT chooses another port"
"$cluster" start demo
# What the demo leaves at its end, and of which version; a demo that was interrupted or is of an earlier one is told anew.
told=$("$cluster" psql demo -At -d tally_demo -c "SELECT count(*) FROM demo_outcome WHERE attempt = '3 told'" \
  -c "SELECT extversion = (SELECT default_version FROM pg_available_extensions WHERE name = 'pg_tally') FROM pg_extension WHERE extname = 'pg_tally'" 2>/dev/null || true)
if [ "$told" != $'1\nt' ]; then "$ROOT/demo/run.sh"; fi
"$cluster" psql demo -At -d tally_demo -c "SELECT 'the demo ended ' || date_trunc('minute', now() - max(occurred_at)) || ' ago; make demo tells it anew'
  FROM tally.events HAVING max(occurred_at) < now() - interval '1 day'"

venv=$PRIVATE/superset-$PG_MAJOR/venv
export SUPERSET_HOME=$PRIVATE/superset-$PG_MAJOR/home SUPERSET_CONFIG_PATH=$here/superset_config.py
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  unavailable() { echo "Apache Superset can't be had here: $*" >&2; exit 77; }
  python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null ||
    unavailable "it needs Python 3.10 to 3.12, and this is $(python3 --version 2>&1)"
  python3 -c 'import ensurepip, venv' 2>/dev/null || unavailable "Python's venv is missing (Debian's package python3-venv)"
  echo "installing Apache Superset into $venv, which takes some minutes"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-input --disable-pip-version-check -r "$here/requirements.txt" || unavailable "pip says why above"
  cp "$here/requirements.txt" "$venv/requirements.txt"
fi
umask 077
mkdir -p "$SUPERSET_HOME"
for name in secret password; do
  [ -s "$SUPERSET_HOME/$name" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$SUPERSET_HOME/$name"
done

eval "$("$cluster" env demo)"
echo "importing the dashboard"
"$venv/bin/python" "$here/setup.py" "$PGHOST" "$PGPORT" >"$SUPERSET_HOME/setup.log" 2>&1 ||
  { tail -20 "$SUPERSET_HOME/setup.log" >&2; fail "Superset could not be set up, see $SUPERSET_HOME/setup.log"; }
"$venv/bin/gunicorn" --workers 1 --threads 8 --timeout 120 --bind "$address" 'superset.app:create_app()' >"$SUPERSET_HOME/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
answers() { "$venv/bin/python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=20)' "http://$address/health" 2>/dev/null; }
until answers; do
  kill -0 $server 2>/dev/null || { tail -20 "$SUPERSET_HOME/server.log" >&2; fail "Superset ended, see $SUPERSET_HOME/server.log"; }
  [ $SECONDS -lt 3600 ] || fail "Superset doesn't answer, see $SUPERSET_HOME/server.log"
  sleep 1
done
if [ "${1:-}" = check ]; then
  "$venv/bin/python" "$here/check.py" "http://$address" "$SUPERSET_HOME/password"
else
  echo
  echo "http://$address/superset/dashboard/product-analytics/"
  echo "user admin, password $(cat "$SUPERSET_HOME/password"); Ctrl-C ends Superset, make stop the demo's cluster"
  wait $server
fi
