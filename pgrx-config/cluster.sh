#!/usr/bin/env bash
# Starts and stops this checkout's private clusters. Each has its data directory, its settings file and its socket.
# usage: cluster.sh start KIND | stop [KIND] | status | psql KIND [psql's arguments] | env KIND | bin
#   KIND  demo, test, bench or crash (whose servers are killed): settings from postgresql.KIND.conf
#   bin   prints where the private server's programs are
#   env   prints how to connect, as shell assignments (PGHOST, PGPORT, PGUSER)
. "$(dirname "$0")/paths.sh"
# On a slow machine a server takes its time to start and to stop.
export PGCTLTIMEOUT=180

kinds="demo test bench crash"
use() {
  case $1 in
    demo) port=5432 ;;
    test) port=5433 ;;
    bench) port=5434 ;;
    crash) port=5435 ;;
    *) fail "no cluster is called '$1'; there are: $kinds" ;;
  esac
  kind=$1
  data=$PRIVATE/data/$kind-$PG_MAJOR
  log=$LOGS/postgres-$kind.log
}

running() { [ -f "$data/postmaster.pid" ] && as_server "$SERVER/bin/pg_ctl" status -D "$data" >/dev/null; }

create() {
  mkdir -p "$PRIVATE/data"
  # An initdb that was interrupted leaves a directory without this file.
  [ -f "$data/tally.conf" ] && return
  rm -rf "$data"
  install -d -m 700 -o "$SERVER_USER" "$data"
  # Trust is safe here: the socket's directory is closed to everybody else.
  as_server "$SERVER/bin/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
    >"$LOGS/initdb-$kind.log" 2>&1 ||
    { cat "$LOGS/initdb-$kind.log" >&2; fail "initdb failed"; }
  echo "include 'tally.conf'" >>"$data/postgresql.conf"
}

start() {
  [ -x "$SERVER/bin/postgres" ] || fail "no private server; run: make build"
  create
  settings=$(cat "$ROOT/pgrx-config/postgresql.$kind.conf"; echo "listen_addresses = ''"
    echo "unix_socket_directories = '$SOCKETS'"; echo "unix_socket_permissions = 0700"; echo "port = $port")
  if running; then
    [ "$(cat "$data/tally.conf" 2>/dev/null)" != "$settings" ] || return 0
    stop
  fi
  own_directory "$SOCKETS" "$SERVER_USER"
  echo "$settings" >"$data/tally.conf"
  chown "$SERVER_USER" "$data/tally.conf"
  mkdir -p "$LOGS"; touch "$log"; chown "$SERVER_USER" "$log"
  as_server "$SERVER/bin/pg_ctl" start -w -s -D "$data" -l "$log" </dev/null ||
    { tail -20 "$log" >&2; fail "the $kind cluster did not start"; }
  echo "$kind cluster started: psql -h $SOCKETS -p $port -U postgres"
}

stop() {
  running || return 0
  as_server "$SERVER/bin/pg_ctl" stop -w -s -m fast -D "$data"
  echo "$kind cluster stopped"
}

case "${1:-}" in
  start) use "${2:?which cluster: $kinds}"; start ;;
  stop) for each in ${2:-$kinds}; do use "$each"; stop; done ;;
  status) for each in $kinds; do use "$each"; if running; then echo "$kind: running"; else echo "$kind: stopped"; fi; done ;;
  psql) use "${2:?which cluster: $kinds}"; shift 2; exec "$SERVER/bin/psql" -X -h "$SOCKETS" -p "$port" -U postgres "$@" ;;
  env) use "${2:?which cluster: $kinds}"; printf 'PGHOST=%s\nPGPORT=%s\nPGUSER=postgres\n' "$SOCKETS" "$port" ;;
  bin) echo "$SERVER/bin" ;;
  *) sed -n '2,6s/^# //p' "$0"; exit 2 ;;
esac
