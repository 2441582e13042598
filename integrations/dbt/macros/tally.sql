{# Distinct users over the rows of a group, from a view whose name ends in _state. Their numbers don't add up; their sketches merge, within a tenant: a login that
   sees several groups by tenant_id, too. #}
{% macro tally_users(sketch='users') -%}
tally.distinct_count(tally.rollup({{ adapter.quote(sketch) }}))
{%- endmacro %}

{# A percentile over the rows of a group, from a view whose name ends in _state. #}
{% macro tally_percentile(fraction, digest='value') -%}
tally.approx_percentile({{ fraction }}, tally.rollup({{ adapter.quote(digest) }}))
{%- endmacro %}

{# A test: no two rows have the same values of these columns. #}
{% test tally_unique(model, columns) -%}
select {{ columns | join(', ') }}, count(*) from {{ model }} group by {{ columns | join(', ') }} having count(*) > 1
{%- endtest %}
