-- The audit log: entries, which nobody changes, the seals over them, and who may read them. src/audit writes; docs/GOVERNANCE.md
-- tells what is recorded. What a month's entries hash to stands in seals, which are kept when the month is dropped.

CREATE TABLE tally.audit_entry (
  xid        xid8 NOT NULL,
  at         timestamptz NOT NULL,
  origin     int8 NOT NULL,
  entry_id   uuid NOT NULL,
  tenant_id  text COLLATE "C" NOT NULL,
  account_id text COLLATE "C",
  actor      text COLLATE "C" NOT NULL,
  act        text COLLATE "C" NOT NULL,
  object     text COLLATE "C",
  detail     text COLLATE "C",
  personal   bytea,
  leaf       bytea NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE tally.audit_entry IS 'the audit log: one row an act or a statement that read; nobody updates or deletes one';
COMMENT ON COLUMN tally.audit_entry.xid IS 'the transaction that wrote it';
COMMENT ON COLUMN tally.audit_entry.at IS 'when it happened';
COMMENT ON COLUMN tally.audit_entry.origin IS 'system identifier of the cluster that wrote it: transactions are numbered by cluster';
COMMENT ON COLUMN tally.audit_entry.entry_id IS 'the entry; its line in the server''s log has the same';
COMMENT ON COLUMN tally.audit_entry.tenant_id IS 'the tenant that it concerns; empty for none';
COMMENT ON COLUMN tally.audit_entry.account_id IS 'the account that it concerns, where it is one';
COMMENT ON COLUMN tally.audit_entry.actor IS 'the role that logged in';
COMMENT ON COLUMN tally.audit_entry.act IS 'what was done, or tried';
COMMENT ON COLUMN tally.audit_entry.object IS 'what it was done to';
COMMENT ON COLUMN tally.audit_entry.detail IS 'more about it: a JSON object, as text, since its bytes are hashed';
COMMENT ON COLUMN tally.audit_entry.personal IS 'hash of its personal part (tally.audit_personal), which can be erased';
COMMENT ON COLUMN tally.audit_entry.leaf IS 'hash of all other columns';

-- Made on each month, as the indexes of tally.events are: a restore would make those of the parent a second time.
CREATE FUNCTION tally_internal.keep_audit() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- Retention drops months; of what has no month of its own, it deletes.
  IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'audit_rest' AND current_user = 'tally_owner' THEN
    IF OLD.at < clock_timestamp() - interval '30 days' THEN
      RETURN OLD;
    END IF;
  END IF;
  RAISE EXCEPTION USING ERRCODE = '55T60',
    MESSAGE = format('the audit log is not to be changed: %s of tally.%I is refused', TG_OP, TG_TABLE_NAME),
    HINT = 'entries go by tally.set_audit_retention() alone, personal parts by tally_internal.erase_audit_personal()';
END
$$;
COMMENT ON FUNCTION tally_internal.keep_audit() IS 'trigger: refuses to change the audit log, with SQLSTATE 55T60';
REVOKE ALL ON FUNCTION tally_internal.keep_audit() FROM PUBLIC;

CREATE FUNCTION tally_internal.guard_audit_table(target regclass) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION tally_internal.keep_audit()', target);
  EXECUTE format('CREATE TRIGGER audit_not_emptied BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.keep_audit()', target);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audit_kept, ENABLE ALWAYS TRIGGER audit_not_emptied', target);
END
$$;
COMMENT ON FUNCTION tally_internal.guard_audit_table(regclass) IS 'has a table of the audit log refuse changes, in replica mode, too';

CREATE FUNCTION tally_internal.finish_audit_table(target regclass) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  name name := (SELECT c.relname FROM pg_class AS c WHERE c.oid = target);
  stranger text;
BEGIN
  -- What default privileges have given: a month's table is granted to nobody.
  FOR stranger IN
    SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
      FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = target AND a.grantee <> c.relowner
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', target, stranger);
  END LOOP;
  EXECUTE format('CREATE INDEX %I ON %s (xid)', name || '_xid', target);
  EXECUTE format('CREATE INDEX %I ON %s (tenant_id, xid)', name || '_tenant_xid', target);
  EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', target);
  PERFORM tally_internal.guard_audit_table(target);
END
$$;
COMMENT ON FUNCTION tally_internal.finish_audit_table(regclass) IS 'gives a table of entries its indexes and triggers, and revokes what default privileges gave on it';
REVOKE ALL ON FUNCTION tally_internal.guard_audit_table(regclass), tally_internal.finish_audit_table(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.keep_audit(), tally_internal.guard_audit_table(regclass), tally_internal.finish_audit_table(regclass) TO tally_owner;

CREATE TABLE tally.audit_rest PARTITION OF tally.audit_entry DEFAULT;
COMMENT ON TABLE tally.audit_rest IS 'entries of months that tally.maintain() had not made yet';
SELECT tally_internal.finish_audit_table('tally.audit_rest');
ALTER TABLE tally.audit_entry REPLICA IDENTITY FULL;

CREATE TABLE tally.audit_personal (
  at        timestamptz NOT NULL,
  entry_id  uuid NOT NULL,
  tenant_id text COLLATE "C" NOT NULL,
  salt      bytea NOT NULL,
  content   text COLLATE "C" NOT NULL,
  CONSTRAINT audit_personal_pkey PRIMARY KEY (tenant_id, entry_id)
);
COMMENT ON TABLE tally.audit_personal IS 'the parts of entries that can be erased; the entry keeps a hash of its part';
COMMENT ON COLUMN tally.audit_personal.at IS 'when what the entry tells of happened';
COMMENT ON COLUMN tally.audit_personal.entry_id IS 'the entry';
COMMENT ON COLUMN tally.audit_personal.tenant_id IS 'the entry''s tenant';
COMMENT ON COLUMN tally.audit_personal.salt IS 'random bytes that are hashed with it, so that the hash tells nothing once it is erased';
COMMENT ON COLUMN tally.audit_personal.content IS 'a JSON object, as text: subject, whom a token was made for';

CREATE TABLE tally.audit_seal (
  from_xid  xid8 NOT NULL,
  to_xid    xid8 NOT NULL,
  sealed_at timestamptz NOT NULL,
  place     int8 NOT NULL CONSTRAINT audit_seal_pkey PRIMARY KEY,
  number    int8 NOT NULL,
  origin    int8 NOT NULL,
  total     int8 NOT NULL,
  entries   int4 NOT NULL,
  month     date NOT NULL,
  tenant_id text COLLATE "C" NOT NULL,
  root      bytea NOT NULL,
  previous  bytea NOT NULL,
  hash      bytea NOT NULL,
  leaves    bytea NOT NULL,
  frontier  bytea,
  CONSTRAINT audit_seal_number UNIQUE (tenant_id, number)
);
CREATE INDEX audit_seal_range ON tally.audit_seal (tenant_id, origin, to_xid);
CREATE INDEX audit_seal_head ON tally.audit_seal (origin, to_xid);
COMMENT ON TABLE tally.audit_seal IS 'the seals over the audit log: one for each tenant, month and round of the sealer that had entries of it';
COMMENT ON COLUMN tally.audit_seal.from_xid IS 'the first transaction whose entries are under it';
COMMENT ON COLUMN tally.audit_seal.to_xid IS 'the first transaction after those';
COMMENT ON COLUMN tally.audit_seal.sealed_at IS 'when it was made';
COMMENT ON COLUMN tally.audit_seal.place IS 'its place among all seals, from 1';
COMMENT ON COLUMN tally.audit_seal.number IS 'its place among the tenant''s seals, from 1';
COMMENT ON COLUMN tally.audit_seal.origin IS 'system identifier of the cluster that wrote the entries';
COMMENT ON COLUMN tally.audit_seal.total IS 'the tenant''s entries up to here';
COMMENT ON COLUMN tally.audit_seal.entries IS 'entries under it';
COMMENT ON COLUMN tally.audit_seal.month IS 'the month (UTC) in which they happened';
COMMENT ON COLUMN tally.audit_seal.tenant_id IS 'the tenant; empty for what concerns none';
COMMENT ON COLUMN tally.audit_seal.root IS 'root of the Merkle tree (RFC 6962) over the entries'' hashes';
COMMENT ON COLUMN tally.audit_seal.previous IS 'hash of the tenant''s seal before; zeros in the first';
COMMENT ON COLUMN tally.audit_seal.hash IS 'hash of the seal, a leaf of the tree over all seals';
COMMENT ON COLUMN tally.audit_seal.leaves IS 'the entries'' hashes, by transaction and entry id';
COMMENT ON COLUMN tally.audit_seal.frontier IS 'of the last seal of a round: what the tree over all seals goes on from';
SELECT tally_internal.guard_audit_table('tally.audit_seal');

CREATE TABLE tally.audit_policy (
  reads     text COLLATE "C" NOT NULL,
  set_at    timestamptz NOT NULL DEFAULT now(),
  tenant_id text COLLATE "C" NOT NULL CONSTRAINT audit_policy_pkey PRIMARY KEY,
  set_by    name NOT NULL DEFAULT session_user,
  CONSTRAINT audit_policy_known CHECK (reads IN ('none', 'raw', 'all'))
);
COMMENT ON TABLE tally.audit_policy IS 'which reads are recorded; acts always are';
COMMENT ON COLUMN tally.audit_policy.reads IS 'none; raw: of raw events and personal columns; all: of anything that belongs to tenants';
COMMENT ON COLUMN tally.audit_policy.set_at IS 'when it was set';
COMMENT ON COLUMN tally.audit_policy.tenant_id IS 'the tenant; empty for every tenant without a row, and for the global scope';
COMMENT ON COLUMN tally.audit_policy.set_by IS 'the role that logged in and set it';
SELECT tally_internal.confine_table('tally.audit_policy'), tally_internal.confine_table('tally.audit_seal');
CREATE TRIGGER audit_policy_changed AFTER INSERT OR UPDATE OR DELETE ON tally.audit_policy
  FOR EACH ROW EXECUTE FUNCTION tally_internal.forget();
CREATE TRIGGER audit_policy_emptied AFTER TRUNCATE ON tally.audit_policy
  FOR EACH STATEMENT EXECUTE FUNCTION tally_internal.forget();
ALTER TABLE tally.audit_policy ENABLE ALWAYS TRIGGER audit_policy_changed, ENABLE ALWAYS TRIGGER audit_policy_emptied;

CREATE TABLE tally.audit_retention (
  keep   interval NOT NULL,
  set_at timestamptz NOT NULL DEFAULT now(),
  is_set boolean NOT NULL DEFAULT true CONSTRAINT audit_retention_pkey PRIMARY KEY,
  set_by name NOT NULL DEFAULT session_user,
  CONSTRAINT audit_retention_is_one_row CHECK (is_set),
  CONSTRAINT audit_retention_is_30_days_or_longer CHECK (keep >= interval '30 days')
);
COMMENT ON TABLE tally.audit_retention IS 'how long entries are kept, in one row; without it, for ever';
COMMENT ON COLUMN tally.audit_retention.keep IS 'months that ended longer ago are dropped by maintain(), once they are sealed';
COMMENT ON COLUMN tally.audit_retention.set_at IS 'when it was set';
COMMENT ON COLUMN tally.audit_retention.is_set IS 'true';
COMMENT ON COLUMN tally.audit_retention.set_by IS 'the role that logged in and set it';

ALTER TABLE tally.audit_entry OWNER TO tally_owner;
ALTER TABLE tally.audit_rest OWNER TO tally_owner;
ALTER TABLE tally.audit_personal OWNER TO tally_owner;
ALTER TABLE tally.audit_seal OWNER TO tally_owner;
ALTER TABLE tally.audit_policy OWNER TO tally_owner;
ALTER TABLE tally.audit_retention OWNER TO tally_owner;
REVOKE ALL ON tally.audit_entry, tally.audit_rest, tally.audit_personal, tally.audit_seal, tally.audit_policy,
  tally.audit_retention FROM PUBLIC;
GRANT SELECT ON tally.audit_seal, tally.audit_policy, tally.audit_retention TO tally_auditor;
SELECT pg_catalog.pg_extension_config_dump('tally.audit_rest', '');
SELECT pg_catalog.pg_extension_config_dump('tally.audit_personal', '');
SELECT pg_catalog.pg_extension_config_dump('tally.audit_seal', '');
SELECT pg_catalog.pg_extension_config_dump('tally.audit_policy', '');
SELECT pg_catalog.pg_extension_config_dump('tally.audit_retention', '');

-- The scope that the log is read in: an auditor's who is not confined to a tenant is everything.
CREATE FUNCTION tally_internal.audit_scope_key() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'audit_scope_key_wrapper';
COMMENT ON FUNCTION tally_internal.audit_scope_key() IS
  'the scope as tally.scope_key(), and that of everything for a member of tally_auditor who is in no scope and bound to no tenant';

CREATE VIEW tally.audit WITH (security_barrier = true) AS
  SELECT e.at, e.tenant_id, e.account_id, e.actor, e.act, e.object, e.detail::jsonb AS detail, p.content::jsonb AS personal, e.entry_id,
         e.leaf
    FROM tally.audit_entry AS e
    LEFT JOIN tally.audit_personal AS p
      ON p.tenant_id OPERATOR(pg_catalog.=) e.tenant_id AND p.entry_id OPERATOR(pg_catalog.=) e.entry_id
   WHERE tally.in_scope(e.tenant_id, coalesce(e.account_id, ''), (SELECT tally_internal.audit_scope_key()));
COMMENT ON VIEW tally.audit IS 'the audit log: for auditors everything, for a tenant its own entries, for an account its own';
COMMENT ON COLUMN tally.audit.at IS 'when it happened';
COMMENT ON COLUMN tally.audit.tenant_id IS 'the tenant that it concerns; empty for none';
COMMENT ON COLUMN tally.audit.account_id IS 'the account that it concerns, where it is one';
COMMENT ON COLUMN tally.audit.actor IS 'the role that logged in';
COMMENT ON COLUMN tally.audit.act IS 'what was done, or tried; docs/GOVERNANCE.md lists the acts';
COMMENT ON COLUMN tally.audit.object IS 'what it was done to';
COMMENT ON COLUMN tally.audit.detail IS 'more about it';
COMMENT ON COLUMN tally.audit.personal IS 'its personal part, unless there is none or it was erased';
COMMENT ON COLUMN tally.audit.entry_id IS 'the entry; its line in the server''s log has the same id';
COMMENT ON COLUMN tally.audit.leaf IS 'the hash that is sealed';
ALTER VIEW tally.audit OWNER TO tally_owner;
REVOKE ALL ON tally.audit FROM PUBLIC;
GRANT SELECT ON tally.audit TO tally_reader, tally_auditor;

CREATE FUNCTION tally_internal.record_act(act text, object text DEFAULT NULL, detail jsonb DEFAULT NULL, tenant_id text DEFAULT NULL,
    account_id text DEFAULT NULL, personal jsonb DEFAULT NULL) RETURNS uuid
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'record_act_wrapper';
COMMENT ON FUNCTION tally_internal.record_act(text, text, jsonb, text, text, jsonb) IS
  'records an act of the running transaction in the audit log, also where that is rolled back later; for pg_tally''s own functions. Returns the entry''s id';

CREATE FUNCTION tally_internal.personal_of(named text[], before jsonb, after jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT nullif(jsonb_strip_nulls(jsonb_build_object(
      'from', (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(before) AS b WHERE b.key = ANY (named)),
      'to', (SELECT jsonb_object_agg(a.key, a.value) FROM jsonb_each(after) AS a WHERE a.key = ANY (named)))), '{}');
  END;
COMMENT ON FUNCTION tally_internal.personal_of(text[], jsonb, jsonb) IS 'part of tally_internal.record_change(): what a change tells of a person; null where that is nothing';

CREATE FUNCTION tally_internal.record_change() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  before   jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
  after    jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
  -- The arguments: what the acts are called, the column that names the object, and columns that may name a person. What these have is
  -- the entry's personal part, of which the entry itself and the server's log have a salted fingerprint.
  named    text[] := string_to_array(TG_ARGV[2], ',');
  object   text := CASE WHEN TG_ARGV[1] <> ALL (coalesce(named, '{}')) THEN coalesce(after, before) ->> TG_ARGV[1] END;
  was      text := coalesce(before ->> 'tenant_id', '');
  is_now   text := coalesce(after ->> 'tenant_id', '');
BEGIN
  IF before = after THEN
    RETURN NULL;
  END IF;
  -- Neither of two tenants is told of the other.
  IF before IS NOT NULL AND (after IS NULL OR was <> is_now) THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_removed', object, jsonb_build_object('from', jsonb_strip_nulls(before - coalesce(named, '{}'))), was, NULL,
      tally_internal.personal_of(named, before, NULL));
  END IF;
  IF after IS NOT NULL AND (before IS NULL OR was <> is_now) THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_added', object, jsonb_build_object('to', jsonb_strip_nulls(after - coalesce(named, '{}'))), is_now, NULL,
      tally_internal.personal_of(named, NULL, after));
  ELSIF after IS NOT NULL THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_changed', object,
      jsonb_build_object('from', (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(before - coalesce(named, '{}')) AS b WHERE b.value IS DISTINCT FROM after -> b.key),
                         'to', (SELECT jsonb_object_agg(a.key, a.value) FROM jsonb_each(after - coalesce(named, '{}')) AS a WHERE a.value IS DISTINCT FROM before -> a.key)),
      is_now, NULL, tally_internal.personal_of(named, before, after));
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION tally_internal.record_change() IS
  'trigger: records what changed in a table of definitions, policies or keys, whoever changed it; its arguments name the acts, the column that names the object, and columns that may name a person';

CREATE FUNCTION tally_internal.record_changes_of(target regclass, act text, object text, named text[] DEFAULT '{}') RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER recorded AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION tally_internal.record_change(%L, %L%s)',
    target, act, object, CASE WHEN cardinality(named) > 0 THEN format(', %L', array_to_string(named, ',')) END);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER recorded', target);
END
$$;
COMMENT ON FUNCTION tally_internal.record_changes_of(regclass, text, text, text[]) IS
  'has each change of a table''s rows recorded as an act, <act>_added, <act>_changed or <act>_removed, of the object that a column names; what columns have that may name a person is the act''s personal part';
REVOKE ALL ON FUNCTION tally_internal.audit_scope_key(), tally_internal.record_act(text, text, jsonb, text, text, jsonb), tally_internal.record_change(), tally_internal.personal_of(text[], jsonb, jsonb),
  tally_internal.record_changes_of(regclass, text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.audit_scope_key() TO tally_owner, tally_reader, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.in_scope(text, text, text) TO tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.record_act(text, text, jsonb, text, text, jsonb), tally_internal.personal_of(text[], jsonb, jsonb) TO tally_owner, tally_security;

SELECT tally_internal.record_changes_of('tally.role_binding', 'binding', 'role_name'),
       tally_internal.record_changes_of('tally.token_key', 'key', 'key_id'),
       tally_internal.record_changes_of('tally.audit_policy', 'audit_policy', 'tenant_id'),
       tally_internal.record_changes_of('tally.audit_retention', 'audit_retention', 'keep');

CREATE FUNCTION tally.set_audit_policy(reads text, tenant_id text DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.require_step_up('policy');
  IF set_audit_policy.tenant_id IS NOT NULL THEN
    PERFORM tally_internal.check_id('tenant_id', set_audit_policy.tenant_id);
  END IF;
  IF set_audit_policy.reads NOT IN ('none', 'raw', 'all') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is no audit policy', set_audit_policy.reads),
      HINT = 'none: no reads; raw: reads of raw events and personal columns; all: reads of anything that belongs to tenants; null: what holds for every tenant';
  END IF;
  IF set_audit_policy.reads IS NULL THEN
    DELETE FROM tally.audit_policy AS p WHERE p.tenant_id = coalesce(set_audit_policy.tenant_id, '');
  ELSE
    INSERT INTO tally.audit_policy AS p (reads, tenant_id) VALUES (set_audit_policy.reads, coalesce(set_audit_policy.tenant_id, ''))
    ON CONFLICT ON CONSTRAINT audit_policy_pkey DO UPDATE SET reads = excluded.reads, set_at = excluded.set_at, set_by = excluded.set_by;
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_audit_policy(text, text) IS
  'which reads of a tenant''s data are recorded: none, raw or all; for the tenant null: of every tenant without a policy of its own, and in the global scope; null takes a policy back';

CREATE FUNCTION tally.set_audit_retention(keep interval) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM tally_internal.require_step_up('policy');
  IF set_audit_retention.keep < interval '30 days' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('%s is too short a retention of the audit log', set_audit_retention.keep),
      HINT = 'keep entries for 30 days or longer';
  END IF;
  IF set_audit_retention.keep IS NULL THEN
    DELETE FROM tally.audit_retention AS r;
  ELSE
    INSERT INTO tally.audit_retention AS r (keep) VALUES (set_audit_retention.keep)
    ON CONFLICT ON CONSTRAINT audit_retention_pkey DO UPDATE SET keep = excluded.keep, set_at = excluded.set_at, set_by = excluded.set_by;
  END IF;
END
$$;
COMMENT ON FUNCTION tally.set_audit_retention(interval) IS
  'keeps entries of the audit log for so long, 30 days or longer, null for ever; maintain() drops whole months that are sealed, and their seals stay';

CREATE FUNCTION tally_internal.erase_audit_personal(tenant_id text, entry_ids uuid[]) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone   uuid;
  erased int8 := 0;
BEGIN
  FOR gone IN
    DELETE FROM tally.audit_personal AS p WHERE p.tenant_id = erase_audit_personal.tenant_id AND p.entry_id = ANY (entry_ids)
    RETURNING p.entry_id
  LOOP
    PERFORM tally_internal.record_act('audit_personal_erased', gone::text, NULL, erase_audit_personal.tenant_id);
    erased := erased + 1;
  END LOOP;
  RETURN erased;
END
$$;
COMMENT ON FUNCTION tally_internal.erase_audit_personal(text, uuid[]) IS
  'erases the personal parts of entries of a tenant, which stay verifiable; each erasure is an act. For pg_tally''s own functions';

ALTER FUNCTION tally.set_audit_policy(text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.set_audit_retention(interval) OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.set_audit_policy(text, text), tally.set_audit_retention(interval), tally_internal.erase_audit_personal(text, uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.erase_audit_personal(text, uuid[]) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.set_audit_policy(text, text), tally.set_audit_retention(interval) TO tally_admin;
