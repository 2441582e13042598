//! Metrics: the aggregates that funnels and retention are made of. The metrics themselves are SQL, in sql/funnel.sql,
//! sql/metric.sql and sql/definition.sql. Whether the raw events that they read are whole: sql/whole.sql and `horizons`.

mod conditions;
mod funnel_aggregate;
mod horizons;
mod retention_aggregate;
mod unit_funnel;
mod unit_parts;
mod units;
