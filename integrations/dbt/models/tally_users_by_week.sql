select (date_trunc('week', bucket, 'UTC') at time zone 'UTC')::date as week, {{ tally_users() }} as users, sum(events) as events
  from {{ source('tally', 'usage_day_state') }}
 group by 1
