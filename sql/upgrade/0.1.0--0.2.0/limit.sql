ALTER TABLE tally.tenant_limit
  ADD COLUMN idle_in_transaction_ms int4,
  ADD CONSTRAINT tenant_limit_idle_in_transaction_positive CHECK (idle_in_transaction_ms > 0);
DROP FUNCTION tally.limit_tenant(text, int4, int4, int4, int4);
