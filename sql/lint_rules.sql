-- What tally.lint() looks for. Each rule is one way in which isolation could be undone; src of each is lint_*.sql.

CREATE FUNCTION tally.lint_rules(OUT name text, OUT level text, OUT title text, OUT description text)
  RETURNS SETOF record ROWS 62
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT v.* FROM (VALUES
      ('rls_disabled', 'ERROR', 'Row security is off',
       'Without row security the policies of the table don''t count: everybody who may read it reads every tenant.'),
      ('rls_not_forced', 'ERROR', 'Row security does not bind the owner',
       'Without FORCE the table''s owner, and views and elevated functions of that owner, see every tenant.'),
      ('child_unprotected', 'ERROR', 'A partition or child has no protection',
       'Policies of the parent don''t count for statements that name the child.'),
      ('child_outside_extension', 'ERROR', 'A table outside pg_tally is a child of one of its tables',
       'Rows of the parent may lie in a table whose owner and privileges pg_tally doesn''t control.'),
      ('guard_missing', 'ERROR', 'The restrictive policy is missing',
       'Permissive policies are OR-ed: without tally_guard any further policy widens what a tenant sees.'),
      ('guard_altered', 'ERROR', 'The restrictive policy was altered',
       'tally_guard is what bounds every other policy; it must be exactly as pg_tally declares it.'),
      ('tenant_policy_altered', 'ERROR', 'A permissive policy of pg_tally is missing or was altered',
       'tally_tenant and tally_global open the table to the scope and to nothing else.'),
      ('extra_policy', 'WARN', 'A further permissive policy',
       'It widens what is seen as soon as tally_guard is gone, and hides rows from nobody.'),
      ('policy_function', 'WARN', 'A restrictive policy calls a function that is not pg_tally''s',
       'A policy''s function is handed rows before they are known to be in scope, and may keep them.'),
      ('tenant_column_nullable', 'WARN', 'The tenant or account column is nullable',
       'Rows without an id belong to nobody: no scope sees them, and no tenant can remove them.'),
      ('owner_bypasses_rls', 'ERROR', 'The owner of the table bypasses row security',
       'FORCE ROW LEVEL SECURITY doesn''t bind superusers and BYPASSRLS roles.'),
      ('owner_changed', 'ERROR', 'A table of pg_tally does not belong to its owner',
       'A table''s owner can drop its policies.'),
      ('truncate_granted', 'ERROR', 'TRUNCATE is granted on a protected table',
       'TRUNCATE isn''t subject to row security: it removes every tenant''s rows.'),
      ('references_granted', 'WARN', 'REFERENCES is granted on a protected table',
       'A foreign key isn''t subject to row security: whoever may make one can test which keys exist.'),
      ('trigger_granted', 'ERROR', 'TRIGGER is granted on a protected table',
       'A trigger runs with the rights, and in the scope, of whoever writes.'),
      ('write_granted', 'ERROR', 'A table of pg_tally may be written directly',
       'Events are immutable, and numbers, bindings and limits are only written by pg_tally''s functions.'),
      ('read_granted_to_public', 'WARN', 'PUBLIC may read a relation of pg_tally',
       'Reading is for members of pg_tally''s group roles.'),
      ('secret_readable', 'ERROR', 'The tenants'' sketch keys may be read',
       'Who knows a tenant''s key can choose ids that bend its distinct counts.'),
      ('unique_key_without_tenant', 'WARN', 'A unique key does not begin with the tenant',
       'Uniqueness isn''t subject to row security: a refused insert tells that another tenant has the key.'),
      ('foreign_key_without_tenant', 'WARN', 'A foreign key does not pair the tenants',
       'Foreign keys aren''t subject to row security: a row may refer to another tenant''s, and so tell that it exists.'),
      ('trigger_on_table', 'ERROR', 'A trigger on a table of pg_tally',
       'A trigger sees what is written in every scope.'),
      ('rule_on_table', 'ERROR', 'A rewrite rule on a protected table',
       'A rule replaces statements, with the rights of the table''s owner.'),
      ('publication', 'WARN', 'A publication contains a protected table',
       'Logical replication isn''t subject to row security: a subscriber gets every tenant''s rows.'),
      ('statistics_granted', 'ERROR', 'Column statistics may be read',
       'The most common values of a column are rows of every tenant; the view pg_stats hides them, the table doesn''t.'),
      ('default_privileges', 'ERROR', 'Default privileges open tables that pg_tally makes',
       'Partitions and rollups are made later: what is granted by default is granted on them.'),
      ('group_role_attribute', 'ERROR', 'A group role of pg_tally has an attribute that it must not have',
       'Group roles are neither SUPERUSER, BYPASSRLS nor CREATEROLE, and nobody logs in as one.'),
      ('bypassrls_role', 'ERROR', 'A role that bypasses row security may read protected tables',
       'BYPASSRLS makes every policy void.'),
      ('binding_bypasses_rls', 'ERROR', 'A bound or trusted role bypasses row security',
       'A binding holds only for roles that are neither SUPERUSER nor BYPASSRLS.'),
      ('binding_without_role', 'WARN', 'A binding of a role that was dropped',
       'The number of a dropped role may be given to a new one, which would inherit its binding.'),
      ('binding_of_renamed_role', 'WARN', 'A role was renamed after it was bound',
       'A binding counts for a role''s number and name together, so that it never passes to another role: bind it again.'),
      ('binding_ambiguous', 'WARN', 'A login inherits bindings that differ',
       'Members of a bound role inherit its binding. Which of several was meant nobody can tell, so none of them counts.'),
      ('global_role_writes', 'WARN', 'A login that reads every tenant may write or administer, too',
       'A binding to the global scope is for tools that read; what connects all the time should have no other right.'),
      ('global_role_not_analyst', 'WARN', 'A login is bound to the global scope and is no analyst',
       'The global scope is for members of tally_analyst: every statement of this login is refused.'),
      ('bound_role_is_admin', 'ERROR', 'A bound role may administer pg_tally',
       'A member of tally_admin can bind itself to another tenant.'),
      ('bound_role_owns_table', 'ERROR', 'A bound role owns a protected table',
       'A table''s owner can drop its policies.'),
      ('owner_member', 'ERROR', 'A role is a member of tally_owner, tally_security or tally_evaluator',
       'It can SET ROLE to it, and drop every policy, bind itself to any tenant, or alter what expressions run as.'),
      ('evaluator_may', 'ERROR', 'The role that evaluates declared expressions may do something',
       'Code in a declared expression has the rights of tally_evaluator: it owns nothing and is granted USAGE and EXECUTE alone.'),
      ('createrole', 'ERROR', 'A role may grant itself the group roles of pg_tally',
       'Before Postgres 16, CREATEROLE allows granting any role that isn''t superuser, tally_owner and tally_security among them.'),
      ('data_role_member', 'ERROR', 'A role may read or write everything, or reach the server''s files',
       'pg_read_all_data reads pg_tally''s secrets and bindings; files and programs of the server hold every tenant''s rows.'),
      ('replication_role', 'WARN', 'A role may replicate',
       'Replication isn''t subject to row security.'),
      ('role_setting', 'ERROR', 'A role or database setting weakens isolation',
       'row_security, session_replication_role, plan and path settings and a preset scope take effect before anybody enters one.'),
      ('pool_role_setting', 'WARN', 'A pool role has a setting of its own that could change answers',
       'ALTER ROLE CURRENT_USER SET, run by one client, holds for every later one: tally.enter() refuses such a role, and a path on which its clients could put objects is a trap.'),
      ('plan_printing_library', 'INFO', 'A library that prints plans is loaded',
       'Plans tell how many rows of other tenants a filter removed; the library pg_tally, loaded too, keeps the log from the clients that act for tenants.'),
      ('library_not_preloaded', 'WARN', 'Roles act for tenants and the library is not preloaded',
       'Until a session has called one of pg_tally''s functions, EXPLAIN isn''t refused to it: plans tell about other tenants'' rows.'),
      ('view_owner_bypasses_rls', 'ERROR', 'A view reads protected tables with the rights of an owner who bypasses row security',
       'A view without security_invoker reads with its owner''s rights.'),
      ('materialized_view', 'ERROR', 'A materialized view holds rows of protected tables',
       'A materialized view has no row security.'),
      ('security_definer_path', 'ERROR', 'An elevated function without a fixed search path',
       'Everybody may call it, and decides with search_path what its names mean.'),
      ('security_definer_temp', 'WARN', 'An elevated function searches temporary tables first',
       'Where pg_temp isn''t last in its search_path, a caller''s temporary table takes the place of the function''s own.'),
      ('security_definer_reads', 'WARN', 'An elevated function of an owner who bypasses row security names a protected table',
       'It may hand out rows of every tenant.'),
      ('leakproof_function', 'WARN', 'A user''s function is marked LEAKPROOF',
       'Postgres runs leakproof functions on rows before row security has hidden them.'),
      ('public_schema_writable', 'WARN', 'PUBLIC may create objects in schema public',
       'Somebody''s object may take the place of the one that another session means.'),
      ('tally_schema_writable', 'ERROR', 'Others than tally_owner may create objects in schema tally',
       'An object in schema tally is taken for one of pg_tally''s.'),
      ('stranger_in_schema', 'ERROR', 'A function in schema tally is not part of pg_tally',
       'Calls that were meant for pg_tally may reach it.'),
      ('scope_function_altered', 'ERROR', 'A function that policies read the scope through was altered',
       'It must be STABLE, of language C and in pg_tally''s library: a cached plan would serve another tenant''s rows otherwise.'),
      ('elevated_function_altered', 'ERROR', 'An elevated function of pg_tally was altered',
       'Elevated functions belong to tally_owner, those that write bindings and keys to tally_security, and have a fixed search path.'),
      ('function_granted_to_public', 'ERROR', 'PUBLIC may execute a function of pg_tally that is not a pure one',
       'PUBLIC may execute immutable functions of the types and nothing else.'),
      ('file_function_granted', 'ERROR', 'A function that reads or writes the server''s files is granted',
       'The server''s files hold every tenant''s rows.'),
      ('event_trigger', 'WARN', 'An event trigger',
       'It runs with the rights of whoever changes the schema, also when pg_tally makes a partition.'),
      ('table_altered', 'ERROR', 'A table of pg_tally was altered',
       'Ingest and folds write these columns by name and type, and refuse a table that isn''t as it was made.'),
      ('trigger_altered', 'ERROR', 'A trigger of pg_tally does not fire in every mode',
       'What it does would be left undone, without an error, for a subscription''s worker or a restore.'),
      ('own_index', 'INFO', 'An index of your own on tally.events',
       'A dump leaves it out, and a restore stops where the indexes of the partitions are attached to it.'),
      ('replica_identity', 'ERROR', 'A table of pg_tally has no replica identity',
       'A subscriber gets changes that it can''t apply, and stops.')
    ) AS v (name, level, title, description);
  END;
COMMENT ON FUNCTION tally.lint_rules() IS 'the rules of tally.lint(): what each finds, and why it matters';

CREATE FUNCTION tally.isolated_tables(OUT id oid, OUT tenant_column name, OUT account_column name, OUT is_own boolean)
  RETURNS SETOF record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT c.oid, 'tenant_id'::name,
           (SELECT o.attname FROM pg_catalog.pg_attribute AS o
             WHERE o.attrelid = c.oid AND o.attname = 'account_id' AND NOT o.attisdropped), true
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
     WHERE c.relnamespace = 'tally'::regnamespace AND c.relkind IN ('r', 'p')
       AND c.relname NOT IN ('role_binding', 'tenant_limit', 'retention', 'tenant_horizon', 'slo_target')
    UNION ALL
    SELECT f.id::oid, p.tenant_column, p.account_column, false
      FROM tally.protected_table AS p
      JOIN pg_catalog.pg_class AS c ON c.oid = p.table_name
      CROSS JOIN LATERAL tally.family(p.table_name) AS f (id);
  END;
COMMENT ON FUNCTION tally.isolated_tables() IS
  'every table with row security by tenant: pg_tally''s own and the protected ones, with their partitions';
