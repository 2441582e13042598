#!/usr/bin/env bash
# Shows the demo's data in Apache Superset, as the login of one tenant: installs it into a virtual environment under .pg (830 MB, some
# minutes), imports the dashboard from assets/, listens on 127.0.0.1, prints the address and the password, and runs until it is stopped.
# usage: run.sh [check]    check: asks for the data of every chart, prints what each one got, and ends
#   TALLY_DASHBOARD_PORT   the port (8088)
. "$(dirname "$0")/../../pgrx-config/paths.sh"
here=$ROOT/dashboards/superset
cluster=$ROOT/pgrx-config/cluster.sh
address=127.0.0.1:${TALLY_DASHBOARD_PORT:-8088}

! (exec 3<>"/dev/tcp/${address/:/\/}") 2>/dev/null || fail "something listens on $address already; TALLY_DASHBOARD_PORT chooses another port"
"$cluster" start demo
if [ "$("$cluster" psql demo -At -d postgres -c "SELECT count(*) FROM pg_database WHERE datname = 'tally_demo'")" = 0 ]; then
  "$ROOT/demo/run.sh"
fi

venv=$PRIVATE/superset/venv
# Its pages would ask a server of somebody else's for a picture, to be counted.
export SCARF_ANALYTICS=false
export SUPERSET_HOME=$PRIVATE/superset/home SUPERSET_CONFIG_PATH=$here/superset_config.py
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  command -v python3 >/dev/null || fail "Superset needs Python 3.10 to 3.12 with venv"
  echo "installing Apache Superset into $venv, which takes some minutes"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-input --disable-pip-version-check -r "$here/requirements.txt" ||
    { echo "Apache Superset can't be installed here" >&2; exit 77; }
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
until curl -fs -o /dev/null "http://$address/health"; do
  kill -0 $server 2>/dev/null || { tail -20 "$SUPERSET_HOME/server.log" >&2; fail "Superset ended, see $SUPERSET_HOME/server.log"; }
  sleep 1
done
if [ "${1:-}" = check ]; then
  "$venv/bin/python" "$here/check.py" "http://$address" "$SUPERSET_HOME/password"
else
  echo
  echo "http://$address/superset/dashboard/product-analytics/"
  echo "user admin, password $(cat "$SUPERSET_HOME/password"); Ctrl-C ends it"
  wait $server
fi
