#!/usr/bin/env bash
# The Debian package of PostgreSQL $PG_MAJOR, as `make package` makes it: apt installs it with what it depends on into a fresh root of the release that has
# that major version, a cluster of Debian's own commands runs the extension there, and apt removes it again without a trace.
# usage: package.sh    after make build; takes a minute or two and the network, so .ci/run has it only with TALLY_PACKAGE=1
. "$(dirname "$0")/../pgrx-config/paths.sh"
. "$ROOT/pgrx-config/chroot.sh"
cd "$ROOT"
suite=$(suite_of "$PG_MAJOR") || unavailable "no Debian release packages it"
must_allow_roots
package=$(./pgrx-config/suite.sh ./packaging/deb.sh | tail -1)
echo "installing ${package##*/} into a fresh root of Debian $suite"

root=$PRIVATE/package-$PG_MAJOR
trap 'rm -rf --one-file-system "$root"' EXIT
make_root "$root" "$suite" ca-certificates
cp "$package" "$root/root/"
# By these two files the scripts of a checkout choose a major version.
install -D -t "$root/checkout/pgrx-config" pgrx-config/paths.sh
cp Cargo.toml "$root/checkout/"
cat >"$root/root/try.sh" <<'TRY'
set -euo pipefail
major=$1 package=$2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
name=postgresql-$major-pg-tally
# Debian's server would start a cluster of its own, on a port that this machine may use.
mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/none.conf
apt-get update -q
chosen=$(env -u PG_MAJOR bash -c '. /checkout/pgrx-config/paths.sh && echo "$PG_MAJOR $PG_SUPPORTED"')
newest=$(for each in ${chosen#* }; do if apt-cache show "postgresql-$each" >/dev/null 2>&1; then echo "$each"; fi; done | tail -1)
[ "$newest" = "${chosen%% *}" ] || { echo "make would choose PostgreSQL ${chosen%% *} where the newest is $newest" >&2; exit 1; }
apt-get install -yq --no-install-recommends "/root/$package"
[ "$(dpkg-query -W -f '${db:Status-Status}' "$name")" = installed ]
[ -z "$(dpkg --verify "$name")" ] || { echo "files differ from those that were packed" >&2; exit 1; }

pg_createcluster "$major" try -o listen_addresses= -o shared_preload_libraries=pg_tally -o unix_socket_directories=/var/run/postgresql >/dev/null
pg_ctlcluster "$major" try start
sql() { runuser -u postgres -- psql --cluster "$major/try" -XqAt -v ON_ERROR_STOP=1 "$@"; }
sql -c 'CREATE EXTENSION pg_tally; CREATE ROLE app LOGIN; GRANT tally_writer, tally_reader TO app' -c "SELECT tally.trust_role('app')"
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
event='[{"tenant_id":"t","account_id":"a","name":"n","event_id":"00000000-0000-4000-8000-000000000001","occurred_at":"'$now'"}]'
answers=$(for call in 1 2; do
  sql -c 'SET SESSION AUTHORIZATION app' -c "SELECT accepted, duplicates FROM tally.ingest('$event'::text)"
done)
[ "$answers" = $'1|0\n0|1' ] || { echo "an event and its retry were answered: $answers" >&2; exit 1; }
counted=$(sql -c 'SET SESSION AUTHORIZATION app' -c "BEGIN; SELECT tally.enter('t')" \
  -c 'SELECT sum(events) FROM tally.usage_day' | tail -1)
[ "$counted" = 1 ] || { echo "usage_day shows $counted events instead of 1" >&2; exit 1; }
sql -c 'SELECT extversion FROM pg_extension WHERE extname = $$pg_tally$$' -c 'SHOW server_version'
wrong=$(sql -c "SELECT name, detail FROM tally.lint() WHERE level = 'ERROR'")
[ -z "$wrong" ] || { echo "lint: $wrong" >&2; exit 1; }
pg_ctlcluster "$major" try stop

apt-get purge -yq "$name"
left=$(find / -xdev -path /proc -prune -o -path '/var/lib/postgresql' -prune -o -name '*pg[_-]tally*' ! -path '/root/*' ! -path '/var/cache/*' -print)
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
TRY
unshare --mount --pid --fork --kill-child --propagation private bash -c '
  mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$1" bash /root/try.sh "$2" "$3"' bash "$root" "$PG_MAJOR" "${package##*/}" >"$LOGS/package.log" 2>&1 ||
  { tail -20 "$LOGS/package.log" >&2; fail "see $LOGS/package.log"; }
tail -400 "$LOGS/package.log" | grep -A1 -x '[0-9.]*\.[0-9]*' | head -2
echo "installed by apt, used and removed"
