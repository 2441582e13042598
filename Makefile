# The commands of pg_tally. `make` alone lists them.
SHELL := /bin/bash
# PG_CONFIG names the server of `make install`; everything else uses a private copy under .pg.
PG_CONFIG ?=
PG_MAJOR ?= 15
export PG_MAJOR

CLUSTER := ./pgrx-config/cluster.sh
LINTS := fmt dependencies clippy other-versions
TIERS := unit pgspot build regress isolation server server-log

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests build install demo psql stop lint test check package release bench accept reference clean
.NOTPARALLEL:

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: ## install what is missing: PostgreSQL, headers, clang, cargo-pgrx
	@./pgrx-config/prerequisites.sh

setup-tests: ## the same, and what tests and benchmarks compare with
	@./pgrx-config/prerequisites.sh tests

build: setup ## build the extension and install it into the private server
	@./pgrx-config/install-extension.sh

install: ## build and install into your own server: make install PG_CONFIG=/path/to/pg_config
	@test -n "$(PG_CONFIG)" || { echo 'which server? make install PG_CONFIG=/path/to/pg_config' >&2; exit 2; }
	@./pgrx-config/install-extension.sh "$(PG_CONFIG)"

demo: build ## start a private cluster and show the whole path at work
	@./demo/run.sh

psql: ## open a shell on the demo's cluster
	@$(CLUSTER) start demo && $(CLUSTER) psql demo -d tally_demo

stop: ## stop the private clusters
	@$(CLUSTER) stop

lint: ## formatting, clippy, licences, other versions of Postgres
	@./tests/stages.sh $(LINTS)

test: setup-tests ## run every tier of tests
	@./tests/stages.sh $(TIERS)

check: setup-tests ## what CI runs: lint, then every tier, fastest first
	@./tests/stages.sh $(LINTS) $(TIERS)

package: build ## make a Debian package in target/package
	@./packaging/deb.sh

release: build ## freeze the install script of the version in Cargo.toml (docs/runbooks/release.md)
	@./packaging/release.sh

bench: setup-tests ## paired benchmarks against peers
	@./bench/run.sh

accept: ## take a SQL test's present output for the expected: make accept TIER=regress TEST=name
	@./tests/template-database.sh && ./tests/sql-tier.sh $(or $(TIER),regress) --accept $(TEST)

reference: build ## write docs/sql-reference.md from what is installed
	@./tests/template-database.sh && TALLY_WRITE_REFERENCE=1 cargo test --quiet --locked --profile harness -p tally-server-tests --test reference --test privileges the_reference

clean: ## stop the clusters and remove them, the server copy and all build output
	@./pgrx-config/remove.sh
