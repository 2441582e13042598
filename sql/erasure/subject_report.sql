-- What is kept of a person, to be handed out to it.

CREATE FUNCTION tally_internal.user_dimensions(tenant_id text, ids text[])
  RETURNS TABLE (rollup_name text, column_name text, type_name text, made text[])
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'user_dimensions_wrapper';
COMMENT ON FUNCTION tally_internal.user_dimensions(text, text[]) IS
  'dimensions of declared rollups that are the user id or made from it, each with its type and those of its values, as text, that are of these users of a tenant and of nobody else: what an erasure deletes where it can''t make it anew';
REVOKE ALL ON FUNCTION tally_internal.user_dimensions(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.user_dimensions(text, text[]) TO tally_owner;

CREATE FUNCTION tally.subject_report(tenant_id text, subject text) RETURNS SETOF jsonb
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  own      text := tally.current_tenant();
  -- Under all of these the subject may be stored: as it was sent, and its token where the tenant has keys.
  ids      text[];
  kept     record;
  detached name[];
  part     name;
  accounts text[];
  alone    record;
  is_known boolean := false;
  named    text;
  words    jsonb;
BEGIN
  PERFORM tally_internal.check_id('tenant_id', coalesce(subject_report.tenant_id, '')), tally_internal.check_id('subject', coalesce(subject_report.subject, ''));
  IF own <> subject_report.tenant_id OR tally.current_account() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'a report is of a whole tenant''s subject',
      HINT = 'enter the tenant''s scope, or the global one';
  END IF;
  PERFORM tally_internal.require_step_up('subject_report');
  ids := tally_internal.stored_user_ids(subject_report.tenant_id, subject_report.subject);
  detached := ARRAY(SELECT d.month FROM tally_internal.detached_months() AS d (month));
  -- With those without a user that an erasure takes for the subject's.
  EXECUTE format('SELECT array_agg(DISTINCT o.account_id) FROM (%s) AS o', (
            SELECT string_agg(format('SELECT e.account_id FROM tally.%I AS e WHERE e.tenant_id = $1 AND e.user_id = ANY ($2) AND e.session_id IS NOT NULL', p.part), ' UNION ALL ')
              FROM unnest('events'::name || detached) AS p (part)))
     INTO accounts USING subject_report.tenant_id, ids;
  SELECT array_agg(o.account_id) AS accounts, array_agg(a.event_id) AS ids, array_agg(a.occurred_at) AS times, array_agg(a.part) AS parts INTO alone
    FROM unnest(accounts) AS o (account_id)
   CROSS JOIN LATERAL tally_internal.anonymous_events(subject_report.tenant_id, o.account_id, '-infinity', 'infinity', ids, detached) AS a;
  FOREACH part IN ARRAY 'events'::name || detached LOOP
    RETURN QUERY EXECUTE format(
      'SELECT jsonb_build_object(''from'', %L, ''row'', to_jsonb(e)) FROM tally.%I AS e
        WHERE e.tenant_id = $1
          AND (e.user_id = ANY ($2)
               OR (e.user_id IS NULL AND (e.account_id, e.event_id, e.occurred_at) IN
                     (SELECT a.account_id, a.event_id, a.occurred_at FROM unnest($3, $4, $5, $6) AS a (account_id, event_id, occurred_at, part) WHERE a.part = %L)))
        ORDER BY e.occurred_at, e.event_id', part, part, part)
      USING subject_report.tenant_id, ids, alone.accounts, alone.ids, alone.times, alone.parts;
    is_known := is_known OR FOUND;
  END LOOP;
  -- Those of no tenant that name this one are seen in the global scope alone.
  RETURN QUERY
    SELECT jsonb_build_object('from', 'quarantine', 'row', to_jsonb(q)) FROM tally.quarantine AS q
     CROSS JOIN LATERAL (SELECT CASE WHEN q.tenant_id IN (subject_report.tenant_id, '')
                                     THEN tally_internal.readable_quarantined(q.tenant_id, q.batch_id, q."position", q.body) END) AS r (body)
     WHERE (q.tenant_id = subject_report.tenant_id OR tally_internal.names(r.body, 'tenant_id', ARRAY[subject_report.tenant_id]))
       AND tally_internal.names(r.body, 'user_id', ids)
     ORDER BY q.quarantined_at, q.batch_id, q."position";
  is_known := is_known OR FOUND;
  RETURN QUERY
    SELECT jsonb_build_object('from', 'batches', 'row', to_jsonb(b)) FROM tally.ingest_batch AS b
     WHERE b.tenant_id = subject_report.tenant_id AND (b.source = ANY (ids) OR b.client = ANY (ids)) ORDER BY b.batch_id;
  is_known := is_known OR FOUND;
  -- Rollups by user, or by what is made of the id.
  FOR kept IN
    SELECT r.rollup_name, g.grain, jsonb_object_agg(d.column_name, d.made) AS made,
           string_agg(format('v.%I = ANY (ARRAY(SELECT jsonb_array_elements_text($2 -> %L))::%s[])', d.column_name, d.column_name, d.type_name), ' OR ') AS is_own
      FROM tally_internal.user_dimensions(subject_report.tenant_id, array_remove(ids, NULL)) AS d
      JOIN tally.rollup AS r ON r.rollup_name = d.rollup_name
     CROSS JOIN LATERAL unnest(r.grains) AS g (grain) GROUP BY 1, 2 ORDER BY 1, 2
  LOOP
    RETURN QUERY EXECUTE format('SELECT jsonb_build_object(''from'', %L, ''row'', to_jsonb(v)) FROM tally.%I AS v WHERE v.tenant_id = $1 AND (%s) ORDER BY v.bucket',
      kept.rollup_name || ' by ' || kept.grain, kept.rollup_name || '_' || kept.grain, kept.is_own) USING subject_report.tenant_id, kept.made;
    is_known := is_known OR FOUND;
  END LOOP;
  RETURN QUERY
    SELECT jsonb_build_object('from', 'audit', 'row', jsonb_build_object('at', a.at, 'act', a.act, 'object', a.object, 'personal', p.content::jsonb))
      FROM tally.audit_personal AS p JOIN tally.audit_entry AS a ON a.tenant_id = p.tenant_id AND a.entry_id = p.entry_id
     WHERE p.tenant_id = subject_report.tenant_id AND tally_internal.is_content_naming(p.content, ids)
     ORDER BY a.at;
  is_known := is_known OR FOUND;
  -- In words that somebody wrote, and in queries, as an erasure finds it: of one that is known, or any word would be.
  IF is_known THEN
    words := tally_internal.seek_exports(subject_report.tenant_id, array_remove(ids, NULL), '{}');
    RETURN QUERY
      SELECT jsonb_build_object('from', 'audit', 'row', jsonb_build_object('at', a.at, 'act', a.act, 'object', a.object, 'personal', p.content::jsonb))
        FROM tally.audit_personal AS p JOIN tally.audit_entry AS a ON a.tenant_id = p.tenant_id AND a.entry_id = p.entry_id
       WHERE p.tenant_id = subject_report.tenant_id AND p.entry_id IN (SELECT jsonb_array_elements_text(words -> 'entries')::uuid)
         AND NOT tally_internal.is_content_naming(p.content, array_remove(ids, NULL))
       ORDER BY a.at;
    RETURN QUERY
      SELECT jsonb_build_object('from', 'exports', 'row', to_jsonb(e) - '{identities,requester,requester_role,approvers,approvers_role}'::text[])
        FROM tally.export AS e
       -- Those over all tenants may name others' users, too: they are seen in the global scope alone.
       WHERE e.id IN (SELECT jsonb_array_elements_text(words -> 'exports')::uuid) AND (e.tenant_id = subject_report.tenant_id OR own IS NULL) ORDER BY e.requested_at;
  END IF;
  -- Whom it was about is kept only of one that is known: one who was erased is not named again. As its events have it: of protected ids the token.
  IF EXISTS (SELECT FROM tally.protection AS p WHERE p.tenant_id IN (subject_report.tenant_id, '') AND p.path = '') THEN
    named := CASE WHEN subject_report.subject LIKE 'tok.0.%' THEN subject_report.subject ELSE ids[2] END;
  ELSE
    named := subject_report.subject;
  END IF;
  PERFORM tally_internal.record_act('subject_reported', NULL, NULL, subject_report.tenant_id, NULL,
                                    CASE WHEN is_known AND named IS NOT NULL THEN jsonb_build_object('subject', named) END);
END
$$;
COMMENT ON FUNCTION tally.subject_report(text, text) IS
  'everything that is kept of a user of a tenant, by the id as it is sent, as lines of JSON: from where, and the row as it is stored, tokens and closed up texts too; events, in detached months, too, with those without a user that an erasure takes with them (within a day of one of its own in the same session, and of nobody else''s there), quarantined events, batches that it is the source or client of, rollups by user or by what is made of its id alone, personal parts of audit entries that name it, in their purposes and reasons, too, and exports that do. In the scope of the whole tenant or the global one; needs a second factor, and where the tenant has keys those, and is recorded';
ALTER FUNCTION tally.subject_report(text, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.subject_report(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.subject_report(text, text) TO tally_admin;

-- Of tokens that are of no tenant, as administrators step up with: an erasure of a tenant's user leaves them, since somebody else of that name may act for a tenant.
CREATE FUNCTION tally.erase_token_subject(subject text, reason text) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  entries uuid[];
  erased  int8 := 0;
BEGIN
  IF num_nulls(erase_token_subject.subject, erase_token_subject.reason) > 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'subject and reason must not be null', HINT = 'the reason names the request by its number';
  END IF;
  PERFORM tally_internal.check_id('subject', coalesce(erase_token_subject.subject, '')), tally_internal.check_words('reason', coalesce(erase_token_subject.reason, ''));
  IF tally.current_tenant() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'what tokens of no tenant said is erased in the global scope alone',
      HINT = 'SELECT tally.enter_global(); of a tenant''s users there is tally.erase_subject()';
  END IF;
  PERFORM tally_internal.require_step_up('erase_subject');
  IF octet_length(erase_token_subject.subject) >= 4 AND position(erase_token_subject.subject IN erase_token_subject.reason) > 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the reason names the subject that is to be erased',
      HINT = 'reasons are kept: name the request by its number';
  END IF;
  entries := ARRAY(SELECT p.entry_id FROM tally.audit_personal AS p WHERE p.tenant_id = '' AND p.content::jsonb ->> 'subject' = erase_token_subject.subject);
  -- Nobody takes away alone that it was them, nor whoever shares the login.
  IF tally_internal.with_persons(ARRAY['subject ' || erase_token_subject.subject]) && tally_internal.with_persons(tally_internal.acting_identities())
     OR EXISTS (SELECT FROM tally.audit_entry AS a WHERE a.tenant_id = '' AND a.entry_id = ANY (entries) AND a.actor = session_user) THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the subject acted under the login that asks for it', HINT = 'have another person ask for the erasure, under another login';
  END IF;
  IF entries <> '{}' THEN
    PERFORM tally_internal.record_act('erasure_requested', NULL, jsonb_build_object('reason', erase_token_subject.reason), '');
    erased := tally_internal.erase_audit_personal('', entries);
    PERFORM tally_internal.note_trace('{audit_personal}');
  END IF;
  RETURN erased;
END
$$;
COMMENT ON FUNCTION tally.erase_token_subject(text, text) IS
  'erases who acted, by the sub of their tokens, from the audit log''s entries that are of no tenant, as of a step-up of administrators; the entries stay verifiable. Entries about a tenant stay: erase_subject takes those. In the global scope, by another person than the subject, under another login than that of the entries; needs the second factor of erase_subject. Returns of how many entries';
ALTER FUNCTION tally.erase_token_subject(text, text) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.erase_token_subject(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally.erase_token_subject(text, text) TO tally_admin;
