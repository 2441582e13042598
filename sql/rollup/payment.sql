-- The built-in rollup of amounts, from which revenue is known when raw events are gone: of each account, name of event and
-- currency, by day. It counts events with a number as `amount` alone, which are few.

SELECT tally.create_rollup('payment',
  grains     => '{day}',
  -- A key of an index has room for 2,700 bytes: a longer text is cut, and told apart by its hash.
  dimensions => ARRAY['name',
                      $$CASE WHEN octet_length(properties ->> 'currency') > 200
                             THEN left(properties ->> 'currency', 40) || '#' || hashtextextended(properties ->> 'currency', 0)::text
                                    || '#' || hashtextextended(properties ->> 'currency', 1)::text
                             ELSE properties ->> 'currency' END AS currency$$],
  measures   => ARRAY['count(*) AS payments',
                      $$sum(tally.property_number(properties, 'amount')) AS amount$$,
                      'min(occurred_at) AS first_at',
                      'max(occurred_at) AS last_at'],
  filter     => $$tally.property_number(properties, 'amount') IS NOT NULL$$);
SELECT pg_catalog.pg_extension_config_dump('tally.payment_pending', '');
SELECT pg_catalog.pg_extension_config_dump('tally.payment_day_base', '');
