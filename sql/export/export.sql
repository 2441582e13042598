-- Exports: requested by one, approved by another, run once by who requested. src/export binds a request to all that its answer hangs on.

CREATE TABLE tally.export (
  requested_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at     timestamptz NOT NULL,
  decided_at     timestamptz,
  started_at     timestamptz,
  ended_at       timestamptz,
  max_rows       int8 NOT NULL,
  rows           int8,
  run_token      int8,
  approvals      int4 NOT NULL,
  id             uuid NOT NULL CONSTRAINT export_pkey PRIMARY KEY,
  requester_role regrole NOT NULL,
  approvers_role regrole NOT NULL,
  tenant_id      text COLLATE "C" NOT NULL,
  account_id     text COLLATE "C",
  requester      name NOT NULL,
  identities     text[] COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL,
  classification text COLLATE "C" NOT NULL,
  approvers      name NOT NULL,
  purpose        text NOT NULL,
  query          text NOT NULL,
  params         jsonb NOT NULL,
  columns        jsonb NOT NULL,
  query_hash     bytea NOT NULL,
  request_hash   bytea NOT NULL,
  content_hash   bytea,
  reason         text,
  CONSTRAINT export_state_known CHECK (state IN ('requested', 'approved', 'rejected', 'withdrawn', 'void', 'running', 'done', 'failed'))
);
ALTER TABLE tally.export OWNER TO tally_owner;
CREATE INDEX export_tenant ON tally.export (tenant_id, requested_at);
COMMENT ON TABLE tally.export IS 'exports that were requested, and what became of them';
COMMENT ON COLUMN tally.export.requested_at IS 'when it was requested';
COMMENT ON COLUMN tally.export.expires_at IS 'until when it can be approved and started';
COMMENT ON COLUMN tally.export.decided_at IS 'when it was approved, rejected, withdrawn or found void';
COMMENT ON COLUMN tally.export.started_at IS 'when it was started, which happens once';
COMMENT ON COLUMN tally.export.ended_at IS 'when it ended; null also where it was broken off';
COMMENT ON COLUMN tally.export.max_rows IS 'rows that it may have; one counts once for each 4 kB that it begins';
COMMENT ON COLUMN tally.export.rows IS 'rows that were handed out';
COMMENT ON COLUMN tally.export.run_token IS 'random number of the one who started it';
COMMENT ON COLUMN tally.export.approvals IS 'people who must approve';
COMMENT ON COLUMN tally.export.id IS 'the export';
COMMENT ON COLUMN tally.export.requester_role IS 'the requester''s number: another role of its name is somebody else';
COMMENT ON COLUMN tally.export.approvers_role IS 'the approvers'' number: another role of its name is none whose members may approve it';
COMMENT ON COLUMN tally.export.tenant_id IS 'the tenant in whose scope it was requested; empty in the global scope';
COMMENT ON COLUMN tally.export.account_id IS 'the account, where the scope was one';
COMMENT ON COLUMN tally.export.requester IS 'the role that logged in and requested it';
COMMENT ON COLUMN tally.export.identities IS 'who requested it: login, subject of the token, and the person whose they are';
COMMENT ON COLUMN tally.export.state IS 'requested, approved, rejected, withdrawn, void, running, done or failed';
COMMENT ON COLUMN tally.export.classification IS 'what it reads: aggregate, raw or personal';
COMMENT ON COLUMN tally.export.approvers IS 'the group role whose members may approve it';
COMMENT ON COLUMN tally.export.purpose IS 'what it is for, in the requester''s words';
COMMENT ON COLUMN tally.export.query IS 'the query';
COMMENT ON COLUMN tally.export.params IS 'values of its parameters, each a text, in order';
COMMENT ON COLUMN tally.export.columns IS 'names and types of what it returns, in order';
COMMENT ON COLUMN tally.export.query_hash IS 'SHA-256 of the query';
COMMENT ON COLUMN tally.export.request_hash IS 'hash of query, parameters, scope, columns, limit, requester and of what the query reads, which each approval is for';
COMMENT ON COLUMN tally.export.content_hash IS 'SHA-256 of the lines that were handed out, each with its line feed';
COMMENT ON COLUMN tally.export.reason IS 'why it was rejected, withdrawn, void or failed';

CREATE TABLE tally.export_approval (
  at            timestamptz NOT NULL DEFAULT clock_timestamp(),
  approver_role regrole NOT NULL,
  export_id     uuid NOT NULL,
  approver      name NOT NULL,
  identities    text[] COLLATE "C" NOT NULL,
  request_hash  bytea NOT NULL,
  CONSTRAINT export_approval_pkey PRIMARY KEY (export_id, identities)
);
ALTER TABLE tally.export_approval OWNER TO tally_owner;
COMMENT ON TABLE tally.export_approval IS 'who approved which export';
COMMENT ON COLUMN tally.export_approval.at IS 'when';
COMMENT ON COLUMN tally.export_approval.approver_role IS 'the approver''s number';
COMMENT ON COLUMN tally.export_approval.export_id IS 'the export';
COMMENT ON COLUMN tally.export_approval.approver IS 'the role that logged in';
COMMENT ON COLUMN tally.export_approval.identities IS 'who approved: login, subject of the token, and the person whose they are';
COMMENT ON COLUMN tally.export_approval.request_hash IS 'what was approved (tally.export.request_hash)';
SELECT tally_internal.confine_table('tally.export'), tally_internal.confine_table('tally.export_approval');
REVOKE ALL ON tally.export, tally.export_approval FROM PUBLIC;
GRANT SELECT ON tally.export, tally.export_approval TO tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.export', '');
SELECT pg_catalog.pg_extension_config_dump('tally.export_approval', '');

-- Another cluster has other numbers for the same roles: a dump has their names.
CREATE FUNCTION tally_internal.number_identities() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  number text := 'role ' || (to_jsonb(NEW) ->> TG_ARGV[0])::regrole::oid;
BEGIN
  NEW.identities := ARRAY(SELECT CASE WHEN i.identity LIKE 'role %' THEN number ELSE i.identity END
                            FROM unnest(NEW.identities) WITH ORDINALITY AS i (identity, place) ORDER BY i.place);
  RETURN NEW;
END
$$;
COMMENT ON FUNCTION tally_internal.number_identities() IS
  'trigger: has the number among the identities be that of the role in the column that the argument names, also after a restore';
CREATE TRIGGER export_numbered BEFORE INSERT ON tally.export FOR EACH ROW EXECUTE FUNCTION tally_internal.number_identities('requester_role');
CREATE TRIGGER export_approval_numbered BEFORE INSERT ON tally.export_approval
  FOR EACH ROW EXECUTE FUNCTION tally_internal.number_identities('approver_role');
ALTER TABLE tally.export ENABLE ALWAYS TRIGGER export_numbered;
ALTER TABLE tally.export_approval ENABLE ALWAYS TRIGGER export_approval_numbered;
REVOKE ALL ON FUNCTION tally_internal.number_identities() FROM PUBLIC;

-- What was requested and approved stays as it is: only what became of it changes, and only by our functions. An erasure takes away
-- words that name a person; without its query, what was not run is void.
CREATE FUNCTION tally_internal.keep_export() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  fate  text[] := '{decided_at,started_at,ended_at,rows,run_token,state,content_hash,reason}';
  words text[] := '{query,params,columns,purpose}';
BEGIN
  IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'export' THEN
    IF to_jsonb(OLD) - fate = to_jsonb(NEW) - fate THEN
      RETURN NEW;
    END IF;
    IF current_user = 'tally_owner' AND to_jsonb(OLD) - words - fate = to_jsonb(NEW) - words - fate AND NEW.purpose IN (OLD.purpose, '')
       AND (to_jsonb(NEW) @> '{"query": "", "params": [], "columns": []}' AND NEW.state NOT IN ('requested', 'approved')
            OR (NEW.query, NEW.params, NEW.columns) = (OLD.query, OLD.params, OLD.columns)) THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
    MESSAGE = format('what was requested and approved is not to be changed: %s of tally.%I is refused', TG_OP, TG_TABLE_NAME),
    HINT = 'request another export';
END
$$;
COMMENT ON FUNCTION tally_internal.keep_export() IS 'trigger: refuses to change what was requested and approved';
CREATE TRIGGER export_kept BEFORE UPDATE OR DELETE ON tally.export FOR EACH ROW EXECUTE FUNCTION tally_internal.keep_export();
CREATE TRIGGER export_not_emptied BEFORE TRUNCATE ON tally.export FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.keep_export();
CREATE TRIGGER export_approval_kept BEFORE UPDATE OR DELETE ON tally.export_approval FOR EACH ROW EXECUTE FUNCTION tally_internal.keep_export();
CREATE TRIGGER export_approval_not_emptied BEFORE TRUNCATE ON tally.export_approval FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.keep_export();
ALTER TABLE tally.export ENABLE ALWAYS TRIGGER export_kept, ENABLE ALWAYS TRIGGER export_not_emptied;
ALTER TABLE tally.export_approval ENABLE ALWAYS TRIGGER export_approval_kept, ENABLE ALWAYS TRIGGER export_approval_not_emptied;

CREATE FUNCTION tally_internal.record_export(request jsonb) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  rule  record;
  state text;
BEGIN
  SELECT * INTO rule FROM tally_internal.export_rule(request ->> 'tenant_id', request ->> 'classification', (request ->> 'max_rows')::int8);
  state := CASE WHEN rule.approvals = 0 THEN 'approved' ELSE 'requested' END;
  INSERT INTO tally.export (expires_at, decided_at, max_rows, approvals, id, requester_role, approvers_role, tenant_id, account_id, requester, identities, state, classification, approvers,
    purpose, query, params, columns, query_hash, request_hash)
  VALUES (clock_timestamp() + rule.valid_for, CASE WHEN rule.approvals = 0 THEN clock_timestamp() END, (request ->> 'max_rows')::int8, rule.approvals,
    (request ->> 'id')::uuid, quote_ident(session_user)::regrole, rule.approvers_role, request ->> 'tenant_id', request ->> 'account_id', session_user,
    tally_internal.with_persons(ARRAY(SELECT jsonb_array_elements_text(request -> 'identities'))), state, request ->> 'classification', rule.approvers,
    request ->> 'purpose', request ->> 'query', (request ->> 'params')::jsonb, request -> 'columns', decode(request ->> 'query_hash', 'hex'),
    decode(request ->> 'request_hash', 'hex'));
  PERFORM tally_internal.record_act('export_requested', request ->> 'id',
    jsonb_build_object('classification', request -> 'classification', 'max_rows', request -> 'max_rows', 'approvals', rule.approvals,
      'approvers', rule.approvers, 'query_hash', request -> 'query_hash', 'request_hash', request -> 'request_hash'),
    request ->> 'tenant_id', request ->> 'account_id',
    jsonb_strip_nulls(jsonb_build_object('purpose', request -> 'purpose', 'subject', request -> 'subject')));
  IF state = 'approved' THEN
    PERFORM tally_internal.record_act('export_approved', request ->> 'id', '{"by": "policy"}', request ->> 'tenant_id', request ->> 'account_id');
  ELSE
    PERFORM pg_notify('tally_export', '');
  END IF;
  RETURN state;
END
$$;
COMMENT ON FUNCTION tally_internal.record_export(jsonb) IS 'part of tally.request_export(): keeps the request, and says whether policy approves it by itself';

CREATE FUNCTION tally.request_export(query text, purpose text, max_rows int8, params jsonb DEFAULT '[]') RETURNS uuid
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'request_export_wrapper';
COMMENT ON FUNCTION tally.request_export(text, text, int8, jsonb) IS
  'requests an export of what a query returns in the present scope, of so many rows at most, of which each counts once for each 4 kB that it begins; params are the values of $1, $2, …, each a text. Returns its id; when others have approved it, tally.run_export() hands it out once. LISTEN tally_export tells approvers that there is something to approve';

CREATE FUNCTION tally.run_export(id uuid) RETURNS SETOF text
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT ROWS 100000 AS 'MODULE_PATHNAME', 'run_export_wrapper';
COMMENT ON FUNCTION tally.run_export(uuid) IS
  'hands out an approved export, once, to who requested it, in the same scope: a line of JSON for each row. Use COPY (SELECT tally.run_export(…)) TO STDOUT, or a cursor; pg_stat_progress_copy shows how far it is';

CREATE FUNCTION tally_internal.client_approves() RETURNS boolean
  LANGUAGE c STABLE PARALLEL RESTRICTED STRICT AS 'MODULE_PATHNAME', 'client_approves_wrapper';
COMMENT ON FUNCTION tally_internal.client_approves() IS
  'whether the client''s own statement does nothing but call tally.approve_export(), by its text and by its plan';

-- A crash must not bring back what was withdrawn or handed out.
CREATE FUNCTION tally_internal.commit_for_good() RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.commit_for_good() IS 'has the transaction''s commit wait until it is on disk';

-- The checks that approving and rejecting share; locks the export.
CREATE FUNCTION tally_internal.judge_export(id uuid, act text) RETURNS tally.export
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  export   tally.export;
  own      text[] := tally_internal.with_persons(tally_internal.acting_identities());
  confined text := tally_internal.confined_to();
  problem  text;
BEGIN
  -- What an older snapshot shows of persons and policies may hold no more.
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction', MESSAGE = 'exports are approved and rejected at isolation level read committed',
      HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED';
  END IF;
  PERFORM tally_internal.commit_for_good();
  SELECT e.* INTO export FROM tally.export AS e
   WHERE e.id = judge_export.id AND (confined IS NULL OR tally.in_scope(e.tenant_id, coalesce(e.account_id, ''), tally.scope_key())) FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no export %s', judge_export.id), HINT = 'tally.exports lists them';
  END IF;
  problem := CASE
    WHEN cardinality(own) = 0 THEN 'a pool role approves for whom its token is made, and this one says for nobody'
    WHEN NOT tally_internal.may_approve(export.approvers, export.approvers_role)
      THEN format('role "%s" is no member of "%s", whose members may', session_user, export.approvers)
    -- As it is mapped now, and as it was mapped when it was requested.
    WHEN own && export.identities OR own && tally_internal.with_persons(export.identities)
      THEN 'the same person requested it' END;
  IF problem IS NOT NULL THEN
    PERFORM tally_internal.record_act('export_denied', export.id::text, jsonb_build_object('act', act, 'reason', problem), export.tenant_id, export.account_id);
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('export %s is not yours to judge', export.id), DETAIL = problem,
      HINT = 'another person, who may approve, decides';
  END IF;
  IF export.state <> 'requested' THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('export %s is %s', export.id, export.state),
      HINT = 'only what was requested, and not decided yet, can be';
  END IF;
  IF export.expires_at <= clock_timestamp() THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('export %s has expired', export.id), HINT = 'request it again';
  END IF;
  RETURN export;
END
$$;
COMMENT ON FUNCTION tally_internal.judge_export(uuid, text) IS 'part of tally.approve_export() and tally.reject_export(): the export, where whoever acts may judge it';

CREATE FUNCTION tally.approve_export(id uuid, request_hash text DEFAULT NULL) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  own    text[];
  export tally.export;
  stack  text;
  given  int8;
BEGIN
  -- Not on behalf of somebody whose function or view an approver happens to use.
  GET DIAGNOSTICS stack = PG_CONTEXT;
  IF stack LIKE E'%\n%' OR NOT tally_internal.client_approves() THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'an export is approved by a statement of the approver''s own, not by a function or a view',
      HINT = 'send SELECT tally.approve_export(''id'', ''request_hash'') as a statement by itself';
  END IF;
  IF approve_export.id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'id must not be null',
      HINT = 'tally.exports shows the ids of exports';
  END IF;
  PERFORM tally_internal.require_step_up('approve_export');
  export := tally_internal.judge_export(approve_export.id, 'approve');
  IF approve_export.request_hash IS NOT NULL AND approve_export.request_hash <> encode(export.request_hash, 'hex') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('that is not the hash of export %s', export.id),
      HINT = 'tally.exports has request_hash: look at what it is of before you approve it';
  END IF;
  own := tally_internal.with_persons(tally_internal.acting_identities());
  IF EXISTS (SELECT FROM tally.export_approval AS a WHERE a.export_id = export.id AND own && tally_internal.with_persons(a.identities)) THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('export %s was approved by the same person', export.id),
      HINT = format('%s people must approve it', export.approvals);
  END IF;
  INSERT INTO tally.export_approval (approver_role, export_id, approver, identities, request_hash)
  VALUES (quote_ident(session_user)::regrole, export.id, session_user, own, export.request_hash);
  given := (SELECT count(*) FROM tally.export_approval AS a WHERE a.export_id = export.id);
  PERFORM tally_internal.record_act('export_approved', export.id::text,
    jsonb_build_object('by', 'person', 'approvals', given, 'of', export.approvals, 'request_hash', encode(export.request_hash, 'hex')), export.tenant_id, export.account_id,
    (SELECT jsonb_build_object('subject', substr(s.identity, 9)) FROM unnest(own) AS s (identity) WHERE s.identity LIKE 'subject %' LIMIT 1));
  IF given < export.approvals THEN
    RETURN 'requested';
  END IF;
  UPDATE tally.export AS e SET state = 'approved', decided_at = clock_timestamp() WHERE e.id = export.id;
  RETURN 'approved';
END
$$;
COMMENT ON FUNCTION tally.approve_export(uuid, text) IS
  'approves an export that another person has requested, by a statement of its own, with a second factor as policy says; with the hash that tally.exports shows, nothing else than that. Returns the export''s state';

CREATE FUNCTION tally.reject_export(id uuid, reason text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  export tally.export;
BEGIN
  IF reject_export.id IS NULL OR reject_export.reason IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'id and reason must not be null',
      HINT = 'tally.exports shows the ids of exports; the reason is told to who requested it';
  END IF;
  PERFORM tally_internal.check_words('reason', reject_export.reason);
  export := tally_internal.judge_export(reject_export.id, 'reject');
  UPDATE tally.export AS e SET state = 'rejected', decided_at = clock_timestamp(), reason = reject_export.reason WHERE e.id = export.id;
  PERFORM tally_internal.record_act('export_rejected', export.id::text, NULL, export.tenant_id, export.account_id, jsonb_build_object('reason', reject_export.reason));
END
$$;
COMMENT ON FUNCTION tally.reject_export(uuid, text) IS 'rejects an export that another person has requested';

CREATE FUNCTION tally.withdraw_export(id uuid, reason text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  export tally.export;
BEGIN
  PERFORM tally_internal.check_words('reason', withdraw_export.reason);
  PERFORM tally_internal.commit_for_good();
  -- Whoever requested it, and any approver, as long as it isn't started.
  SELECT e.* INTO export FROM tally.export AS e
   WHERE e.id = withdraw_export.id
     AND (tally_internal.is_requester(e.identities) OR tally_internal.may_approve(e.approvers, e.approvers_role))
     AND (tally_internal.confined_to() IS NULL OR tally.in_scope(e.tenant_id, coalesce(e.account_id, ''), tally.scope_key()))
     FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no export %s of yours', coalesce(withdraw_export.id::text, 'null')), HINT = 'tally.exports lists them';
  END IF;
  IF export.state NOT IN ('requested', 'approved') THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('export %s is %s', export.id, export.state),
      HINT = 'what is running ends with its session: pg_terminate_backend()';
  END IF;
  UPDATE tally.export AS e SET state = 'withdrawn', decided_at = clock_timestamp(), reason = withdraw_export.reason WHERE e.id = export.id;
  PERFORM tally_internal.record_act('export_withdrawn', export.id::text, NULL, export.tenant_id, export.account_id,
    CASE WHEN withdraw_export.reason IS NOT NULL THEN jsonb_build_object('reason', withdraw_export.reason) END);
END
$$;
COMMENT ON FUNCTION tally.withdraw_export(uuid, text) IS 'takes an export back that was not started, also an approved one: by who requested it, or an approver';

-- Who was mapped to one person since is one person.
CREATE FUNCTION tally_internal.are_several_people(id uuid) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN NOT EXISTS (
    WITH party AS MATERIALIZED (
      SELECT 0 AS place, tally_internal.with_persons(e.identities) AS identities FROM tally.export AS e WHERE e.id = are_several_people.id
      UNION ALL
      SELECT row_number() OVER (), tally_internal.with_persons(a.identities) FROM tally.export_approval AS a WHERE a.export_id = are_several_people.id)
    SELECT FROM party AS p JOIN party AS o ON p.place < o.place AND p.identities && o.identities);
END
$$;
COMMENT ON FUNCTION tally_internal.are_several_people(uuid) IS
  'part of tally.run_export(): whether who requested an export and who approved it are all different people, as they are mapped now';

-- Called by a process of its own, so that they stay whatever becomes of the transaction that hands the rows out.
CREATE FUNCTION tally_internal.start_export(id uuid, token int8) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  export tally.export;
BEGIN
  PERFORM tally_internal.commit_for_good();
  UPDATE tally.export AS e SET state = 'running', started_at = clock_timestamp(), run_token = start_export.token
   WHERE e.id = start_export.id AND e.state = 'approved' AND e.requester = session_user AND e.expires_at > clock_timestamp()
     AND (SELECT count(*) FROM tally.export_approval AS a WHERE a.export_id = e.id AND a.request_hash = e.request_hash) >= e.approvals
     AND tally_internal.are_several_people(e.id)
  RETURNING e.* INTO export;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM tally_internal.record_act('export_started', export.id::text, jsonb_build_object('request_hash', encode(export.request_hash, 'hex')),
    export.tenant_id, export.account_id);
  RETURN true;
END
$$;
COMMENT ON FUNCTION tally_internal.start_export(uuid, int8) IS 'part of tally.run_export(): has an approved export run, once';

CREATE FUNCTION tally_internal.end_export(id uuid, state text, handed_out int8, content_hash text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.commit_for_good();
  IF end_export.state IN ('void', 'alone') THEN
    UPDATE tally.export AS e SET state = 'void', decided_at = clock_timestamp(),
      reason = CASE end_export.state WHEN 'void' THEN 'what it reads has changed since it was requested'
                                     ELSE 'who requested and who approved it are the same person, as they are mapped now' END
     WHERE e.id = end_export.id AND e.state IN ('requested', 'approved') AND e.requester = session_user;
  ELSE
    UPDATE tally.export AS e SET state = CASE end_export.state WHEN 'done' THEN 'done' ELSE 'failed' END, ended_at = clock_timestamp(), rows = handed_out,
      content_hash = decode(end_export.content_hash, 'hex'),
      reason = CASE end_export.state WHEN 'failed' THEN 'it has more rows than were approved'
                                     WHEN 'changed' THEN 'something that it goes by was changed while it ran' ELSE e.reason END
     WHERE e.id = end_export.id AND e.state = 'running' AND e.requester = session_user;
  END IF;
END
$$;
COMMENT ON FUNCTION tally_internal.end_export(uuid, text, int8, text) IS 'part of tally.run_export(): keeps how an export ended';

CREATE FUNCTION tally_internal.is_text_naming(text text, subjects text[]) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_is_text_naming';
COMMENT ON FUNCTION tally_internal.is_text_naming(text, text[]) IS
  'whether a text names one of the subjects, as a word or words of its own; an id of fewer than four characters stands there by chance';

CREATE FUNCTION tally_internal.is_query_naming(query text, params text, subjects text[]) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'tally_is_query_naming';
COMMENT ON FUNCTION tally_internal.is_query_naming(text, text, text[]) IS
  'whether strings, quoted names, comments or numbers of a query, or its parameters, a JSON array, name one of the subjects; ids of fewer than four characters only as all of a value';

CREATE FUNCTION tally_internal.seek_exports(tenant_id text, subjects text[], sought jsonb) RETURNS jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF sought <> '{}' THEN
    RETURN sought;
  END IF;
  -- Exports of all tenants, too, where they name the tenant: whose user an id is, nobody knows otherwise.
  RETURN jsonb_build_object(
    'exports', ARRAY(
      SELECT e.id FROM tally.export AS e
       WHERE (tally_internal.is_query_naming(e.query, e.params::text, subjects) OR tally_internal.is_text_naming(e.purpose, subjects)
              OR tally_internal.is_text_naming(e.reason, subjects))
         AND (e.tenant_id = seek_exports.tenant_id
              OR e.tenant_id = '' AND (tally_internal.is_query_naming(e.query, e.params::text, ARRAY[seek_exports.tenant_id])
                                       OR tally_internal.is_text_naming(e.purpose, ARRAY[seek_exports.tenant_id])))),
    'entries', ARRAY(
      SELECT p.entry_id FROM tally.audit_personal AS p
       WHERE p.tenant_id = seek_exports.tenant_id AND p.content ~ '"(purpose|reason)"' AND tally_internal.are_words_naming(p.content, subjects)));
END
$$;
COMMENT ON FUNCTION tally_internal.seek_exports(text, text[], jsonb) IS
  'part of an erasure: exports that name one of the subjects, and entries of the tenant''s audit log whose purpose or reason does';

CREATE FUNCTION tally_internal.pin_exports(sought jsonb) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM FROM tally.export AS e WHERE e.id = ANY (ARRAY(SELECT jsonb_array_elements_text(sought -> 'exports')::uuid)) ORDER BY e.id FOR UPDATE;
END
$$;
COMMENT ON FUNCTION tally_internal.pin_exports(jsonb) IS 'part of an erasure: locks the exports that were found';

CREATE FUNCTION tally_internal.are_words_naming(content text, subjects text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce(content::jsonb ->> 'purpose' = ANY (subjects), false) OR coalesce(content::jsonb ->> 'reason' = ANY (subjects), false)
        OR coalesce(tally_internal.is_text_naming(content::jsonb ->> 'purpose', subjects), false) OR coalesce(tally_internal.is_text_naming(content::jsonb ->> 'reason', subjects), false);
  END;
COMMENT ON FUNCTION tally_internal.are_words_naming(text, text[]) IS 'whether the purpose or the reason in the personal part of an audit entry names one of the subjects';

CREATE FUNCTION tally_internal.unname_exports(tenant_id text, subjects text[], sought jsonb) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  named record;
  gone  int8 := 0;
BEGIN
  FOR named IN
    SELECT e.id, e.tenant_id, e.account_id, w.in_query, w.in_purpose, w.in_reason
      FROM tally.export AS e
      CROSS JOIN LATERAL (SELECT tally_internal.is_query_naming(e.query, e.params::text, subjects) AS in_query,
                                 tally_internal.is_text_naming(e.purpose, subjects) AS in_purpose,
                                 coalesce(tally_internal.is_text_naming(e.reason, subjects), false) AS in_reason) AS w
     WHERE e.id = ANY (ARRAY(SELECT jsonb_array_elements_text(sought -> 'exports')::uuid))
       AND (w.in_query OR w.in_purpose OR w.in_reason)
       -- What somebody requests who has asked for the erasure stays, as if it had been refused him for it.
       AND NOT EXISTS (SELECT FROM tally.erasure AS x
                        WHERE x.tenant_id = unname_exports.tenant_id AND x.finished_at IS NULL AND x.subject = ANY (subjects) AND x.requested_at <= e.requested_at
                          AND e.identities && tally_internal.with_persons(ARRAY['login ' || x.requested_by, 'subject ' || x.requested_by, 'role ' || x.requested_role::oid]))
  LOOP
    UPDATE tally.export AS e
       SET query = CASE WHEN named.in_query THEN '' ELSE e.query END,
           params = CASE WHEN named.in_query THEN '[]' ELSE e.params END,
           columns = CASE WHEN named.in_query THEN '[]' ELSE e.columns END,
           purpose = CASE WHEN named.in_purpose THEN '' ELSE e.purpose END,
           decided_at = CASE WHEN named.in_query AND e.state IN ('requested', 'approved') THEN clock_timestamp() ELSE e.decided_at END,
           state = CASE WHEN named.in_query AND e.state IN ('requested', 'approved') THEN 'void' ELSE e.state END,
           reason = CASE WHEN named.in_query AND e.state IN ('requested', 'approved') THEN 'its query named a person who was erased'
                         WHEN named.in_reason THEN 'erased' ELSE e.reason END
     WHERE e.id = named.id;
    PERFORM tally_internal.record_act('export_erased', named.id::text,
      jsonb_build_object('query', named.in_query, 'purpose', named.in_purpose, 'reason', named.in_reason), named.tenant_id, named.account_id);
    gone := gone + 1;
  END LOOP;
  -- What the audit log keeps of the tenant's purposes and reasons.
  PERFORM tally_internal.erase_audit_personal(unname_exports.tenant_id, ARRAY(
    SELECT p.entry_id FROM tally.audit_personal AS p
     WHERE p.tenant_id = unname_exports.tenant_id AND p.entry_id = ANY (ARRAY(SELECT jsonb_array_elements_text(sought -> 'entries')::uuid))
       AND tally_internal.are_words_naming(p.content, subjects)));
  RETURN gone;
END
$$;
COMMENT ON FUNCTION tally_internal.unname_exports(text, text[], jsonb) IS
  'part of an erasure: takes query, parameters, purpose and reason from the exports that were found where they name one of the subjects; hashes, counts and who it was stay';

CREATE FUNCTION tally_internal.own_exports(tenant_id text, subjects text[]) RETURNS text
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN (SELECT 'exports ' || string_agg(e.id::text, ', ' ORDER BY e.requested_at) FROM tally.export AS e
           WHERE (e.tenant_id = own_exports.tenant_id
                  OR e.tenant_id = '' AND (tally_internal.is_query_naming(e.query, e.params::text, ARRAY[own_exports.tenant_id])
                                           OR tally_internal.is_text_naming(e.purpose, ARRAY[own_exports.tenant_id])))
             AND tally_internal.with_persons(e.identities) && tally_internal.with_persons(tally_internal.acting_identities())
             AND (tally_internal.is_query_naming(e.query, e.params::text, subjects) OR tally_internal.is_text_naming(e.purpose, subjects)
                  OR coalesce(tally_internal.is_text_naming(e.reason, subjects), false)));
END
$$;
COMMENT ON FUNCTION tally_internal.own_exports(text, text[]) IS
  'part of an erasure: the exports that name one of the subjects and that the same person requested who asks for the erasure; null where there is none';

CREATE VIEW tally.exports WITH (security_barrier = true) AS
  SELECT e.id, CASE WHEN e.state IN ('requested', 'approved') AND e.expires_at <= clock_timestamp() THEN 'expired' ELSE e.state END AS state,
         e.tenant_id, e.account_id, e.requester, e.purpose, e.classification, e.query, e.params, e.columns, e.max_rows, e.approvals, e.approvers,
         (SELECT count(*) FROM tally.export_approval AS a WHERE a.export_id OPERATOR(pg_catalog.=) e.id) AS approved_by,
         e.requested_at, e.expires_at, e.decided_at, e.started_at, e.ended_at, e.rows, encode(e.query_hash, 'hex') AS query_hash,
         encode(e.request_hash, 'hex') AS request_hash, encode(e.content_hash, 'hex') AS content_hash, e.reason
    FROM tally.export AS e
   WHERE CASE WHEN (SELECT tally_internal.confined_to()) IS NULL
              THEN tally_internal.is_requester(e.identities)
                OR pg_has_role(session_user, 'tally_auditor', 'USAGE')
                OR tally_internal.may_approve(e.approvers, e.approvers_role)
              ELSE tally.in_scope(e.tenant_id, coalesce(e.account_id, ''), (SELECT tally.scope_key()))
               AND (e.requester OPERATOR(pg_catalog.<>) session_user OR tally_internal.is_requester(e.identities)
                    OR pg_has_role(session_user, 'tally_auditor', 'USAGE')
                    OR tally_internal.may_approve(e.approvers, e.approvers_role)) END;
ALTER VIEW tally.exports OWNER TO tally_owner;
COMMENT ON VIEW tally.exports IS 'exports: for auditors all, for approvers those that they may approve, for others their own; in a tenant''s scope the tenant''s, in an account''s scope the account''s, but of a login that people share those of the same person';
COMMENT ON COLUMN tally.exports.id IS 'the export';
COMMENT ON COLUMN tally.exports.state IS 'requested, approved, expired, rejected, withdrawn, void, running, done or failed; one that was broken off stays running';
COMMENT ON COLUMN tally.exports.tenant_id IS 'the tenant in whose scope it was requested; empty in the global scope';
COMMENT ON COLUMN tally.exports.account_id IS 'the account, where the scope was one';
COMMENT ON COLUMN tally.exports.requester IS 'the role that logged in and requested it';
COMMENT ON COLUMN tally.exports.purpose IS 'what it is for, in the requester''s words';
COMMENT ON COLUMN tally.exports.classification IS 'what it reads: aggregate, raw or personal';
COMMENT ON COLUMN tally.exports.query IS 'the query';
COMMENT ON COLUMN tally.exports.params IS 'values of its parameters, in order';
COMMENT ON COLUMN tally.exports.columns IS 'names and types of what it returns, in order';
COMMENT ON COLUMN tally.exports.max_rows IS 'rows that it may have; one counts once for each 4 kB that it begins';
COMMENT ON COLUMN tally.exports.approvals IS 'people who must approve';
COMMENT ON COLUMN tally.exports.approvers IS 'the group role whose members may approve it';
COMMENT ON COLUMN tally.exports.approved_by IS 'people who have approved';
COMMENT ON COLUMN tally.exports.requested_at IS 'when it was requested';
COMMENT ON COLUMN tally.exports.expires_at IS 'until when it can be approved and started';
COMMENT ON COLUMN tally.exports.decided_at IS 'when it was approved, rejected, withdrawn or found void';
COMMENT ON COLUMN tally.exports.started_at IS 'when it was started, which happens once';
COMMENT ON COLUMN tally.exports.ended_at IS 'when it ended; null also where it was broken off';
COMMENT ON COLUMN tally.exports.rows IS 'rows that were handed out';
COMMENT ON COLUMN tally.exports.query_hash IS 'SHA-256 of the query';
COMMENT ON COLUMN tally.exports.request_hash IS 'hash of all that was requested, which tally.approve_export() takes';
COMMENT ON COLUMN tally.exports.content_hash IS 'SHA-256 of the lines that were handed out, each with its line feed';
COMMENT ON COLUMN tally.exports.reason IS 'why it was rejected, withdrawn, void or failed';
REVOKE ALL ON tally.exports FROM PUBLIC;
GRANT SELECT ON tally.exports TO tally_reader, tally_auditor, tally_admin;
GRANT EXECUTE ON FUNCTION tally.in_scope(text, text, text), tally.scope_key() TO tally_auditor, tally_admin; -- a view asks as who reads it

CREATE FUNCTION tally_internal.sensitive_export(OUT act text, OUT description text, OUT held_by name) RETURNS SETOF record
  LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 'approve_export'::text, 'approving an export'::text, NULL::name; -- the policy says whose it is
  END;
COMMENT ON FUNCTION tally_internal.sensitive_export() IS 'acts that may need a second factor: of exports';

ALTER FUNCTION tally.approve_export(uuid, text) OWNER TO tally_owner;
ALTER FUNCTION tally.reject_export(uuid, text) OWNER TO tally_owner;
ALTER FUNCTION tally.withdraw_export(uuid, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally_internal.keep_export(), tally_internal.commit_for_good(),
  tally_internal.is_text_naming(text, text[]), tally_internal.is_query_naming(text, text, text[]), tally_internal.record_export(jsonb),
  tally.request_export(text, text, int8, jsonb), tally.run_export(uuid), tally_internal.client_approves(), tally_internal.judge_export(uuid, text), tally_internal.are_several_people(uuid),
  tally.approve_export(uuid, text), tally.reject_export(uuid, text), tally.withdraw_export(uuid, text), tally_internal.start_export(uuid, int8),
  tally_internal.end_export(uuid, text, int8, text), tally_internal.seek_exports(text, text[], jsonb), tally_internal.pin_exports(jsonb), tally_internal.are_words_naming(text, text[]), tally_internal.unname_exports(text, text[], jsonb), tally_internal.own_exports(text, text[]), tally_internal.sensitive_export() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.commit_for_good(),
  tally_internal.is_text_naming(text, text[]), tally_internal.is_query_naming(text, text, text[]), tally_internal.record_export(jsonb), tally_internal.client_approves(),
  tally_internal.judge_export(uuid, text), tally_internal.are_several_people(uuid), tally_internal.start_export(uuid, int8), tally_internal.end_export(uuid, text, int8, text), tally_internal.seek_exports(text, text[], jsonb), tally_internal.pin_exports(jsonb), tally_internal.are_words_naming(text, text[]), tally_internal.unname_exports(text, text[], jsonb), tally_internal.own_exports(text, text[]) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.sensitive_export() TO tally_owner, tally_security;
GRANT EXECUTE ON FUNCTION tally.request_export(text, text, int8, jsonb), tally.run_export(uuid), tally.approve_export(uuid, text),
  tally.reject_export(uuid, text), tally.withdraw_export(uuid, text) TO tally_reader, tally_auditor, tally_admin;
