-- Sketches merge within a tenant; users of several are users of each.
select week, sum(users)::int8 as users, sum(events) as events
  from (select tenant_id, (date_trunc('week', bucket, 'UTC') at time zone 'UTC')::date as week, {{ tally_users() }} as users, sum(events) as events
          from {{ source('tally', 'usage_day_state') }}
         group by 1, 2) as of_tenant
 group by 1
