# The commands of pg_tally. `make` alone lists them.
SHELL := /bin/bash
# PG_CONFIG names the server of `make install`; everything else uses a private copy under .pg.
PG_CONFIG ?=
# The major version of Postgres; by default the newest supported one that this machine's release packages. For another one, the
# commands run in a chroot of the Debian release that packages it: make test PG_MAJOR=17.
ifdef PG_MAJOR
export PG_MAJOR
endif

RUN := ./pgrx-config/suite.sh
CLUSTER := ./pgrx-config/cluster.sh
LINTS := fmt dependencies clippy other-versions
TIERS := unit pgspot build regress isolation server server-log
# What depends on the major version of Postgres; .ci/run runs these under two of them beside each other.
SERVER_TIERS := build regress isolation server server-log

.DEFAULT_GOAL := help
.PHONY: all help setup setup-tests build install demo dashboard psql stop lint test test-server check package test-package release bench accept reference clean
.NOTPARALLEL:

# What PGXN's client calls before `make install`, which builds.
all:

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: ## install what is missing: PostgreSQL, headers, clang, cargo-pgrx
	@$(RUN) ./pgrx-config/prerequisites.sh

setup-tests: ## the same, and what tests and benchmarks compare with
	@$(RUN) ./pgrx-config/prerequisites.sh tests

build: setup ## build the extension and install it into the private server
	@$(RUN) ./pgrx-config/install-extension.sh

install: ## build and install into your own server: make install PG_CONFIG=/path/to/pg_config
	@test -n "$(PG_CONFIG)" || { echo 'which server? make install PG_CONFIG=/path/to/pg_config' >&2; exit 2; }
	@./pgrx-config/install-extension.sh "$(PG_CONFIG)"

demo: build ## start a private cluster and show the whole path at work
	@$(RUN) ./demo/run.sh

dashboard: build ## show the demo's data in Apache Superset, on 127.0.0.1 (830 MB from PyPI on first use)
	@$(RUN) ./dashboards/superset/run.sh

# The database and the login of `make psql`. Make itself has a variable AS, so `?=` would leave that.
DB = tally_demo
AS = postgres
psql: ## open a shell on the demo's cluster: make psql DB=tour AS=shop_app
	@$(RUN) ./pgrx-config/psql.sh "$(DB)" "$(AS)"

stop: ## stop the private clusters
	@$(RUN) $(CLUSTER) stop

lint: ## formatting, clippy, licences, other versions of Postgres
	@$(RUN) ./tests/stages.sh $(LINTS)

test: setup-tests ## run every tier of tests
	@$(RUN) ./tests/stages.sh $(TIERS)

test-server: setup-tests ## run the tiers that depend on the major version: make test-server PG_MAJOR=17
	@$(RUN) ./tests/stages.sh $(SERVER_TIERS)

check: setup-tests ## what CI runs: lint, then every tier, fastest first
	@$(RUN) ./tests/stages.sh $(LINTS) $(TIERS)

package: build ## make a Debian package in target/package
	@$(RUN) ./packaging/deb.sh

test-package: build ## install that package into a fresh root of its Debian release, use and remove it (needs root)
	@./tests/stages.sh package

release: build ## freeze the install script of the version in Cargo.toml (docs/runbooks/release.md)
	@$(RUN) ./packaging/release.sh

bench: setup-tests ## paired benchmarks against peers
	@$(RUN) ./bench/run.sh

accept: ## take a SQL test's present output for the expected: make accept TIER=regress TEST=name
	@$(RUN) bash -c './tests/template-database.sh && ./tests/sql-tier.sh $(or $(TIER),regress) --accept $(TEST)'

reference: build ## write docs/sql-reference.md from what is installed
	@$(RUN) bash -c './tests/template-database.sh && TALLY_WRITE_REFERENCE=1 cargo test --quiet --locked --profile harness -p tally-server-tests --test extension the_reference'

clean: ## stop the clusters and remove them, the server copy and all build output
	@./pgrx-config/remove.sh
