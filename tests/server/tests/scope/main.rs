//! Who sees what: bindings, tokens, pools, limits, and every way around them.

mod added_code;
mod bindings;
mod confined;
mod expressions;
mod fail_closed;
mod isolated;
mod limits;
mod operator;
mod oracles;
mod pgbouncer;
mod pooled;
mod restricted;
mod row_limit;
mod scope;
mod step_up;
mod token;
mod verbs;
