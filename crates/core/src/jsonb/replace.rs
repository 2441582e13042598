//! Replacing values at paths inside container bytes, without a detour through text.

use super::numeric;
use super::walk::Entries;
use super::*;

/// What becomes of a value.
pub enum Change {
    Keep,
    /// The member goes; in an array, null stands in its place.
    Remove,
    /// A string stands in its place.
    Text(String),
    /// What this JSON says stands in its place.
    Json(String),
}

/// A value that a path leads to.
pub struct Found<'a> {
    /// The path, by its number.
    pub path: usize,
    /// The paths that lead to what the value is in, outermost first, by their numbers.
    pub around: &'a [usize],
    /// A string's own characters, else JSON. What paths lead to inside is changed already.
    pub text: &'a str,
    pub is_string: bool,
    /// The path written out, with the places in arrays.
    pub at: &'a str,
}

/// Says what becomes of a value.
pub type Decide<'s> = dyn FnMut(Found) -> Change + 's;

/// Walks paths: each is a list of keys, outermost first.
struct Replacer<'p, 's> {
    /// The paths, each with its number.
    paths: &'p [&'p [String]],
    decide: &'s mut Decide<'s>,
    /// The paths that lead to what the walk is in.
    around: Vec<usize>,
    changed: bool,
    text: String,
}

/// Returns the container with the values at `paths` replaced as `decide` says, those inside others first; `None` where nothing changes. The
/// bytes must be well-formed, as the encoder makes them and [`check`] checks them.
pub fn replace<'s>(
    bytes: &[u8],
    paths: &[&[String]],
    decide: &'s mut Decide<'s>,
) -> Result<Option<Vec<u8>>, JsonbError> {
    let mut replacer = Replacer { paths, decide, around: Vec::new(), changed: false, text: String::new() };
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let every: Vec<usize> = (0..paths.len()).collect();
    replacer.container(bytes, 0, bytes.len(), &every, 0, &mut String::new(), &mut out)?;
    if out.len() > MAX_BYTES {
        return Err(Bounds::WIDEST.too_large(0));
    }
    Ok(replacer.changed.then_some(out))
}

/// The same of a value alone, given and returned as JSON: that at `at`, which the last of the paths `around` leads to.
pub fn replace_inside<'s>(
    json: &str,
    at: &str,
    around: &[usize],
    paths: &[&[String]],
    decide: &'s mut Decide<'s>,
) -> Result<Option<String>, JsonbError> {
    let outer = around.last().map_or(&[][..], |&path| paths[path]);
    let inner: Vec<usize> = (0..paths.len())
        .filter(|&path| paths[path].len() > outer.len() && paths[path].starts_with(outer))
        .collect();
    if inner.is_empty() {
        return Ok(None);
    }
    let (kind, bytes) = value_of(json)?;
    if kind != TYPE_CONTAINER {
        return Ok(None);
    }
    let mut replacer =
        Replacer { paths, decide, around: around.to_vec(), changed: false, text: String::new() };
    let mut out = Vec::with_capacity(bytes.len() + 64);
    replacer.container(&bytes, 0, bytes.len(), &inner, outer.len(), &mut at.to_owned(), &mut out)?;
    if !replacer.changed {
        return Ok(None);
    }
    let mut text = String::new();
    to_json(&out, &mut text)?;
    Ok(Some(text))
}

/// A JSON value as it is printed where a path leads to it: a string's own characters, else JSON; and whether it is a string.
pub fn printed(json: &str) -> Result<(String, bool), JsonbError> {
    let (kind, bytes) = value_of(json)?;
    let mut text = String::new();
    print(&bytes, kind, 0, bytes.len(), &mut text)?;
    Ok((text, kind == TYPE_STRING))
}

/// The type of a JSON value, and its bytes as a member of a container.
fn value_of(json: &str) -> Result<(u32, Vec<u8>), JsonbError> {
    let mut bytes = Vec::new();
    Encoder::new().encode(&format!("{{\"v\":{json}}}"), Bounds::WIDEST, &mut bytes)?;
    let (_, count, mut entries) = Entries::open(&bytes, 0, bytes.len())?;
    if count != 1 {
        return Err(fail("22032", 0, "more than one value"));
    }
    entries.next(&bytes)?;
    let (kind, from, to) = entries.next(&bytes)?;
    let from = if matches!(kind, TYPE_NUMERIC | TYPE_CONTAINER) { from.next_multiple_of(4) } else { from };
    Ok((kind, bytes[from..to].to_vec()))
}

/// A member of a container that is being written.
struct Member {
    key: Option<(usize, usize)>,
    value: Value,
}

enum Value {
    /// The bytes of the source from here to there, less padding.
    Same(u32, usize, usize),
    Text(String),
    Null,
    /// Bytes that were made of it.
    Made(u32, Vec<u8>),
    /// A container to be gone into, with the paths that lead on.
    Inside(usize, usize, Vec<usize>),
}

impl Replacer<'_, '_> {
    #[allow(clippy::too_many_arguments, reason = "one call of itself; what it holds is above")]
    fn container(
        &mut self,
        bytes: &[u8],
        start: usize,
        end: usize,
        live: &[usize],
        depth: usize,
        at: &mut String,
        out: &mut Vec<u8>,
    ) -> Result<(), JsonbError> {
        let (is_object, count, mut keys) = Entries::open(bytes, start, end)?;
        let mut values = keys;
        if is_object {
            for _ in 0..count {
                values.next(bytes)?;
            }
        }
        let mut members = Vec::with_capacity(count);
        let mut names = Vec::new();
        for place in 0..count {
            let key = if is_object {
                let (_, from, to) = keys.next(bytes)?;
                Some((from, to))
            } else {
                None
            };
            let (kind, from, to) = values.next(bytes)?;
            let (ends, leads): (Option<usize>, Vec<usize>) = match key {
                // Arrays are passed through.
                None => (self.ending(live, depth), self.leading(live, depth)),
                Some((from, to)) => {
                    let name = &bytes[from..to];
                    let matching: Vec<usize> = live
                        .iter()
                        .copied()
                        .filter(|&path| {
                            self.paths[path].get(depth).is_some_and(|step| step.as_bytes() == name)
                        })
                        .collect();
                    (self.ending(&matching, depth + 1), self.leading(&matching, depth + 1))
                }
            };
            if ends.is_none() && leads.is_empty() {
                members.push(Member { key, value: Value::Same(kind, from, to) });
                names.push(String::new());
                continue;
            }
            let length = at.len();
            match key {
                Some((from, to)) => {
                    at.push('/');
                    at.push_str(&crate::privacy::escaped(&String::from_utf8_lossy(&bytes[from..to])));
                }
                None => at.push_str(&format!("/{place}")),
            }
            let value = match (kind, ends) {
                (TYPE_NULL, _) => Some(Value::Same(kind, from, to)),
                (TYPE_CONTAINER, Some(_)) if self.is_array(bytes, from) => {
                    let mut all = leads;
                    all.extend(ends);
                    Some(Value::Inside(from, to, all))
                }
                (_, Some(path)) => {
                    let inner = match kind {
                        TYPE_CONTAINER if !leads.is_empty() => {
                            let depth = depth + usize::from(is_object);
                            self.inside(bytes, from, to, path, &leads, depth, at)?
                        }
                        _ => None,
                    };
                    let change = match &inner {
                        Some(made) => self.ask(made, kind, 0, made.len(), path, at)?,
                        None => self.ask(bytes, kind, from, to, path, at)?,
                    };
                    self.changed |= !matches!(change, Change::Keep);
                    match (change, inner) {
                        (Change::Keep, Some(made)) => Some(Value::Made(kind, made)),
                        (Change::Keep, None) => Some(Value::Same(kind, from, to)),
                        (Change::Text(text), _) => Some(Value::Text(text)),
                        (Change::Json(json), _) => {
                            let (kind, made) = value_of(&json)?;
                            Some(Value::Made(kind, made))
                        }
                        (Change::Remove, _) => (!is_object).then_some(Value::Null),
                    }
                }
                (TYPE_CONTAINER, None) => Some(Value::Inside(from, to, leads)),
                (_, None) => Some(Value::Same(kind, from, to)),
            };
            if let Some(value) = value {
                members.push(Member { key, value });
                names.push(at.clone());
            }
            at.truncate(length);
        }
        self.write(bytes, is_object, depth, members, names, out)
    }

    /// A value that a path leads to, as others that lead into it change it; `None` where they don't.
    #[allow(clippy::too_many_arguments, reason = "as above")]
    fn inside(
        &mut self,
        bytes: &[u8],
        from: usize,
        to: usize,
        path: usize,
        leads: &[usize],
        depth: usize,
        at: &mut String,
    ) -> Result<Option<Vec<u8>>, JsonbError> {
        let had_changed = std::mem::take(&mut self.changed);
        self.around.push(path);
        let mut made = Vec::new();
        self.container(bytes, from.next_multiple_of(4), to, leads, depth, at, &mut made)?;
        self.around.pop();
        let has_changed = std::mem::replace(&mut self.changed, had_changed);
        self.changed |= has_changed;
        Ok(has_changed.then_some(made))
    }

    fn ending(&self, live: &[usize], depth: usize) -> Option<usize> {
        live.iter().copied().find(|&path| self.paths[path].len() == depth)
    }

    fn leading(&self, live: &[usize], depth: usize) -> Vec<usize> {
        live.iter().copied().filter(|&path| self.paths[path].len() > depth).collect()
    }

    fn is_array(&self, bytes: &[u8], from: usize) -> bool {
        let from = from.next_multiple_of(4);
        bytes.get(from..from + 4).is_some_and(|head| head[3] & 0x40 != 0)
    }

    fn ask(
        &mut self,
        bytes: &[u8],
        kind: u32,
        from: usize,
        to: usize,
        path: usize,
        at: &str,
    ) -> Result<Change, JsonbError> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        print(bytes, kind, from, to, &mut text)?;
        let found = Found { path, around: &self.around, text: &text, is_string: kind == TYPE_STRING, at };
        let change = (self.decide)(found);
        self.text = text;
        Ok(change)
    }

    fn write(
        &mut self,
        bytes: &[u8],
        is_object: bool,
        depth: usize,
        members: Vec<Member>,
        names: Vec<String>,
        out: &mut Vec<u8>,
    ) -> Result<(), JsonbError> {
        align(out);
        let kind = if is_object { OBJECT } else { ARRAY };
        out.extend_from_slice(&(kind | members.len() as u32).to_le_bytes());
        let mut entry = out.len();
        out.resize(entry + members.len() * if is_object { 8 } else { 4 }, 0);
        let base = out.len();
        let mut index = 0;
        let mut note = |kind: u32, before: usize, out: &mut Vec<u8>| {
            let field = if index % OFFSET_STRIDE == 0 {
                ENTRY_HAS_OFFSET | (out.len() - base) as u32
            } else {
                (out.len() - before) as u32
            };
            out[entry..entry + 4].copy_from_slice(&(kind | field).to_le_bytes());
            entry += 4;
            index += 1;
        };
        if is_object {
            for (from, to) in members.iter().filter_map(|member| member.key) {
                let before = out.len();
                out.extend_from_slice(&bytes[from..to]);
                note(TYPE_STRING, before, out);
            }
        }
        let step = usize::from(is_object);
        for (member, mut name) in members.into_iter().zip(names) {
            let before = out.len();
            let kind = match member.value {
                Value::Same(kind, from, to) => {
                    let from = if matches!(kind, TYPE_NUMERIC | TYPE_CONTAINER) {
                        align(out);
                        from.next_multiple_of(4)
                    } else {
                        from
                    };
                    out.extend_from_slice(&bytes[from..to]);
                    kind
                }
                Value::Text(text) => {
                    out.extend_from_slice(text.as_bytes());
                    TYPE_STRING
                }
                Value::Made(kind, made) => {
                    if matches!(kind, TYPE_NUMERIC | TYPE_CONTAINER) {
                        align(out);
                    }
                    out.extend_from_slice(&made);
                    kind
                }
                Value::Null => TYPE_NULL,
                Value::Inside(from, to, live) => {
                    let from = from.next_multiple_of(4);
                    self.container(bytes, from, to, &live, depth + step, &mut name, out)?;
                    TYPE_CONTAINER
                }
            };
            note(kind, before, out);
        }
        Ok(())
    }
}

/// Adds a value's text: a string's own characters, else JSON.
fn print(bytes: &[u8], kind: u32, from: usize, to: usize, text: &mut String) -> Result<(), JsonbError> {
    match kind {
        TYPE_STRING => text.push_str(
            std::str::from_utf8(&bytes[from..to]).map_err(|_| fail("22P03", from, "text is not UTF-8"))?,
        ),
        TYPE_NUMERIC => {
            let from = from.next_multiple_of(4);
            numeric::decode(&bytes[from..to], from)?.print(text);
        }
        TYPE_TRUE => text.push_str("true"),
        TYPE_FALSE => text.push_str("false"),
        TYPE_NULL => text.push_str("null"),
        _ => {
            let from = from.next_multiple_of(4);
            to_json(&bytes[from..to], text)?;
        }
    }
    Ok(())
}

/// Fills up to a multiple of 4, as containers and numbers begin.
fn align(out: &mut Vec<u8>) {
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}
