//! Metrics, against an oracle that shares no code with them.

mod accounts_of_one_name;
mod dashboards;
mod documented_periods;
mod metric_definitions;
mod metric_edges;
mod metrics;
mod whole_ranges;
