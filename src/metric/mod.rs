//! Metrics: the aggregates that funnels and retention are made of. The metrics themselves are SQL, in sql/metric/funnel.sql,
//! sql/metric/metric.sql and sql/metric/definition.sql. Whether the raw events that they read are whole: sql/metric/whole.sql and `raw_horizons`.

mod active_counts;
mod conditions;
mod funnel_counts;
mod in_order;
mod raw_horizons;
mod retention_mask;
mod retention_triangle;
mod unit_parts;
mod window_funnel;
