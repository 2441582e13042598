-- The built-in rollup. Its tables belong to the extension, so their rows are marked for dumps here.

SELECT tally.create_rollup('usage',
  grains     => '{hour,day}',
  dimensions => '{name}',
  measures   => ARRAY['count(*) AS events',
                      'distinct(user_id) AS users',
                      'distinct(session_id) AS sessions',
                      $$sum(tally.property_number(properties, 'value')) AS value_sum$$,
                      $$percentiles(tally.property_float(properties, 'value')) AS value$$,
                      'min(occurred_at) AS first_at',
                      'max(occurred_at) AS last_at']);
SELECT pg_catalog.pg_extension_config_dump('tally.usage_pending', '');
SELECT pg_catalog.pg_extension_config_dump('tally.usage_hour_base', '');
SELECT pg_catalog.pg_extension_config_dump('tally.usage_day_base', '');
