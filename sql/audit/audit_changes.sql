-- The tables whose changes are acts: what is declared, allowed and limited, and what became of raw events. Whoever changes them,
-- by a function or as a superuser by hand, is recorded.

SELECT tally_internal.record_changes_of('tally.tenant_limit', 'limit', 'tenant_id'),
       tally_internal.record_changes_of('tally.quota', 'quota', 'tenant_id'),
       tally_internal.record_changes_of('tally.retention', 'retention', 'tenant_id'),
       tally_internal.record_changes_of('tally.event_schema', 'schema', 'name'),
       tally_internal.record_changes_of('tally.unregistered_policy', 'unregistered_policy', 'policy'),
       tally_internal.record_changes_of('tally.rollup', 'rollup', 'rollup_name'),
       tally_internal.record_changes_of('tally.rollup_column', 'rollup_column', 'rollup_name'),
       tally_internal.record_changes_of('tally.metric', 'metric', 'metric_name'),
       tally_internal.record_changes_of('tally.cohort', 'cohort', 'cohort_name'),
       tally_internal.record_changes_of('tally.protected_table', 'protection', 'table_name'),
       tally_internal.record_changes_of('tally.slo_target', 'slo', 'tenant_id'),
       tally_internal.record_changes_of('tally.isolated_tenant', 'isolation', 'tenant_id'),
       tally_internal.record_changes_of('tally.opened_months', 'open_months', 'tenant_id'),
       tally_internal.record_changes_of('tally.raw_horizon', 'raw_horizon', 'raw_from');
