#!/usr/bin/env bash
# Holds the dependencies to deny.toml: allowed licences, no sources but the one registry, Cargo.lock up to date.
# Runs cargo-deny if it is installed; otherwise this script's own check of the same rules, without advisories.
. "$(dirname "$0")/../pgrx-config/paths.sh"
cd "$ROOT"

if cargo deny --version >/dev/null 2>&1; then
  exec cargo deny --offline check bans licenses sources
fi
echo "cargo-deny is not installed: checking licences, sources and versions without it; advisories are not checked"

allowed=$(sed -n '/^allow = \[/,/^\]/s/^ *"\(.*\)",$/\1/p' deny.toml)
[ -n "$allowed" ] || fail "deny.toml allows no licence"
# Each operand of AND must offer an allowed licence: never laxer than the expression, as OR binds weaker.
tree=$(cargo tree --locked --workspace --no-default-features --features "pg$PG_MAJOR" -e normal,build,dev --prefix none --no-dedupe \
  --format '{p}|{l}' | sed '/^$/d' | sort -u)
crates=$(echo "$tree" | wc -l)
refused=$(echo "$tree" | awk -F'|' -v allowed="$allowed" '
  BEGIN { n = split(allowed, list, "\n"); for (i = 1; i <= n; i++) ok[list[i]] = 1 }
  { expression = $2; gsub(/[()]/, "", expression); gsub(/\//, " OR ", expression)
    operands = split(expression, operand, " AND "); good = operands > 0
    for (i = 1; i <= operands; i++) {
      found = 0; choices = split(operand[i], choice, " OR ")
      for (j = 1; j <= choices; j++) { gsub(/^ +| +$/, "", choice[j]); if (choice[j] in ok) found = 1 }
      good = good && found
    }
    if (!good) print "  " $1 ": " ($2 == "" ? "no licence" : $2) }')
[ -z "$refused" ] || { echo "licences that deny.toml does not allow:"; echo "$refused"; exit 1; }

foreign=$(grep '^source = ' Cargo.lock | sort -u | tail -n +2)
git_sources=$(grep '^source = "git+' Cargo.lock || true)
[ -z "$foreign$git_sources" ] || { echo "more than one source of crates:"; echo "$foreign$git_sources"; exit 1; }

twice=$(echo "$tree" | awk '{print $1}' | sort | uniq -d | tr '\n' ' ')
echo "$crates crates, licences and sources allowed; in two versions: ${twice:-none}"
