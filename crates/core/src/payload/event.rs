//! An event of a payload: what is its own, and what it shares with others of its batch.

use super::json::Value;
use super::mapping::steps;
use super::{Fault, text};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What a batch says for several events: an object whose members those of an event's own go before.
pub(super) struct Common<'a> {
    value: Value<'a>,
    /// Where paths lead in it, so that an event more doesn't cost a search more.
    found: RefCell<HashMap<String, Option<Vec<usize>>>>,
}

impl<'a> Common<'a> {
    pub(super) fn new(value: Value<'a>) -> Rc<Self> {
        Rc::new(Self { value, found: RefCell::default() })
    }

    fn find(&self, path: &str) -> Option<&Value<'a>> {
        if let Some(known) = self.found.borrow().get(path) {
            return self.value.follow(known.as_deref()?);
        }
        let route = self.value.route(steps(path));
        let found = route.as_deref().and_then(|route| self.value.follow(route));
        self.found.borrow_mut().insert(path.to_owned(), route);
        found
    }
}

/// An event as its format made it.
pub(super) struct Event<'a> {
    pub(super) own: Result<Value<'a>, Fault>,
    shared: Vec<Rc<Common<'a>>>,
}

impl<'a> Event<'a> {
    pub(super) fn new(own: Value<'a>, shared: &[Rc<Common<'a>>]) -> Self {
        Self { own: Ok(own), shared: shared.to_vec() }
    }

    /// What can't be read as an event.
    pub(super) fn fault(fault: Fault) -> Self {
        Self { own: Err(fault), shared: vec![] }
    }

    /// What a path leads to, unless that is null or an empty string.
    pub(super) fn find(&self, path: &str) -> Option<&Value<'a>> {
        let found = |value: &&Value<'a>| -> bool { !value.is_empty() };
        let own = self.own.as_ref().ok();
        let own = own.and_then(|own| own.follow(&own.route(steps(path))?)).filter(found);
        own.or_else(|| self.shared.iter().find_map(|shared| shared.find(path).filter(found)))
    }

    /// The text at the first of these paths that leads to one.
    pub(super) fn text(&self, paths: &[&str]) -> Result<Option<String>, Fault> {
        for path in paths {
            if let Some(value) = self.find(path) {
                return text(path, value).map(Some);
            }
        }
        Ok(None)
    }

    /// The members of the object at a path, in their written form.
    pub(super) fn members(&self, path: &str) -> &[(Cow<'a, str>, Value<'a>)] {
        self.find(path).map_or(&[], Value::members)
    }

    /// As one object.
    pub(super) fn print(&self, out: &mut String) {
        let shared: Vec<&Value> = self.shared.iter().map(|shared| &shared.value).collect();
        match &self.own {
            Err(_) => out.push_str("null"),
            Ok(own) => own.print_over(&shared, out),
        }
    }
}
