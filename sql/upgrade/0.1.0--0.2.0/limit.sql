ALTER TABLE tally.tenant_limit
  ADD COLUMN idle_in_transaction_ms int4,
  ADD COLUMN max_rows int8,
  ADD CONSTRAINT tenant_limit_rows_not_negative CHECK (max_rows >= 0),
  ADD CONSTRAINT tenant_limit_idle_in_transaction_positive CHECK (idle_in_transaction_ms > 0);
DROP FUNCTION tally.limit_tenant(text, int4, int4, int4, int4);
