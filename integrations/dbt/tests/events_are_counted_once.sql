-- The days and the hours of a day count the same events.
select d.day, d.events, h.events
  from (select day, sum(events) as events from {{ source('tally', 'usage_day') }} group by day) as d
  full join (select (bucket at time zone 'UTC')::date as day, sum(events) as events from tally.usage_hour group by 1) as h using (day)
 where d.events is distinct from h.events
