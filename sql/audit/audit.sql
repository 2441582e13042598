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

CREATE FUNCTION tally_internal.record_change() RETURNS trigger
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  before   jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
  after    jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
  -- The arguments: what the acts are called, and the column that names the object.
  object   text := coalesce(after, before) ->> TG_ARGV[1];
  was      text := coalesce(before ->> 'tenant_id', '');
  is_now   text := coalesce(after ->> 'tenant_id', '');
BEGIN
  IF before = after THEN
    RETURN NULL;
  END IF;
  -- Neither of two tenants is told of the other.
  IF before IS NOT NULL AND (after IS NULL OR was <> is_now) THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_removed', object, jsonb_build_object('from', jsonb_strip_nulls(before)), was);
  END IF;
  IF after IS NOT NULL AND (before IS NULL OR was <> is_now) THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_added', object, jsonb_build_object('to', jsonb_strip_nulls(after)), is_now);
  ELSIF after IS NOT NULL THEN
    PERFORM tally_internal.record_act(TG_ARGV[0] || '_changed', object,
      jsonb_build_object('from', (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(before) AS b WHERE b.value IS DISTINCT FROM after -> b.key),
                         'to', (SELECT jsonb_object_agg(a.key, a.value) FROM jsonb_each(after) AS a WHERE a.value IS DISTINCT FROM before -> a.key)),
      is_now);
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION tally_internal.record_change() IS
  'trigger: records what changed in a table of definitions, policies or keys, whoever changed it; its arguments name the acts and the column that names the object';

CREATE FUNCTION tally_internal.record_changes_of(target regclass, act text, object text) RETURNS void
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER recorded AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION tally_internal.record_change(%L, %L)',
    target, act, object);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER recorded', target);
END
$$;
COMMENT ON FUNCTION tally_internal.record_changes_of(regclass, text, text) IS
  'has each change of a table''s rows recorded as an act, <act>_added, <act>_changed or <act>_removed, of the object that a column names';
REVOKE ALL ON FUNCTION tally_internal.audit_scope_key(), tally_internal.record_act(text, text, jsonb, text, text, jsonb), tally_internal.record_change(),
  tally_internal.record_changes_of(regclass, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.audit_scope_key() TO tally_owner, tally_reader, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.in_scope(text, text, text) TO tally_auditor;
GRANT EXECUTE ON FUNCTION tally_internal.record_act(text, text, jsonb, text, text, jsonb) TO tally_owner, tally_security;

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

-- Sealing.
CREATE FUNCTION tally_internal.cluster_number() RETURNS int8
  LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'cluster_number_wrapper';
COMMENT ON FUNCTION tally_internal.cluster_number() IS 'the cluster''s system identifier';

CREATE FUNCTION tally_internal.audit_sealed_to(origin int8) RETURNS xid8
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT coalesce((SELECT s.to_xid FROM tally.audit_seal AS s WHERE s.origin = audit_sealed_to.origin ORDER BY s.to_xid DESC LIMIT 1), '0'::xid8);
  END;
COMMENT ON FUNCTION tally_internal.audit_sealed_to(int8) IS 'the first transaction of a cluster whose entries are not sealed';

CREATE FUNCTION tally_internal.audit_rounds(max_entries int8) RETURNS TABLE (origin int8, from_xid text, to_xid text)
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- Entries of transactions below it have committed and are seen, or never will be.
  oldest xid8 := pg_snapshot_xmin(pg_current_snapshot());
  own    int8 := tally_internal.cluster_number();
  start  xid8 := tally_internal.audit_sealed_to(own);
  step   xid8;
BEGIN
  FOR origin IN
    -- Of other clusters there are entries only after a restore, and then from the start of this one's log.
    SELECT own
    UNION ALL
    SELECT DISTINCT e.origin FROM tally.audit_entry AS e
     WHERE e.origin <> own AND NOT EXISTS (SELECT FROM tally.audit_seal AS s WHERE s.origin = own)
  LOOP
    start := tally_internal.audit_sealed_to(audit_rounds.origin);
    -- A step ends with a transaction.
    SELECT s.xid INTO step FROM (SELECT e.xid FROM tally.audit_entry AS e
                                  WHERE e.origin = audit_rounds.origin AND e.xid >= start AND (e.origin <> own OR e.xid < oldest)
                                  ORDER BY e.xid OFFSET greatest(max_entries, 1) - 1 LIMIT 1) AS s;
    IF step IS NULL AND audit_rounds.origin <> own THEN
      SELECT max(e.xid) INTO step FROM tally.audit_entry AS e WHERE e.origin = audit_rounds.origin AND e.xid >= start;
      CONTINUE WHEN step IS NULL;
    END IF;
    from_xid := start::text;
    to_xid := coalesce((step::text::numeric + 1)::text, oldest::text);
    CONTINUE WHEN to_xid::numeric <= from_xid::numeric;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION tally_internal.audit_rounds(int8) IS 'from and up to which transactions, of which clusters, entries can be sealed now';

CREATE FUNCTION tally.seal_audit(max_entries int8 DEFAULT 50000) RETURNS int8
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'seal_audit_wrapper';
COMMENT ON FUNCTION tally.seal_audit(int8) IS
  'one step of sealing: stores what sessions handed over through shared memory, and seals the entries of transactions that are older than every running one; returns how many entries, 0 where nothing is left for now';

CREATE FUNCTION tally_internal.audit_step(max_entries int8) RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN tally.seal_audit(max_entries);
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = format('pg_tally event=audit_failed sqlstate=%s problem=%s', SQLSTATE, to_json(SQLERRM));
  RETURN 0;
END
$$;
COMMENT ON FUNCTION tally_internal.audit_step(int8) IS 'tally.seal_audit(), and a warning in the log where it fails; called by the worker every two seconds';

-- For those who may not read the log itself: administrators.
CREATE FUNCTION tally_internal.audit_state(OUT unsealed_since timestamptz, OUT first_sealed_at timestamptz, OUT anchored_at timestamptz)
  LANGUAGE plpgsql STABLE PARALLEL RESTRICTED STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  unsealed_since := (SELECT min(e.at) FROM tally.audit_entry AS e WHERE e.xid >= tally_internal.audit_sealed_to(tally_internal.cluster_number()) AND e.origin = tally_internal.cluster_number());
  first_sealed_at := (SELECT s.sealed_at FROM tally.audit_seal AS s ORDER BY s.place LIMIT 1);
  anchored_at := (SELECT max(e.at) FROM tally.audit_entry AS e
                   WHERE e.tenant_id = '' AND e.act = 'audit_anchor_taken' AND e.at > now() - interval '31 days');
END
$$;
COMMENT ON FUNCTION tally_internal.audit_state() IS
  'since when entries wait to be sealed, null where none does; when the first seal was made; when an anchor was taken last, within 31 days';

CREATE FUNCTION tally_internal.create_audit_month(month_start timestamptz) RETURNS boolean
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
AS $$
DECLARE
  month_end timestamptz := month_start + interval '1 month';
  month     name := 'audit_p' || to_char(month_start, 'YYYY_MM');
BEGIN
  -- What is in the rest stays there.
  IF to_regclass('tally.' || month) IS NOT NULL
     OR EXISTS (SELECT FROM tally.audit_rest AS r WHERE r.at >= month_start AND r.at < month_end) THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE tally.%I (LIKE tally.audit_entry INCLUDING ALL EXCLUDING INDEXES)', month);
  PERFORM tally_internal.finish_audit_table(format('tally.%I', month)::regclass);
  EXECUTE format('ALTER TABLE tally.audit_entry ATTACH PARTITION tally.%I FOR VALUES FROM (%L) TO (%L)', month, month_start, month_end);
  RETURN true;
END
$$;
COMMENT ON FUNCTION tally_internal.create_audit_month(timestamptz) IS 'makes the table of a month''s entries, unless it is there or the month has entries already';

CREATE FUNCTION tally_internal.define_audit_table(statement text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'define_audit_table_wrapper';
COMMENT ON FUNCTION tally_internal.define_audit_table(text) IS
  'runs a statement that makes or drops a month''s table as its owner, without event triggers, which would run with the owner''s rights';

CREATE FUNCTION tally_internal.maintain_audit() RETURNS int8
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  SET lock_timeout = '300ms' -- it comes again
  SET default_tablespace = ''
  SET default_table_access_method = heap
AS $$
DECLARE
  done  int8 := 0;
  first timestamptz;
  until timestamptz;
  month record;
  gone  int8;
BEGIN
  FOR ahead IN 0 .. 3 LOOP
    first := date_trunc('month', now()) + make_interval(months => ahead);
    CONTINUE WHEN to_regclass('tally.audit_p' || to_char(first, 'YYYY_MM')) IS NOT NULL;
    PERFORM tally_internal.define_audit_table(format('SELECT tally_internal.create_audit_month(%L)', first));
    -- A month that has entries in the rest already is left there.
    done := done + (to_regclass('tally.audit_p' || to_char(first, 'YYYY_MM')) IS NOT NULL)::int;
  END LOOP;
  -- The rest itself keeps what is younger than 30 days, and a month may have 28.
  until := (SELECT date_trunc('month', least(now() - r.keep, now() - interval '30 days')) FROM tally.audit_retention AS r);
  IF until IS NULL THEN
    RETURN done;
  END IF;
  FOR month IN
    SELECT c.oid::regclass AS id, to_date(substr(c.relname, 8), 'YYYY_MM') AS first_day
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'tally.audit_entry'::regclass AND c.relname ~ '^audit_p[0-9]{4,}_[0-9]{2}$'
       AND to_date(substr(c.relname, 8), 'YYYY_MM') < until
     ORDER BY 2
  LOOP
    -- What a transaction that still runs has written isn't there to be seen, and has locked the table.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', month.id);
    EXECUTE format('SELECT count(*) FROM %s AS e WHERE e.xid >= tally_internal.audit_sealed_to(e.origin)', month.id) INTO gone;
    CONTINUE WHEN gone > 0;
    EXECUTE format('SELECT count(*) FROM %s', month.id) INTO gone;
    PERFORM tally_internal.define_audit_table(format('DROP TABLE %s', month.id));
    DELETE FROM tally.audit_personal AS p WHERE p.at >= month.first_day AND p.at < month.first_day + interval '1 month';
    PERFORM tally_internal.record_act('audit_month_dropped', month.first_day::text, jsonb_build_object('entries', gone));
    RETURN done + 1;
  END LOOP;
  FOR month IN
    SELECT date_trunc('month', r.at)::date AS first_day, count(*) AS entries, bool_and(r.xid < tally_internal.audit_sealed_to(r.origin)) AS is_sealed
      FROM tally.audit_rest AS r WHERE r.at < until GROUP BY 1 ORDER BY 1
  LOOP
    CONTINUE WHEN NOT month.is_sealed;
    DELETE FROM tally.audit_rest AS r WHERE r.at >= month.first_day AND r.at < month.first_day + interval '1 month';
    DELETE FROM tally.audit_personal AS p WHERE p.at >= month.first_day AND p.at < month.first_day + interval '1 month';
    PERFORM tally_internal.record_act('audit_month_dropped', month.first_day::text, jsonb_build_object('entries', month.entries));
    RETURN done + 1;
  END LOOP;
  RETURN done;
END
$$;
COMMENT ON FUNCTION tally_internal.maintain_audit() IS
  'makes the tables of this month''s entries and of the next three, and drops a month that the log''s retention has passed and that is sealed; returns how many it made or dropped';

-- Taking it elsewhere, and checking it.
CREATE FUNCTION tally.export_audit() RETURNS SETOF text
  LANGUAGE plpgsql STABLE PARALLEL RESTRICTED STRICT SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET timezone = 'UTC'
  -- One seal at a time, by its index: a join of everything with everything would be the alternative.
  SET enable_hashjoin = off
  SET enable_mergejoin = off
AS $$
DECLARE
  sealed tally.audit_seal;
BEGIN
  IF tally_internal.confined_to() IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the whole audit log is not for a session that is confined to a tenant',
      HINT = 'SELECT from tally.audit, which shows the tenant''s own entries';
  END IF;
  FOR sealed IN SELECT s.* FROM tally.audit_seal AS s ORDER BY s.place LOOP
    RETURN NEXT json_build_object('seal', sealed.place, 'tenant_id', sealed.tenant_id, 'number', sealed.number, 'month', sealed.month,
      'origin', sealed.origin::text, 'from_xid', sealed.from_xid::text, 'to_xid', sealed.to_xid::text,
      'sealed_at', (extract(epoch FROM sealed.sealed_at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8,
      'total', sealed.total, 'root', encode(sealed.root, 'hex'), 'previous', encode(sealed.previous, 'hex'),
      'hash', encode(sealed.hash, 'hex'), 'leaves', encode(sealed.leaves, 'hex'), 'frontier', encode(sealed.frontier, 'hex'))::text;
    RETURN QUERY
      SELECT tally_internal.audit_line(e, p) FROM tally.audit_entry AS e
        LEFT JOIN tally.audit_personal AS p ON p.tenant_id = e.tenant_id AND p.entry_id = e.entry_id
       WHERE e.tenant_id = sealed.tenant_id AND e.xid >= sealed.from_xid AND e.xid < sealed.to_xid AND e.origin = sealed.origin
         AND e.at >= sealed.month AND e.at < sealed.month + interval '1 month'
       ORDER BY e.xid, e.entry_id;
  END LOOP;
  -- What no seal covers: new entries, and whatever was put in later.
  RETURN QUERY
    SELECT tally_internal.audit_line(e, p) FROM tally.audit_entry AS e
      LEFT JOIN tally.audit_personal AS p ON p.tenant_id = e.tenant_id AND p.entry_id = e.entry_id
     WHERE NOT EXISTS (
       SELECT FROM tally.audit_seal AS s
        WHERE s.tenant_id = e.tenant_id AND s.origin = e.origin AND s.to_xid > e.xid AND s.from_xid <= e.xid
          AND e.at >= s.month AND e.at < s.month + interval '1 month')
     ORDER BY e.xid, e.entry_id;
END
$$;

CREATE FUNCTION tally_internal.audit_line(entry tally.audit_entry, personal tally.audit_personal) RETURNS text
  LANGUAGE sql STABLE PARALLEL SAFE CALLED ON NULL INPUT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT json_build_object('entry', entry.entry_id, 'tenant_id', entry.tenant_id, 'origin', entry.origin::text, 'xid', entry.xid::text,
      'at', (extract(epoch FROM entry.at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8, 'actor', entry.actor,
      'account_id', entry.account_id, 'act', entry.act, 'object', entry.object, 'detail', entry.detail,
      'personal', encode(entry.personal, 'hex'), 'salt', encode((personal).salt, 'hex'), 'content', (personal).content,
      'leaf', encode(entry.leaf, 'hex'))::text;
  END;
COMMENT ON FUNCTION tally.export_audit() IS
  'the whole log as lines of JSON, each seal before its entries and what is not sealed at the end, for tally-verify and for keeping elsewhere';
COMMENT ON FUNCTION tally_internal.audit_line(tally.audit_entry, tally.audit_personal) IS 'a line of tally.export_audit()';

CREATE FUNCTION tally.audit_anchor() RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'audit_anchor_wrapper';
COMMENT ON FUNCTION tally.audit_anchor() IS
  'the head of the log, one line of JSON to be kept where no administrator of the database can change it: it vouches for every entry that is sealed. That it was taken is an entry itself';

CREATE FUNCTION tally.verify_audit(VARIADIC anchors text[] DEFAULT '{}')
  RETURNS TABLE (fault text, seal int8, tenant_id text, entry_id uuid, detail text)
  LANGUAGE c STABLE PARALLEL RESTRICTED STRICT AS 'MODULE_PATHNAME', 'verify_audit_wrapper';
COMMENT ON FUNCTION tally.verify_audit(text[]) IS
  'what is wrong with the log, the first place first; no row where it is intact. With anchors that were kept elsewhere also where all hashes were made anew, or the end was cut off';

ALTER FUNCTION tally.set_audit_policy(text, text) OWNER TO tally_owner;
ALTER FUNCTION tally.set_audit_retention(interval) OWNER TO tally_owner;
ALTER FUNCTION tally_internal.maintain_audit() OWNER TO tally_owner;
ALTER FUNCTION tally_internal.audit_state() OWNER TO tally_owner;
ALTER FUNCTION tally.export_audit() OWNER TO tally_owner;
REVOKE ALL ON FUNCTION tally.set_audit_policy(text, text), tally.set_audit_retention(interval), tally_internal.erase_audit_personal(text, uuid[]),
  tally_internal.cluster_number(), tally_internal.audit_sealed_to(int8), tally_internal.audit_rounds(int8), tally.seal_audit(int8), tally_internal.audit_step(int8), tally_internal.audit_state(),
  tally_internal.define_audit_table(text),
  tally_internal.create_audit_month(timestamptz), tally_internal.maintain_audit(), tally.export_audit(),
  tally_internal.audit_line(tally.audit_entry, tally.audit_personal), tally.audit_anchor(), tally.verify_audit(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.erase_audit_personal(text, uuid[]), tally_internal.cluster_number(), tally_internal.audit_sealed_to(int8),
  tally_internal.define_audit_table(text),
  tally_internal.audit_rounds(int8), tally_internal.create_audit_month(timestamptz), tally.export_audit(),
  tally_internal.audit_line(tally.audit_entry, tally.audit_personal) TO tally_owner;
GRANT EXECUTE ON FUNCTION tally.set_audit_policy(text, text), tally.set_audit_retention(interval), tally.seal_audit(int8),
  tally_internal.audit_step(int8), tally_internal.maintain_audit() TO tally_admin;
GRANT EXECUTE ON FUNCTION tally_internal.audit_state() TO tally_admin, tally_auditor;
GRANT EXECUTE ON FUNCTION tally.export_audit(), tally.audit_anchor(), tally.verify_audit(text[]) TO tally_auditor;

CREATE FUNCTION tally_internal.task_audit() RETURNS TABLE (place int4, subject text)
  LANGUAGE sql STABLE PARALLEL SAFE STRICT
  SET search_path = pg_catalog, pg_temp
  BEGIN ATOMIC
    SELECT 6, ''::text;
  END;
COMMENT ON FUNCTION tally_internal.task_audit() IS 'task of maintain(): stores, seals and drops entries of the audit log';

CREATE FUNCTION tally_internal.step_audit(subject text, max_rows int8, OUT done int8, OUT is_over boolean) RETURNS record
  LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  done := tally.seal_audit(max_rows);
  -- A session that reads an old month for long keeps it from being dropped, and nothing from being sealed.
  BEGIN
    done := done + tally_internal.maintain_audit();
  EXCEPTION WHEN lock_not_available THEN
    RAISE WARNING USING MESSAGE = 'months of the audit log could not be made or dropped: ' || SQLERRM;
  END;
  is_over := done < max_rows;
END
$$;
COMMENT ON FUNCTION tally_internal.step_audit(text, int8) IS 'one step of it; says how much it did, and whether nothing is left for now';

REVOKE ALL ON FUNCTION tally_internal.task_audit(), tally_internal.step_audit(text, int8) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.task_audit(), tally_internal.step_audit(text, int8) TO tally_admin;

CREATE FUNCTION tally_internal.health_audit()
  RETURNS TABLE (place int4, component text, status text, value float8, "limit" float8, advice text)
  LANGUAGE plpgsql STABLE PARALLEL UNSAFE STRICT
  SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  -- A transaction that is open for long keeps what is newer from being sealed.
  place := 10;
  component := 'audit';
  value := (SELECT round(extract(epoch FROM clock_timestamp() - s.unsealed_since)) FROM tally_internal.audit_state() AS s);
  "limit" := CASE WHEN tally_internal.worker_is_configured() THEN 60 ELSE 900 END;
  status := CASE WHEN value > 10 * "limit" THEN 'failing' WHEN value > "limit" THEN 'warning' ELSE 'ok' END;
  advice := CASE WHEN value > "limit" THEN format('entries of the audit log wait for their seal since %s seconds: see that the worker or CALL tally.maintain() runs, and for old transactions (SELECT pid, usename, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; SELECT * FROM pg_prepared_xacts)', value) END;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tally_internal.health_audit() IS 'part of tally.health(): how long entries wait for their seal';
REVOKE ALL ON FUNCTION tally_internal.health_audit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tally_internal.health_audit() TO tally_admin;
