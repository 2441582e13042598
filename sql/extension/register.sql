-- What nouns add themselves to. A noun adds a housekeeping task, a health check or lint rules by making functions in
-- tally_internal, in its own file, whose names begin so:
--   task_NAME()                   when it comes in a round, and what it is about: (place int4, subject text)
--   step_NAME(subject, max_rows)  one bounded step of it: (done int8, is_over boolean), is_over where nothing is left for now
--   health_NAME()                 components of tally.health(): (place int4, component, status, value, "limit", advice)
--   lint_NAME()                   findings of tally.lint(): (rule, type, schema, object, detail, fix)
--   rules_NAME()                  the rules that these are of: (name, level, title, description)
--   sensitive_NAME()              acts that ask for a step-up by tally_internal.require_step_up(act): (act, description,
--                                 held_by), the last a group of which the login itself must be a member, or null
--   seek_NAME(tenant_id, subjects, sought)  finds what the noun keeps of erased users, before ingest is locked out, since that may take its time: jsonb. Called
--                                 again, with what it found, once ingest is locked out: what came since is added
--   pin_NAME(sought)              locks of that what tenants' own functions may lock, too
--   forget_NAME(tenant_id, subjects, sought)  removes what the noun keeps of erased users besides events and rollups: how many rows (int8)
--   unname_NAME(tenant_id, subjects, sought)  takes texts away in which erased users are named by their words, of those that are known to have
--                                 been users: a word alone is no person; how many rows (int8)
--   own_NAME(tenant_id, subjects)  what of it somebody requested who now asks for the erasure, as text, null for nothing: that is refused
-- They run with the caller's rights, and tally_admin (lint: tally_auditor, too; sensitive acts: tally_owner and tally_security alone) must be granted
-- them; what seeks, pins, forgets and unnames runs with those of tally_owner, in the global scope, what forgets and unnames with ingest locked out. Only members of the extension
-- are called: in tally_internal nobody may create anything, and what a superuser puts there is reported by tally.lint().

CREATE FUNCTION tally_internal.registered(beginning text) RETURNS SETOF text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT pg_catalog.substr(p.proname::text, pg_catalog.length(beginning) + 1)
      FROM pg_catalog.pg_extension AS e
      JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid
       AND d.classid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'e'
      JOIN pg_catalog.pg_proc AS p ON p.oid = d.objid
     WHERE e.extname = 'pg_tally' AND p.pronamespace = 'tally_internal'::regnamespace
       AND pg_catalog.starts_with(p.proname::text, beginning)
     ORDER BY p.proname;
  END;
COMMENT ON FUNCTION tally_internal.registered(text) IS
  'what nouns have added to a register: the rest of the names of those of pg_tally''s functions that begin so';

-- Names are those of our own functions.
CREATE FUNCTION tally_internal.every(beginning text, columns text) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT pg_catalog.string_agg(pg_catalog.format('SELECT %s, %L::text AS registered FROM tally_internal.%I() AS r', columns, n.name, beginning || n.name),
                                 ' UNION ALL ' ORDER BY n.name)
      FROM tally_internal.registered(beginning) AS n (name);
  END;
COMMENT ON FUNCTION tally_internal.every(text, text) IS
  'a query of these columns of all that is registered so, and of the rest of the name as "registered"';

REVOKE ALL ON FUNCTION tally_internal.registered(text), tally_internal.every(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.registered(text), tally_internal.every(text, text) TO tally_admin, tally_auditor;
