-- Bindings know the name of their role, and may be global.
DROP FUNCTION tally_internal.check_bindable(regrole);
ALTER TABLE tally.role_binding ADD COLUMN bound_as name, ADD COLUMN is_global boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT role_binding_global_has_no_tenant CHECK (NOT is_global OR tenant_id IS NULL AND NOT needs_token);
UPDATE tally.role_binding AS b SET bound_as = r.rolname FROM pg_catalog.pg_roles AS r
 WHERE r.oid OPERATOR(pg_catalog.=) b.role_name::pg_catalog.oid;

