select tenant_id, account_id, (date_trunc('month', bucket, 'UTC') at time zone 'UTC')::date as month, sum(events) as events, {{ tally_users() }} as users,
       {{ tally_percentile(0.95) }} as value_p95
  from {{ source('tally', 'usage_day_state') }}
 group by 1, 2, 3
