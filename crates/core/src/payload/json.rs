//! JSON as a tree that keeps strings and numbers as they are written. Brackets, commas and quotes must be right; of a string or number
//! that is none, and of a value that is too deep or too large, the reader says where it stands, so that it costs the event that it is in
//! and no other.

use crate::event::{format_timestamp, parse_timestamp};
use crate::jsonb::scan::{check_escapes, quote, skip_space, unescape};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The deepest nesting of a payload.
const DEPTH: usize = 64;
/// The most values in a payload: two million take some 100 MB.
pub(super) const VALUES: usize = 2_000_000;
/// How much more an event may have as we print it, beside what it says of itself: Snowplow's contexts are documents of their own inside of it.
const PRINTED_DEPTH: usize = DEPTH + 8;
const PRINTED_VALUES: usize = 4 * VALUES;

/// A JSON value, its text borrowed where it is the payload's own.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A number, `true`, `false`, `null`, or what stands in the place of one.
    Token(Cow<'a, str>),
    /// A string, with its quotes and escapes.
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    /// Keys with their quotes and escapes, in the order in which they are written; of one that is repeated the last, as jsonb keeps it, unless
    /// something is wrong in the object.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// Why a text is not JSON.
#[derive(Debug, PartialEq)]
pub(super) struct NotJson {
    pub offset: usize,
    pub reason: &'static str,
    pub sqlstate: &'static str,
}

fn not_json<T>(offset: usize, reason: &'static str) -> Result<T, NotJson> {
    Err(NotJson { offset, reason, sqlstate: "22032" })
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Flaw {
    Word,
    Control,
    Escape,
    Surrogate,
    /// It is deeper in its payload than may be.
    Deep,
    /// It has more values than may be.
    Large,
}

impl Flaw {
    /// Its SQLSTATE, and what it is, without the value: that may be personal.
    pub(super) fn told(self) -> (&'static str, &'static str) {
        match self {
            Flaw::Word => ("22P02", "is not JSON: a value is no string, number, true, false or null"),
            Flaw::Control => ("22P02", "is not JSON: raw control character in a string"),
            Flaw::Escape => ("22P02", "is not JSON: invalid escape in a string"),
            Flaw::Surrogate => ("22P05", "is not JSON: lone surrogate in a string"),
            Flaw::Deep => ("54000", "is nested too deeply: a payload may have 64 levels"),
            Flaw::Large => ("54000", "has too many values: a payload may have 2000000"),
        }
    }

    /// Whether it was passed over unread: what has it is kept as a text, since it would be judged otherwise where it stands alone.
    pub(super) fn is_unread(self) -> bool {
        matches!(self, Flaw::Deep | Flaw::Large)
    }
}

/// Flaws by the address of the text that has each, in order.
pub(super) type Flaws = Vec<(usize, Flaw)>;

/// Reads values; counts those of a whole payload.
pub(super) struct Reader<'a> {
    text: &'a str,
    values: usize,
    left: usize,
    depth: usize,
    flaws: Flaws,
    /// Where a document has its events, if it has several: depths and keys of arrays.
    lists: Option<Lists>,
    /// Whether there were too many values in such an array.
    is_list_full: bool,
}

/// The keys of arrays that have events in them, with the depth of each.
pub(super) type Lists = &'static [(usize, &'static str)];

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            values: VALUES,
            left: VALUES,
            depth: DEPTH,
            flaws: Flaws::new(),
            lists: None,
            is_list_full: false,
        }
    }

    /// Of a document that may be several events, in an array or in those with these keys: together they may have so many values and no more.
    pub(super) fn of_events(text: &'a str, lists: Lists) -> Self {
        Self { lists: Some(lists), ..Self::new(text) }
    }

    /// Of an event that we have printed, which was within the bounds when it came.
    pub(super) fn of_printed(text: &'a str) -> Self {
        Self { values: PRINTED_VALUES, left: PRINTED_VALUES, depth: PRINTED_DEPTH, ..Self::new(text) }
    }

    /// What was wrong with strings and numbers since this was asked last.
    pub(super) fn take_flaws(&mut self) -> Flaws {
        std::mem::take(&mut self.flaws)
    }

    /// The value that a piece of the text is, nothing else around it.
    pub(super) fn whole(&mut self, from: usize, to: usize) -> Result<Value<'a>, NotJson> {
        let (value, end) = self.value(from, to, 0, None)?;
        match skip_space(&self.text.as_bytes()[..to], end) {
            end if end == to => Ok(value),
            end => not_json(end, "text after the end"),
        }
    }

    fn byte(&self, pos: usize, to: usize) -> Option<u8> {
        (pos < to).then(|| self.text.as_bytes()[pos])
    }

    fn space(&self, pos: usize, to: usize) -> usize {
        skip_space(&self.text.as_bytes()[..to], pos)
    }

    /// The value at a place, and where it ends; `key` is the key that it has.
    fn value(
        &mut self,
        from: usize,
        to: usize,
        depth: usize,
        key: Option<&str>,
    ) -> Result<(Value<'a>, usize), NotJson> {
        if self.left == 0 {
            let reason = "payload has more than 2000000 values";
            return Err(NotJson { offset: from, reason, sqlstate: "54000" });
        }
        self.left -= 1;
        let start = self.space(from, to);
        let (left, flaws) = (self.left, self.flaws.len());
        match self.byte(start, to) {
            Some(_) if depth == self.depth => {
                let (end, _) = self.extent(start, to)?;
                Ok((self.passed_over(start, end, Flaw::Deep), end))
            }
            Some(b'"') => self.string(start, to).map(|(text, end)| (Value::String(text.into()), end)),
            Some(open @ (b'[' | b'{')) => {
                let read = match open {
                    b'[' => self.array(start, to, depth),
                    _ => self.object(start, to, depth),
                };
                match read {
                    Err(error) if error.sqlstate == "54000" && !self.is_list_full => {
                        if open == b'[' && self.has_events(depth, key) {
                            self.is_list_full = true;
                            return Err(error);
                        }
                        // The innermost that alone has too many is passed over; what it took is there for others again.
                        let (end, values) = self.extent(start, to)?;
                        if values <= self.values {
                            return Err(error);
                        }
                        self.left = left;
                        self.flaws.truncate(flaws);
                        Ok((self.passed_over(start, end, Flaw::Large), end))
                    }
                    read => read,
                }
            }
            Some(_) => {
                let token = &self.text[start..to];
                let end = token.find([',', ':', '[', ']', '{', '}', '"', ' ', '\n', '\r', '\t']);
                let end = end.unwrap_or(token.len());
                if end == 0 {
                    return not_json(start, "a value is missing");
                }
                let token = &token[..end];
                if !is_token(token) {
                    self.flaws.push((token.as_ptr().addr(), Flaw::Word));
                }
                Ok((Value::Token(token.into()), start + end))
            }
            None => not_json(start, "a value is missing"),
        }
    }

    /// What stands in the place of a value that isn't read: its text.
    fn passed_over(&mut self, start: usize, end: usize, flaw: Flaw) -> Value<'a> {
        let text = &self.text[start..end];
        self.flaws.push((text.as_ptr().addr(), flaw));
        Value::Token(text.into())
    }

    /// Where the value at `start` ends, by its brackets alone, and how many values it has.
    fn extent(&self, start: usize, to: usize) -> Result<(usize, usize), NotJson> {
        let bytes = &self.text.as_bytes()[..to];
        let (mut open, mut pos, mut values) = (Vec::new(), start, 1);
        loop {
            match bytes.get(pos) {
                None => return not_json(start, "a value has no end"),
                Some(b'"') => pos = self.string_end(pos, to)?,
                Some(&bracket @ (b'[' | b'{')) => {
                    open.push(bracket);
                    pos = self.space(pos + 1, to);
                    values += usize::from(!matches!(bytes.get(pos), Some(b']' | b'}')));
                }
                Some(b']') if open.pop() == Some(b'[') => pos += 1,
                Some(b'}') if open.pop() == Some(b'{') => pos += 1,
                Some(b']' | b'}') => return not_json(pos, "a bracket closes another one"),
                Some(&byte) if open.is_empty() => {
                    let is_end = |byte: &u8| b",:[]{}\" \n\r\t".contains(byte);
                    pos += bytes[pos..].iter().position(is_end).unwrap_or(to - pos);
                    if is_end(&byte) {
                        return not_json(start, "a value is missing");
                    }
                }
                Some(byte) => {
                    values += usize::from(*byte == b',');
                    pos += 1;
                }
            }
            if open.is_empty() {
                return Ok((pos, values));
            }
        }
    }

    /// Where the string at `start` ends.
    fn string_end(&self, start: usize, to: usize) -> Result<usize, NotJson> {
        let bytes = &self.text.as_bytes()[..to];
        let mut pos = start + 1;
        while let Some(&byte) = bytes.get(pos) {
            match byte {
                b'"' => return Ok(pos + 1),
                b'\\' => pos += 2,
                _ => pos += 1,
            }
        }
        not_json(start, "a string has no end")
    }

    /// Whether what is so deep, under a key or in none, is where a document has its events.
    fn has_events(&self, depth: usize, key: Option<&str>) -> bool {
        self.lists.is_some_and(|lists| match key {
            Some(key) => lists.iter().any(|(at, name)| *at == depth && is_named(key, name)),
            None => depth == 0,
        })
    }

    /// The string at `start` with its quotes, and where it ends.
    fn string(&mut self, start: usize, to: usize) -> Result<(&'a str, usize), NotJson> {
        let bytes = &self.text.as_bytes()[..to];
        let (mut pos, mut has_escape, mut has_control) = (start + 1, false, false);
        while let Some(&byte) = bytes.get(pos) {
            match byte {
                b'"' => {
                    let written = &self.text[start..=pos];
                    let flaw = match has_escape {
                        _ if has_control => Some(Flaw::Control),
                        true => flaw_of_escapes(written),
                        false => None,
                    };
                    self.flaws.extend(flaw.map(|flaw| (written.as_ptr().addr(), flaw)));
                    return Ok((written, pos + 1));
                }
                b'\\' => {
                    has_escape = true;
                    pos += 2;
                }
                _ => {
                    has_control |= byte < 0x20;
                    pos += 1;
                }
            }
        }
        not_json(start, "a string has no end")
    }

    fn array(&mut self, open: usize, to: usize, depth: usize) -> Result<(Value<'a>, usize), NotJson> {
        let mut elements = Vec::new();
        let mut pos = self.space(open + 1, to);
        if self.byte(pos, to) == Some(b']') {
            return Ok((Value::Array(elements), pos + 1));
        }
        loop {
            let (element, end) = self.value(pos, to, depth + 1, None)?;
            elements.push(element);
            pos = self.space(end, to);
            match self.byte(pos, to) {
                Some(b',') => pos += 1,
                Some(b']') => return Ok((Value::Array(elements), pos + 1)),
                _ => return not_json(pos, "expected \",\" or \"]\""),
            }
        }
    }

    fn object(&mut self, open: usize, to: usize, depth: usize) -> Result<(Value<'a>, usize), NotJson> {
        let mut members = Vec::new();
        let flaws = self.flaws.len();
        let mut pos = self.space(open + 1, to);
        if self.byte(pos, to) == Some(b'}') {
            return Ok((Value::Object(members), pos + 1));
        }
        loop {
            pos = self.space(pos, to);
            if self.byte(pos, to) != Some(b'"') {
                return not_json(pos, "expected a key");
            }
            let (key, end) = self.string(pos, to)?;
            pos = self.space(end, to);
            if self.byte(pos, to) != Some(b':') {
                return not_json(pos, "expected \":\"");
            }
            let (value, end) = self.value(pos + 1, to, depth + 1, Some(key))?;
            members.push((key.into(), value));
            pos = self.space(end, to);
            match self.byte(pos, to) {
                Some(b',') => pos += 1,
                Some(b'}') => {
                    // What is wrong stays to be seen.
                    if self.flaws.len() == flaws {
                        keep_last(&mut members);
                    }
                    return Ok((Value::Object(members), pos + 1));
                }
                _ => return not_json(pos, "expected \",\" or \"}\""),
            }
        }
    }
}

/// Members up to which each is compared with each.
const FEW_MEMBERS: usize = 16;

/// Leaves of members the last of each key.
fn keep_last<'a>(members: &mut Vec<(Cow<'a, str>, Value<'a>)>) {
    let is_plain = |(key, _): &(Cow<str>, Value)| !key.as_bytes().contains(&b'\\');
    if members.len() <= FEW_MEMBERS && members.iter().all(is_plain) {
        let is_repeated = |at: usize| members[at + 1..].iter().any(|(key, _)| *key == members[at].0);
        if !(0..members.len()).any(is_repeated) {
            return;
        }
    }
    let is_last: Vec<bool> = {
        let mut seen = HashSet::new();
        members.iter().rev().map(|(key, _)| seen.insert(one_key(key))).collect()
    };
    let mut is_last = is_last.into_iter().rev();
    members.retain(|_| is_last.next() == Some(true));
}

/// The text of the object whose first key has an address; `None` where it is none.
pub(super) fn object_at(text: &str, first_key: usize) -> Option<&str> {
    let before = text[..first_key - text.as_ptr().addr()].trim_end_matches([' ', '\n', '\r', '\t']);
    let open = before.len().checked_sub(1).filter(|_| before.ends_with('{'))?;
    let (_, end) = Reader::new(text).value(open, text.len(), 0, None).ok()?;
    Some(&text[open..end])
}

/// Whether the string that begins at an address is a key.
pub(super) fn is_key(text: &str, address: usize) -> bool {
    let start = address - text.as_ptr().addr();
    let end =
        text[start..].starts_with('"').then(|| Reader::new(text).string(start, text.len()).ok()).flatten();
    end.is_some_and(|(_, end)| text.as_bytes().get(skip_space(text.as_bytes(), end)) == Some(&b':'))
}

/// What is wrong with the escapes of a written string.
fn flaw_of_escapes(written: &str) -> Option<Flaw> {
    let problem = check_escapes(&written[1..written.len() - 1]).err()?;
    Some(if problem.sqlstate == "22P05" { Flaw::Surrogate } else { Flaw::Escape })
}

/// Whether a text is true, false, null or a number as JSON has them.
fn is_token(token: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_number = digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    is_number || matches!(token, "true" | "false" | "null")
}

/// Whether a written key means this name.
pub(super) fn is_named(written: &str, name: &str) -> bool {
    let inner = &written[1..written.len() - 1];
    if inner == name {
        return true;
    }
    // What comes before the first escape tells most keys apart, and a key that is far too long for the name the others.
    match inner.find('\\') {
        Some(at) => {
            name.as_bytes().get(..at) == Some(&inner.as_bytes()[..at])
                && inner.len() <= 6 * name.len()
                && meaning(written).is_ok_and(|meaning| meaning == name)
        }
        None => false,
    }
}

/// What a written string means; else the SQLSTATE and what is wrong.
fn meaning(written: &str) -> Result<Cow<'_, str>, (&'static str, String)> {
    let inner = &written[1..written.len() - 1];
    if !inner.bytes().any(|byte| byte == b'\\' || byte < 0x20) {
        return Ok(Cow::Borrowed(inner));
    }
    let mut out = Vec::with_capacity(inner.len());
    unescape(inner, 0, &mut out).map_err(|error| (error.sqlstate, error.reason))?;
    Ok(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(text, &mut out);
    out
}

impl<'a> Value<'a> {
    pub(super) const NULL: Value<'static> = Value::Token(Cow::Borrowed("null"));

    pub(super) fn of_text(text: &str) -> Value<'static> {
        Value::String(quoted(text).into())
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Value::Token(token) if token == "null")
    }

    /// Whether there is nothing in it that could be an id: null, or an empty string.
    pub(super) fn is_empty(&self) -> bool {
        self.is_null() || matches!(self, Value::String(text) if text.len() == 2)
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Token(token) => match &**token {
                "null" => "null",
                "true" | "false" => "a boolean",
                _ => "a number",
            },
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }

    /// The addresses of those of its texts that are the payload's own.
    pub(super) fn places(&self, out: &mut Vec<usize>) {
        let place = |text: &Cow<str>, out: &mut Vec<usize>| {
            if let Cow::Borrowed(text) = text {
                out.push(text.as_ptr().addr());
            }
        };
        match self {
            Value::Token(text) | Value::String(text) => place(text, out),
            Value::Array(elements) => elements.iter().for_each(|element| element.places(out)),
            Value::Object(members) => {
                for (key, value) in members {
                    place(key, out);
                    value.places(out);
                }
            }
        }
    }

    /// The addresses of the first and the last of its texts that are the payload's own.
    pub(super) fn span(&self) -> Option<(usize, usize)> {
        Some((self.edge(false)?, self.edge(true)?))
    }

    fn edge(&self, is_last: bool) -> Option<usize> {
        let own = |text: &Cow<str>| matches!(text, Cow::Borrowed(_)).then(|| text.as_ptr().addr());
        match (self, is_last) {
            (Value::Token(text) | Value::String(text), _) => own(text),
            (Value::Array(elements), false) => elements.iter().find_map(|element| element.edge(false)),
            (Value::Array(elements), true) => elements.iter().rev().find_map(|element| element.edge(true)),
            (Value::Object(members), false) => {
                members.iter().find_map(|(key, value)| own(key).or_else(|| value.edge(false)))
            }
            (Value::Object(members), true) => {
                members.iter().rev().find_map(|(key, value)| value.edge(true).or_else(|| own(key)))
            }
        }
    }

    /// Takes a member out of an object.
    pub(super) fn take(&mut self, name: &str) -> Option<Value<'a>> {
        match self {
            Value::Object(members) => {
                let at = members.iter().rposition(|(key, _)| is_named(key, name))?;
                Some(members.remove(at).1)
            }
            _ => None,
        }
    }

    /// Takes out what a path leads to, its steps given one by one.
    pub(super) fn without(&mut self, mut steps: impl Iterator<Item = String>) {
        let (Some(step), Value::Object(members)) = (steps.next(), self) else { return };
        let rest: Vec<String> = steps.collect();
        if rest.is_empty() {
            members.retain(|(key, _)| !is_named(key, &step));
        } else if let Some((_, inner)) = members.iter_mut().rfind(|(key, _)| is_named(key, &step)) {
            inner.without(rest.into_iter());
        }
    }

    /// The places, one in the other, of what a path leads to, its steps given one by one.
    pub(super) fn route(&self, steps: impl Iterator<Item = String>) -> Option<Vec<usize>> {
        let mut route = Vec::new();
        let mut value = self;
        for step in steps {
            let place = value.place(&step)?;
            value = value.part(place)?;
            route.push(place);
        }
        Some(route)
    }

    fn place(&self, step: &str) -> Option<usize> {
        match self {
            Value::Array(_) => step.parse().ok(),
            Value::Object(members) => members.iter().rposition(|(key, _)| is_named(key, step)),
            _ => None,
        }
    }

    /// What one step of a path leads to.
    pub(super) fn step(&self, step: &str) -> Option<&Value<'a>> {
        self.part(self.place(step)?)
    }

    /// What is at the end of a route.
    pub(super) fn follow(&self, route: &[usize]) -> Option<&Value<'a>> {
        route.iter().try_fold(self, |value, place| value.part(*place))
    }

    fn part(&self, place: usize) -> Option<&Value<'a>> {
        match self {
            Value::Array(elements) => elements.get(place),
            Value::Object(members) => members.get(place).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string, number or boolean, a number's as jsonb would have it; else the SQLSTATE and what is wrong.
    pub(super) fn text(&self) -> Result<Cow<'_, str>, (&'static str, String)> {
        match self {
            Value::String(written) => meaning(written),
            Value::Token(token) if is_token(token) => Ok(as_jsonb(token)),
            Value::Token(_) => Err((Flaw::Word.told().0, Flaw::Word.told().1.to_owned())),
            other => Err(("22023", format!("is {}, not a text or number", other.kind()))),
        }
    }

    /// Appends the value as it is written, without white space.
    pub(super) fn print(&self, out: &mut String) {
        match self {
            Value::Token(text) | Value::String(text) => out.push_str(text),
            Value::Array(elements) => {
                out.push('[');
                for (number, element) in elements.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    element.print(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                for (number, (key, value)) in members.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push(':');
                    value.print(out);
                }
                out.push('}');
            }
        }
    }

    /// Appends the value as [`Value::print`] does, of members of one key the last alone, as jsonb keeps them.
    pub(super) fn print_once(&self, out: &mut String) {
        match self {
            Value::Array(elements) => {
                out.push('[');
                for (number, element) in elements.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    element.print_once(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                let begin = out.len();
                for (key, value) in last_of_each(members) {
                    if out.len() > begin {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push(':');
                    value.print_once(out);
                }
                out.push('}');
            }
            _ => self.print(out),
        }
    }

    /// With what another has beside it: where both are objects, members are merged likewise, else the own one goes before, unless
    /// that is null or an empty string.
    pub(super) fn over(&self, other: &Value<'a>) -> Value<'a> {
        let (own, others) = match (self, other) {
            (Value::Object(own), Value::Object(others)) => (own, others),
            _ if self.is_empty() && !other.is_empty() => return other.clone(),
            _ => return self.clone(),
        };
        let mut beside: HashMap<Cow<str>, &Value<'a>> =
            others.iter().map(|(key, value)| (one_key(key), value)).collect();
        let merged = |(key, value): &(Cow<'a, str>, Value<'a>)| {
            let value = beside.get(&one_key(key)).map_or_else(|| value.clone(), |other| value.over(other));
            (key.clone(), value)
        };
        let mut members: Vec<_> = own.iter().map(merged).collect();
        for (key, _) in own {
            beside.remove(&one_key(key));
        }
        members.extend(others.iter().filter(|(key, _)| beside.contains_key(&one_key(key))).cloned());
        Value::Object(members)
    }

    /// Appends an object as [`Value::over`] has it with several others; of these the first goes before.
    pub(super) fn print_over(&self, others: &[&Value], out: &mut String) {
        let members = |value: &Value| matches!(value, Value::Object(_));
        if others.is_empty() || !members(self) || !others.iter().all(|other| members(other)) {
            return self.print(out);
        }
        let beside: HashMap<Cow<str>, &Value> = others
            .iter()
            .rev()
            .flat_map(|other| other.members())
            .map(|(key, value)| (one_key(key), value))
            .collect();
        out.push('{');
        let begin = out.len();
        let member = |key: &str, out: &mut String| {
            if out.len() > begin {
                out.push(',');
            }
            out.push_str(key);
            out.push(':');
        };
        let mut printed: HashSet<Cow<str>> = HashSet::new();
        for (key, value) in self.members() {
            member(key, out);
            match beside.get(&one_key(key)) {
                Some(other) if value.is_empty() && !other.is_empty() => other.print(out),
                Some(other) => value.print_over(&[other], out),
                None => value.print(out),
            }
            printed.insert(one_key(key));
        }
        for other in others {
            for (key, value) in other.members().iter().filter(|(key, _)| !printed.contains(&one_key(key))) {
                member(key, out);
                value.print(out);
            }
            printed.extend(other.members().iter().map(|(key, _)| one_key(key)));
        }
        out.push('}');
    }

    pub(super) fn members(&self) -> &[(Cow<'a, str>, Value<'a>)] {
        match self {
            Value::Object(members) => members,
            _ => &[],
        }
    }

    /// The value in one spelling: the same text however strings are escaped, numbers written and members ordered, as text or by way of
    /// jsonb. Of members of one key the last counts. With `times`, texts that are the same moment are the same text, too.
    pub(super) fn canonical(&self, times: bool) -> String {
        let mut out = String::new();
        self.print_canonical(times, &mut out);
        out
    }

    fn print_canonical(&self, times: bool, out: &mut String) {
        match self {
            Value::Token(token) => match number(token) {
                Some(number) => out.push_str(&number),
                None => out.push_str(token),
            },
            Value::String(written) => match meaning(written) {
                Ok(text) => match one_moment(&text).filter(|_| times) {
                    Some(moment) => quote(&moment, out),
                    None => quote(&text, out),
                },
                Err(_) => out.push_str(written),
            },
            Value::Array(elements) => {
                out.push('[');
                for (number, element) in elements.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    element.print_canonical(times, out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                let last: BTreeMap<Cow<str>, &Value> =
                    members.iter().map(|(key, value)| (one_key(key), value)).collect();
                out.push('{');
                for (number, (key, value)) in last.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    quote(key, out);
                    out.push(':');
                    value.print_canonical(times, out);
                }
                out.push('}');
            }
        }
    }

    /// The text of what is to be a key: as [`Value::text`] has it, but numbers in one spelling.
    pub(super) fn key(&self) -> Result<Cow<'_, str>, (&'static str, String)> {
        match self {
            Value::Token(token) if is_token(token) => {
                Ok(number(token).map_or(Cow::Borrowed(&**token), Cow::Owned))
            }
            other => other.text(),
        }
    }
}

/// Of members, the last of each key, in order.
pub(super) fn last_of_each<K: AsRef<str>, V>(members: &[(K, V)]) -> impl Iterator<Item = (&str, &V)> {
    let last: HashMap<Cow<str>, usize> = match members.len() {
        0 | 1 => HashMap::new(),
        _ => members.iter().enumerate().map(|(number, (key, _))| (one_key(key.as_ref()), number)).collect(),
    };
    let members = members.iter().enumerate();
    members.filter_map(move |(number, (key, value))| {
        let key = key.as_ref();
        let is_last = last.is_empty() || last[&one_key(key)] == number;
        is_last.then_some((key, value))
    })
}

/// A written key by which it is told from others: what it means.
pub(super) fn one_key(written: &str) -> Cow<'_, str> {
    meaning(written).unwrap_or(Cow::Borrowed(written))
}

/// Digits that a number of a field is written out with: more than any field may have.
const FIELD_DIGITS: i64 = 400;

/// A number as jsonb prints it: without exponent, unless it is far too long for any field, and without a sign of zero.
fn as_jsonb(token: &str) -> Cow<'_, str> {
    let unsigned = token.strip_prefix('-').unwrap_or(token);
    let is_zero = |mantissa: &str| mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let Some(at) = unsigned.find(['e', 'E']) else {
        return Cow::Borrowed(if is_zero(unsigned) { unsigned } else { token });
    };
    let (mantissa, exponent) = (&unsigned[..at], unsigned[at + 1..].parse::<i64>());
    // As often as it is multiplied by ten.
    if is_zero(mantissa) && exponent.as_ref().is_ok_and(|exponent| *exponent > FIELD_DIGITS) {
        return Cow::Borrowed("0");
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Some(exponent) = exponent.ok().filter(|exponent| (-FIELD_DIGITS..=FIELD_DIGITS).contains(exponent))
    else {
        return Cow::Borrowed(token);
    };
    let mut digits = format!("{whole}{fraction}");
    // Digits before the point, which may lie outside of those that there are.
    let point = whole.len() as i64 + exponent;
    let zeros = |count: i64| "0".repeat(count.max(0) as usize);
    digits = format!("{}{digits}{}", zeros(1 - point), zeros(point - digits.len() as i64));
    let (whole, fraction) = digits.split_at(point.max(1) as usize);
    let whole = whole.trim_start_matches('0');
    let sign = if token.starts_with('-') && !is_zero(mantissa) { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Cow::Owned(format!("{sign}{whole}{point}{fraction}"))
}

/// Exponents below this are Postgres'.
const EXPONENT_LIMIT: i64 = 1 << 30;

/// Digits that a number is written out with; a longer one has an exponent.
const WRITTEN_OUT: i64 = 40;

/// A number in the one spelling of all that have its value: without exponent, leading and trailing zeros, where it is short enough.
fn number(token: &str) -> Option<String> {
    let unsigned = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (mantissa, ""),
    };
    let exponent: i64 = match exponent {
        Some(exponent) => {
            // Of so many digits no number is; what isn't one stays as it is written.
            exponent.parse().ok().filter(|exponent: &i64| exponent.abs() < EXPONENT_LIMIT)?
        }
        None => 0,
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let exponent = exponent - fraction.len() as i64 + (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some("0".into());
    }
    let sign = if token.starts_with('-') { "-" } else { "" };
    let count = significant.len() as i64;
    let zeros = |count: i64| "0".repeat(count as usize);
    // Of those before the point, at most none.
    let before = count + exponent;
    Some(match exponent {
        0.. if before <= WRITTEN_OUT => format!("{sign}{significant}{}", zeros(exponent)),
        ..0 if before > 0 && count <= WRITTEN_OUT => {
            let (whole, fraction) = significant.split_at(before as usize);
            format!("{sign}{whole}.{fraction}")
        }
        ..0 if before <= 0 && -exponent <= WRITTEN_OUT => format!("{sign}0.{}{significant}", zeros(-before)),
        _ => format!("{sign}{significant}e{exponent}"),
    })
}

/// The text that stands for a moment however it is written, with any offset and any zeros behind the second; `None` of what is no RFC 3339,
/// or finer than a microsecond.
fn one_moment(text: &str) -> Option<String> {
    if !(20..=40).contains(&text.len()) || !text.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    let behind = text.get(19..)?;
    let digits = behind.strip_prefix('.').unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    if behind.starts_with(',') || digits[..end].trim_end_matches('0').len() > 6 {
        return None;
    }
    parse_timestamp(text).ok().map(format_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value<'_>, NotJson> {
        Reader::new(text).whole(0, text.len())
    }

    fn at<'v, 'a>(value: &'v Value<'a>, path: &str) -> Option<&'v Value<'a>> {
        value.follow(&value.route(crate::payload::mapping::steps(path))?)
    }

    #[test]
    fn what_is_inside_is_kept_as_it_is_written() {
        let text = r#" {"a" : [1.50, "\u00e9\ud800", {"b\/c": null}], "a": NaN} "#;
        let value = read(text).unwrap();
        let mut out = String::new();
        value.print(&mut out);
        assert_eq!(out, r#"{"a":[1.50,"\u00e9\ud800",{"b\/c":null}],"a":NaN}"#);
        assert_eq!(at(&value, "/a"), Some(&Value::Token("NaN".into())), "the last one counts");
        let value = read(r#"{"x": [7, {"b\/c": "\u00e9"}]}"#).unwrap();
        assert_eq!(at(&value, "/x/1/b~1c").unwrap().text().unwrap(), "é");
        assert_eq!(at(&value, "/x/0").unwrap().text().unwrap(), "7");
        assert_eq!(at(&value, "/x/2"), None);
        assert_eq!(read(r#""\ud800""#).unwrap().text().unwrap_err().0, "22P05");
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in [
            "", " ", "{", "[1", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "\"abc", "\"abc\\", "[1]]", "1 2",
            "[1}",
        ] {
            assert_eq!(read(text).unwrap_err().sqlstate, "22032", "{text}");
        }
        for text in ["[".repeat(100_000), "[".repeat(70) + &"}".repeat(70)] {
            assert_eq!(read(&text).unwrap_err().sqlstate, "22032");
        }
    }

    #[test]
    fn whatever_says_the_same_has_one_spelling() {
        let one = |text: &str| read(text).unwrap().canonical(true);
        for (left, right) in [
            (r#"{"b":[{"d":1,"c":2}],"a":1}"#, r#"{"a":1,"b":[{"c":2,"d":1}]}"#),
            (r#""https:\/\/x""#, r#""https://x""#),
            (r#"{"caf\u00e9":"\u00E9\u0022"}"#, r#"{"café":"é\""}"#),
            (r#"{"a":1,"\u0061":2}"#, r#"{"a":2}"#),
            ("[1.0,-0,1e2,1.50,0.10e-3]", "[1,0,100,1.5,0.0001]"),
            ("[1E+2,10e1,100.000]", "[100,100,1e2]"),
            (
                "123456789012345678901234567890123456789012345678900e1",
                "1234567890123456789012345678901234567890123456789000",
            ),
            (r#""2026-11-20T00:00:00.000Z""#, r#""2026-11-20T01:00:00+01:00""#),
        ] {
            assert_eq!(one(left), one(right), "{left}");
            assert_eq!(one(&one(left)), one(left), "{left}");
        }
        for (left, right) in [
            ("[1,2]", "[2,1]"),
            (r#""1.0""#, r#""1""#),
            (r#"[1]"#, r#"["1"]"#),
            ("10", "1"),
            ("0.1", "0.01"),
            ("1", "-1"),
            (r#""2026-11-20T00:00:00.0000001Z""#, r#""2026-11-20T00:00:00.0000002Z""#),
            (r#""\ud800""#, r#""\ud801""#),
        ] {
            assert_ne!(one(left), one(right), "{left}");
        }
        assert_ne!(
            read(r#""2026-11-20T00:00:00.000Z""#).unwrap().canonical(false),
            r#""2026-11-20T00:00:00Z""#
        );
        assert_eq!(one("1772442900"), "1772442900");
        assert_eq!(one("NaN"), "NaN");
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "[\\[\\]{},:\"\\\\ a1é]{0,60}") {
            if let Ok(value) = read(&text) {
                let mut out = String::new();
                value.print(&mut out);
                let again = read(&out).map_err(|error| error.reason.to_owned());
                prop_assert_eq!(again, Ok(value));
            }
        }

        #[test]
        fn a_number_keeps_its_value_in_its_one_spelling(number: f64) {
            prop_assume!(number.is_finite());
            let (short, long) = (super::number(&format!("{number:e}")), super::number(&format!("{number:.1100}")));
            let short = short.unwrap();
            prop_assert_eq!(short.parse::<f64>().unwrap(), number + 0.0);
            // All of its digits, as it lies in memory.
            prop_assert_eq!(long.unwrap().parse::<f64>().unwrap(), number + 0.0);
            prop_assert_eq!(super::number(&short).unwrap(), short);
        }

        #[test]
        fn reads_what_serde_writes(number: i64, text in "\\PC{0,20}") {
            let json = serde_json::json!({"n": number, "t": text, "a": [text, number]}).to_string();
            let value = read(&json).unwrap();
            prop_assert_eq!(at(&value, "/t").unwrap().text().unwrap(), text.as_str());
            let mut out = String::new();
            value.print(&mut out);
            prop_assert_eq!(out, json);
        }
    }
}
