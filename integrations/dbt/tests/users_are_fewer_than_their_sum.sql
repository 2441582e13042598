-- Distinct users of a week are at most the sum of its days' users: where they are more, something is summed that doesn't add up.
select w.week, w.users, s.week as week_of_sum, s.summed
  from {{ ref('tally_users_by_week') }} as w
  full join (select date_trunc('week', day::timestamp)::date as week, sum(users) as summed from {{ source('tally', 'usage_day') }} group by 1) as s on s.week = w.week
 where coalesce(w.week, s.week) < date_trunc('week', (now() at time zone 'UTC'))::date
   and (w.week is null or s.week is null or w.users > 1.1 * s.summed)
