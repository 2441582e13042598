-- Which steps: vars: {tally_steps: [signed_up, paid]} in dbt_project.yml.
{% set steps = var('tally_steps', ['signed_up', 'paid']) -%}
select months.first_day::date as month, funnel.step, funnel.name, funnel.units, funnel.from_first
  from generate_series(date_trunc('month', now() at time zone 'UTC') - interval '2 months', now() at time zone 'UTC', interval '1 month') as months (first_day)
 cross join lateral tally.funnel(array[{% for step in steps %}'{{ step | replace("'", "''") }}'{{ ', ' if not loop.last }}{% endfor %}], '7 days',
   months.first_day at time zone 'UTC', (months.first_day + interval '1 month') at time zone 'UTC') as funnel
