//! An event of a payload: what is its own, and what it shares with others of its batch.

use super::json::{Flaw, Flaws, Value, object_at};
use super::mapping::steps;
use super::{Fault, text};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

/// What a batch says for several events: an object whose members those of an event's own go before, where they aren't null, an
/// empty string or objects on both sides.
pub(super) struct Common<'a> {
    value: Value<'a>,
    /// From where to where its texts are in the payload, where no others are between them.
    span: Option<Span>,
    /// Where paths lead in it, so that an event more doesn't cost a search more.
    found: RefCell<HashMap<String, Option<Route>>>,
}

/// Where a path leads in what is shared.
struct Route {
    places: Vec<usize>,
    /// How many of the values on the way, from the outermost, are objects.
    objects: usize,
}

impl<'a> Common<'a> {
    pub(super) fn new(value: Value<'a>) -> Rc<Self> {
        Rc::new(Self { value, span: None, found: RefCell::default() })
    }

    /// What was made of a value of the payload that has this span.
    pub(super) fn made(value: Value<'a>, span: Option<Span>) -> Rc<Self> {
        Rc::new(Self { value, span, found: RefCell::default() })
    }

    /// What a path leads to, where the first values on the way, so many, are objects.
    fn find(&self, path: &str, objects: usize) -> Option<&Value<'a>> {
        let reached = |route: &Route| {
            if route.objects >= objects { self.value.follow(&route.places) } else { None }
        };
        if let Some(known) = self.found.borrow().get(path) {
            return known.as_ref().and_then(reached);
        }
        let route = self.value.route(steps(path)).map(|places| {
            let is_object =
                |end: &usize| matches!(self.value.follow(&places[..*end]), Some(Value::Object(_)));
            let objects = (0..places.len()).take_while(is_object).count();
            Route { places, objects }
        });
        let found = route.as_ref().and_then(reached);
        self.found.borrow_mut().insert(path.to_owned(), route);
        found
    }
}

/// The addresses of the first and of the last text of a value.
pub(super) type Span = (usize, usize);

/// The flaw that a value has.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) flaw: Flaw,
    /// Whether what the format took shows it.
    pub(super) is_shown: bool,
}

/// Which of the flaws are within a span.
fn within(span: Span, flaws: &Flaws) -> Range<usize> {
    let at = |most: usize| flaws.partition_point(|(place, _)| *place < most);
    at(span.0)..at(span.1 + 1)
}

/// Which of the flaws are in a value's texts.
fn shown<'f>(value: &Value, flaws: &'f Flaws) -> impl Iterator<Item = usize> + use<'f> {
    let mut places = Vec::new();
    value.places(&mut places);
    places.into_iter().filter_map(|place| flaws.binary_search_by_key(&place, |(place, _)| *place).ok())
}

fn flaw_of(value: &Value, span: Option<Span>, flaws: &Flaws) -> Option<Found> {
    let hidden = span.map(|span| within(span, flaws));
    if hidden.as_ref().is_some_and(Range::is_empty) {
        return None;
    }
    let shown = shown(value, flaws).next();
    let at = shown.or(hidden.and_then(|mut hidden| hidden.next()))?;
    Some(Found { flaw: flaws[at].1, is_shown: shown.is_some() })
}

/// An event as its format made it.
pub(super) struct Event<'a> {
    pub(super) own: Result<Value<'a>, Fault>,
    /// From where to where its own texts are in the payload.
    span: Option<Span>,
    shared: Vec<Rc<Common<'a>>>,
}

impl<'a> Event<'a> {
    pub(super) fn new(own: Value<'a>, shared: &[Rc<Common<'a>>]) -> Self {
        Self { span: own.span(), own: Ok(own), shared: shared.to_vec() }
    }

    /// One of which its format takes some of what the payload has, made by `make`.
    pub(super) fn made(
        own: Value<'a>,
        make: impl FnOnce(Value<'a>) -> Value<'a>,
        shared: &[Rc<Common<'a>>],
    ) -> Self {
        Self { span: own.span(), own: Ok(make(own)), shared: shared.to_vec() }
    }

    /// What can't be read as an event.
    pub(super) fn fault(fault: Fault) -> Self {
        Self { own: Err(fault), span: None, shared: vec![] }
    }

    /// The flaw that the event has, in what is its own or in what it shares.
    pub(super) fn flaw(
        &self,
        flaws: &Flaws,
        of_common: &mut HashMap<*const Common<'a>, Option<Found>>,
    ) -> Option<Found> {
        let own = self.own.as_ref().ok()?;
        let own = self.span.and_then(|span| flaw_of(own, Some(span), flaws));
        own.or_else(|| {
            self.shared.iter().find_map(|shared| {
                let known = of_common.entry(Rc::as_ptr(shared));
                *known.or_insert_with(|| flaw_of(&shared.value, shared.span, flaws))
            })
        })
    }

    /// Notes which of the flaws are in what is its own or in what it shares.
    pub(super) fn note(&self, flaws: &Flaws, noted: &mut HashSet<*const Common<'a>>, inside: &mut [bool]) {
        let mut note = |at: usize| inside[at] = true;
        self.span.into_iter().flat_map(|span| within(span, flaws)).for_each(&mut note);
        for shared in self.shared.iter().filter(|shared| noted.insert(Rc::as_ptr(shared))) {
            match shared.span {
                Some(span) => within(span, flaws).for_each(&mut note),
                None => shown(&shared.value, flaws).for_each(&mut note),
            }
        }
    }

    /// Makes of it a text that can't be read: what its format took of the payload's text doesn't show the flaw. `count` is asked whether
    /// there may be a text of so many bytes before it is made.
    pub(super) fn unread<E>(
        &mut self,
        text: &str,
        flaw: Flaw,
        count: &mut dyn FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.own.is_err() {
            return Ok(());
        }
        let spans = self.shared.iter().map(|shared| shared.span);
        let parts = std::iter::once(self.span).chain(spans).flatten();
        let parts: Vec<&str> = parts.filter_map(|(from, _)| object_at(text, from)).collect();
        let parts = if parts.is_empty() { vec![text] } else { parts };
        count(parts.iter().map(|part| part.len() + 1).sum())?;
        self.own = Err(Fault { text: Some(parts.join("\n")), ..Fault::of(flaw) });
        Ok(())
    }

    /// What a path leads to in the one object that [`Event::print`] writes, unless that is null or an empty string; of an object, as
    /// much as is the event's own, if any is.
    pub(super) fn find(&self, path: &str) -> Option<&Value<'a>> {
        Some(self.seek(path)?.0)
    }

    /// The same with what is shared of an object.
    pub(super) fn whole(&self, path: &str) -> Option<Cow<'_, Value<'a>>> {
        Some(match self.seek(path)? {
            (own, Some(shared)) => Cow::Owned(own.over(shared)),
            (found, None) => Cow::Borrowed(found),
        })
    }

    /// What a path leads to, and the object that is shared beside it where it is one of the event's own.
    fn seek(&self, path: &str) -> Option<(&Value<'a>, Option<&Value<'a>>)> {
        let Ok(own @ Value::Object(_)) = &self.own else {
            return self.find_shared(path, 0).map(|shared| (shared, None));
        };
        let (mut found, mut objects, mut is_shared) = (own, 0, true);
        for step in steps(path) {
            let next = found.step(&step);
            if is_shared && matches!(found, Value::Object(_)) {
                objects += 1;
                match next.filter(|next| !next.is_empty()) {
                    Some(next) => found = next,
                    None => return self.find_shared(path, objects).map(|shared| (shared, None)),
                }
            } else {
                // An array, and what is in it, goes before as it is.
                is_shared = false;
                found = next?;
            }
        }
        let is_object = |value: &&Value| matches!(value, Value::Object(_));
        let beside = if is_shared && is_object(&found) { self.find_shared(path, objects) } else { None };
        (!found.is_empty()).then(|| (found, beside.filter(is_object)))
    }

    fn find_shared(&self, path: &str, objects: usize) -> Option<&Value<'a>> {
        let found = |value: &&Value<'a>| -> bool { !value.is_empty() };
        self.shared.iter().find_map(|shared| shared.find(path, objects).filter(found))
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

    /// As one object, with what it shares.
    pub(super) fn print(&self, out: &mut String) {
        let shared: Vec<&Value> = self.shared.iter().map(|shared| &shared.value).collect();
        match &self.own {
            Err(_) => out.push_str("null"),
            Ok(own) => own.print_over(&shared, out),
        }
    }
}
