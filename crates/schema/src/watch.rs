//! What compiling a schema, or judging a value by one, may take. A few bytes of either can ask for more than anybody has, so steps are
//! counted, and whoever waits for them can end them: every object of a schema is given a keyword of ours, which is a step wherever the
//! validator comes to it.

use crate::exact;
use crate::reference::COMPARED;
use jsonschema::ValidationOptions;
use jsonschema::paths::Location;
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// No name of a property has it: a text of Postgres has no NUL.
const KEYWORD: &str = "\0step";

thread_local! {
    /// What is called with each step.
    static WATCH: Cell<fn()> = const { Cell::new(|| {}) };
    /// How many steps are left.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Puts a cell's value back however its scope is left.
struct Restored<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy> Restored<T> {
    fn set(cell: &'static std::thread::LocalKey<Cell<T>>, value: T) -> Self {
        Self(cell, cell.replace(value))
    }
}

impl<T: Copy> Drop for Restored<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// What is unwound with where too much was asked for: the validator has no other way out.
struct TooMuch;

/// Runs `work`, in which `watch` is called with every step of compiling, comparing and judging. It may end them by a panic.
pub fn watched<T>(watch: fn(), work: impl FnOnce() -> T) -> T {
    let _restored = Restored::set(&WATCH, watch);
    work()
}

/// Takes a step.
pub(crate) fn step() {
    WATCH.get()();
    match LEFT.get().checked_sub(1) {
        Some(left) => LEFT.set(left),
        None => panic::resume_unwind(Box::new(TooMuch)),
    }
}

/// Runs `work`, which may take so many steps; `None` where it would take more.
pub(crate) fn within<T>(steps: usize, work: impl FnOnce() -> T) -> Option<T> {
    let _restored = Restored::set(&LEFT, steps);
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(cause) if cause.is::<TooMuch>() => None,
        Err(cause) => panic::resume_unwind(cause),
    }
}

/// A schema with the keyword in all of its objects but those that values are compared with.
pub(crate) fn with_steps(schema: &Value) -> Value {
    added(schema, false)
}

fn added(value: &Value, are_names: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let added = fields.iter().map(|(key, value)| (key.clone(), added_under(key, value, are_names)));
            let mut added: Map<String, Value> = added.collect();
            // An empty schema, where the object has schemas under names.
            added.insert(KEYWORD.to_owned(), json!({}));
            Value::Object(added)
        }
        Value::Array(values) => values.iter().map(|value| added(value, false)).collect(),
        other => other.clone(),
    }
}

fn added_under(key: &str, value: &Value, is_name: bool) -> Value {
    match key {
        _ if is_name => added(value, false),
        _ if COMPARED.contains(&key) => value.clone(),
        _ => added(value, has_schemas_under_names(key)),
    }
}

/// Whether a keyword's object has schemas under names of their own.
pub(crate) fn has_schemas_under_names(keyword: &str) -> bool {
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"]
        .contains(&keyword)
}

/// Options by which the keyword is a step.
pub(crate) fn stepping<'i, R>(options: ValidationOptions<'i, R>) -> ValidationOptions<'i, R> {
    options.with_keyword(KEYWORD, |_: &Map<String, Value>, _: &Value, _: Location| {
        step();
        exact::rule(|_| {
            step();
            None
        })
    })
}
