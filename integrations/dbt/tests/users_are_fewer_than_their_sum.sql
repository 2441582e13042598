-- Distinct users of a week are at most the sum of its days' users: where they are more, something is summed that doesn't add up.
select w.week, w.users, s.summed
  from {{ ref('tally_users_by_week') }} as w
  join (select date_trunc('week', day)::date as week, sum(users) as summed from {{ source('tally', 'usage_day') }} group by 1) as s using (week)
 where w.users > 1.1 * s.summed
