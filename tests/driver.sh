#!/usr/bin/env bash
# Runs an example of docs/drivers.md, docs/bi.md or integrations/ with its driver or framework, which is installed beside the private server first.
# usage: driver.sh DRIVER FILE [ARGUMENT...]    PGHOST, PGPORT, PGUSER, PGDATABASE say where
# Ends with 77 where the driver can't be had.
driver=$1 file=$2
export PGHOST PGPORT PGUSER PGDATABASE
. "$(dirname "$0")/../pgrx-config/paths.sh"
place=$PRIVATE/drivers-$PG_MAJOR
unavailable() { echo "$*" >&2; exit 77; }

# Installs into a directory of its own, moved to its place when it is whole: tests of two drivers may come at once.
once() {
  [ ! -e "$place/$1" ] || return 0
  mkdir -p "$place"
  fresh=$(mktemp -d "$place/XXXXXX")
  echo "fetching packages for $1" >&2
  if ! "${@:2}" "$fresh" >&2; then rm -rf "$fresh"; unavailable "$1 can't be installed"; fi
  mv -T "$fresh" "$place/$1" 2>/dev/null || rm -rf "$fresh"
}
npm_packages() { npm install --prefix "$1" --no-audit --no-fund --silent pg@8.23.1 postgres@3.4.9; }
# The packages, and then where.
python_packages() { python3 -m venv "${@: -1}" && "${@: -1}/bin/python" -m pip install --quiet --disable-pip-version-check "${@:1:$#-1}"; }

case $driver in
  django | sqlalchemy)
    once frameworks-5.2.19-2.1.9 python_packages 'Django==5.2.19' 'SQLAlchemy==2.1.9' 'psycopg[binary]==3.3.9'
    "$place/frameworks-5.2.19-2.1.9/bin/python" "$file" ;;
  activerecord)
    ruby -e 'require "active_record"; require "pg"' 2>/dev/null || unavailable "Ruby with ActiveRecord and pg (ruby-activerecord, ruby-pg) isn't installed"
    ruby "$file" ;;
  node-postgres | postgres.js)
    command -v npm >/dev/null || unavailable "node isn't installed"
    once node npm_packages
    example=$(mktemp "$place/node/XXXXXX.mjs")
    trap 'rm -f "$example"' EXIT
    cp "$file" "$example"
    node "$example" ;;
  redis)
    once redis-8.1.0 python_packages 'psycopg[binary]==3.3.9' 'redis==8.1.0'
    exec "$place/redis-8.1.0/bin/python" "$file" "${@:3}" ;;
  psycopg | asyncpg)
    once python python_packages 'psycopg[binary]==3.3.9' 'asyncpg==0.32.0'
    "$place/python/bin/python" "$file" ;;
  pgjdbc)
    jar=/usr/share/java/postgresql.jar
    java --list-modules 2>/dev/null | grep -q '^jdk.compiler' || unavailable "a Java that compiles (default-jdk-headless) isn't installed"
    [ -f "$jar" ] || unavailable "pgJDBC (libpostgresql-jdbc-java) isn't installed"
    java -cp "$jar" "$file" "jdbc:postgresql://$PGHOST:$PGPORT/$PGDATABASE?user=$PGUSER" ;;
  pgx)
    command -v go >/dev/null || unavailable "Go (golang-go) isn't installed"
    [ -d /usr/share/gocode/src/github.com/jackc/pgx/v4 ] || unavailable "pgx (golang-github-jackc-pgx-v4-dev) isn't installed"
    GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$place/go" GOFLAGS= go run "$file" ;;
  pdo)
    php -m 2>/dev/null | grep -qx pdo_pgsql || unavailable "PHP with pdo_pgsql (php-cli, php-pgsql) isn't installed"
    php "$file" ;;
  ruby-pg)
    ruby -e 'require "pg"' 2>/dev/null || unavailable "Ruby with pg (ruby-pg) isn't installed"
    ruby "$file" ;;
  *) echo "unknown driver $driver" >&2; exit 2 ;;
esac
