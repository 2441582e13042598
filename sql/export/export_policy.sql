-- Who must approve which exports: by tenant, by what they read, by how many rows.

CREATE TABLE tally.export_policy (
  set_at         timestamptz NOT NULL DEFAULT now(),
  from_rows      int8 NOT NULL,
  approvals      int4 NOT NULL,
  valid_for_s    int4 NOT NULL,
  approvers_role regrole NOT NULL,
  tenant_id      text COLLATE "C" NOT NULL,
  classification text COLLATE "C" NOT NULL,
  approvers      name NOT NULL,
  set_by         name NOT NULL DEFAULT session_user,
  CONSTRAINT export_policy_pkey PRIMARY KEY (tenant_id, classification, from_rows),
  CONSTRAINT export_policy_classification_known CHECK (classification IN ('aggregate', 'raw', 'personal')),
  CONSTRAINT export_policy_approvals_allowed CHECK (approvals BETWEEN 0 AND 5),
  CONSTRAINT export_policy_automatic_for_aggregates_alone CHECK (approvals > 0 OR classification = 'aggregate'),
  CONSTRAINT export_policy_rows_not_negative CHECK (from_rows >= 0),
  CONSTRAINT export_policy_valid_for_a_month_at_most CHECK (valid_for_s BETWEEN 60 AND 2678400)
);
ALTER TABLE tally.export_policy OWNER TO tally_owner;
COMMENT ON TABLE tally.export_policy IS 'how many people must approve an export, and who may; the row of the tenant counts, or else that of every tenant; without any, one member of tally_admin within a day';
COMMENT ON COLUMN tally.export_policy.set_at IS 'when it was set';
COMMENT ON COLUMN tally.export_policy.from_rows IS 'it holds for exports of so many rows or more, up to where the next one begins';
COMMENT ON COLUMN tally.export_policy.approvals IS 'people who must approve; 0 approves by itself, which only aggregates may be';
COMMENT ON COLUMN tally.export_policy.valid_for_s IS 'seconds from the request within which it must be approved and run';
COMMENT ON COLUMN tally.export_policy.tenant_id IS 'the tenant; empty for every tenant without a row, and for the global scope';
COMMENT ON COLUMN tally.export_policy.classification IS 'what is read: aggregate, raw or personal';
COMMENT ON COLUMN tally.export_policy.approvers_role IS 'that group''s number: another role of its name, or the same under another name, is none whose members may approve';
COMMENT ON COLUMN tally.export_policy.approvers IS 'the group role whose members may approve';
COMMENT ON COLUMN tally.export_policy.set_by IS 'the role that logged in and set it';
SELECT tally_internal.confine_table('tally.export_policy');
REVOKE ALL ON tally.export_policy FROM PUBLIC;
GRANT SELECT ON tally.export_policy TO tally_admin, tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.export_policy', '');
SELECT tally_internal.record_changes_of('tally.export_policy', 'export_policy', 'classification');

CREATE FUNCTION tally.set_export_policy(classification text, approvals int4, tenant_id text DEFAULT NULL, from_rows int8 DEFAULT 0,
    approvers regrole DEFAULT NULL, valid_for interval DEFAULT '24 hours') RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seconds float8 := date_part('epoch', valid_for);
  named   name := CASE WHEN set_export_policy.approvers IS NULL THEN 'tally_admin'
                       ELSE (SELECT r.rolname FROM pg_roles AS r WHERE r.oid = set_export_policy.approvers) END;
BEGIN
  PERFORM tally_internal.require_step_up('policy');
  IF set_export_policy.classification IS NULL OR set_export_policy.from_rows IS NULL OR seconds IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'classification, from_rows and valid_for must not be null',
      HINT = 'null approvals takes a policy back; from_rows is 0 and valid_for 24 hours where they are left out';
  END IF;
  IF set_export_policy.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_export_policy.tenant_id);
  END IF;
  IF named IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role %s does not exist', set_export_policy.approvers),
      HINT = 'name a role that approvers are members of; null is tally_admin';
  END IF;
  IF set_export_policy.classification NOT IN ('aggregate', 'raw', 'personal') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is no classification of exports', set_export_policy.classification),
      HINT = 'aggregate: rollups alone; raw: raw events, or tables of your own; personal: tables with personal columns';
  END IF;
  IF set_export_policy.approvals = 0 AND set_export_policy.classification <> 'aggregate' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'only aggregates can be approved automatically',
      HINT = 'with approvals => 1, another person must approve';
  END IF;
  IF set_export_policy.approvals NOT BETWEEN 0 AND 5 OR set_export_policy.from_rows < 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'approvals must be from 0 to 5, and from_rows 0 or more',
      HINT = 'null approvals takes a policy back';
  END IF;
  IF NOT seconds BETWEEN 60 AND 2678400 THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('%s is no time to approve and run an export in', valid_for),
      HINT = 'from a minute to 31 days';
  END IF;
  IF set_export_policy.approvals IS NULL THEN
    DELETE FROM tally.export_policy AS p
     WHERE p.tenant_id = coalesce(set_export_policy.tenant_id, '') AND p.classification = set_export_policy.classification
       AND p.from_rows = set_export_policy.from_rows;
  ELSE
    INSERT INTO tally.export_policy AS p (from_rows, approvals, valid_for_s, approvers_role, tenant_id, classification, approvers)
    VALUES (set_export_policy.from_rows, set_export_policy.approvals, seconds::int4, coalesce(set_export_policy.approvers, 'tally_admin'),
            coalesce(set_export_policy.tenant_id, ''), set_export_policy.classification, named)
    ON CONFLICT ON CONSTRAINT export_policy_pkey
    DO UPDATE SET set_at = excluded.set_at, approvals = excluded.approvals, valid_for_s = excluded.valid_for_s, approvers = excluded.approvers,
      approvers_role = excluded.approvers_role, set_by = excluded.set_by;
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_export_policy(text, int4, text, int8, regrole, interval) IS
  'how many people must approve exports of what is aggregate, raw or personal, of so many rows or more; which group role''s members may, tally_admin''s by default; and within which time; for the tenant null: of every tenant without a policy of its own; approvals 0 approves aggregates by itself, null takes the policy back';

CREATE FUNCTION tally_internal.export_rule(tenant_id text, classification text, max_rows int8, OUT approvals int4, OUT approvers name,
    OUT approvers_role regrole, OUT valid_for interval) RETURNS record
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce(f.approvals, 1), coalesce(f.approvers, 'tally_admin'), coalesce(f.approvers_role, to_regrole('tally_admin')), make_interval(secs => coalesce(f.valid_for_s, 86400))
      FROM (SELECT) AS one
      LEFT JOIN LATERAL (
        SELECT p.* FROM tally.export_policy AS p
         WHERE p.tenant_id IN (export_rule.tenant_id, '') AND p.classification = export_rule.classification AND p.from_rows <= export_rule.max_rows
           -- A tenant with rows of its own for what is read goes by those alone.
           AND (p.tenant_id = export_rule.tenant_id
             OR NOT EXISTS (SELECT FROM tally.export_policy AS o WHERE o.tenant_id = export_rule.tenant_id AND o.classification = export_rule.classification))
         ORDER BY p.from_rows DESC LIMIT 1) AS f ON true;
  END;
COMMENT ON FUNCTION tally_internal.export_rule(text, text, int8) IS 'the policy that holds for an export';

CREATE FUNCTION tally_internal.may_approve(approvers name, approvers_role regrole) RETURNS boolean
  LANGUAGE sql STABLE PARALLEL RESTRICTED STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = approvers_role AND r.rolname = approvers AND pg_has_role(session_user, r.oid, 'USAGE'));
  END;
COMMENT ON FUNCTION tally_internal.may_approve(name, regrole) IS
  'whether the role that logged in is a member of the group of approvers that has this name and this number: a role of one of them alone is another';

ALTER FUNCTION tally.set_export_policy(text, int4, text, int8, regrole, interval) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.set_export_policy(text, int4, text, int8, regrole, interval), tally_internal.export_rule(text, text, int8), tally_internal.may_approve(name, regrole) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.export_rule(text, text, int8), tally_internal.may_approve(name, regrole) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally_internal.export_rule(text, text, int8) TO tally_admin, tally_auditor; -- lint asks as who calls it
GRANT EXECUTE ON FUNCTION tally_internal.may_approve(name, regrole) TO tally_reader, tally_auditor, tally_admin; -- a view asks as who reads it
GRANT EXECUTE ON FUNCTION tally.set_export_policy(text, int4, text, int8, regrole, interval) TO tally_admin;
