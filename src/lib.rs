//! pg_tally: multi-tenant product analytics inside Postgres.

::pgrx::pg_module_magic!(name, version);
