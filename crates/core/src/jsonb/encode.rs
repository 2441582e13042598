//! JSON text to container bytes and content digest, in one pass over the text.
//!
//! The text's order is not the container's (keys are sorted by length, then bytes), so values are first noted as
//! small nodes that point into the text or into a scratch buffer, and then written.

use super::scan::{skip_space, string_end, token, unescape};
use super::*;
use std::cmp::Ordering;

/// Set in [`Span::at`] where the bytes are in the scratch buffer; texts are shorter than this.
const IN_SCRATCH: u32 = 1 << 31;

/// Points at bytes in the text or in the scratch buffer.
#[derive(Clone, Copy, Default)]
struct Span {
    at: u32,
    len: u32,
}

/// Notes one value: its entry type and its bytes; for a container, its slots instead.
#[derive(Clone, Copy)]
struct Node {
    kind: u32,
    span: Span,
}

/// Notes a container's member: the key (empty in arrays) and the value.
#[derive(Clone, Copy)]
struct Slot {
    key: Span,
    value: Node,
}

/// Encodes JSON objects; keeps its buffers from one object to the next.
#[derive(Default)]
pub struct Encoder {
    /// Strings without their escapes, and numbers in stored form.
    scratch: Vec<u8>,
    /// Slots of the containers still open, innermost last.
    open: Vec<Slot>,
    /// Slots of the containers already closed, each container's together, keys sorted.
    closed: Vec<Slot>,
}

impl Encoder {
    /// Makes an encoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the container of the JSON object `text` to `out` and returns the digest of its content.
    ///
    /// The bytes are those that `jsonb_in` makes. Offsets in errors count from the start of `text`.
    pub fn encode(&mut self, text: &str, bounds: Bounds, out: &mut Vec<u8>) -> Result<u64, JsonbError> {
        let start = skip_space(text.as_bytes(), 0);
        if text.as_bytes().get(start) != Some(&b'{') {
            return Err(fail("22023", start, "not a JSON object"));
        }
        let (end, digest) = self.encode_at(text, start, bounds, out)?;
        let end = skip_space(text.as_bytes(), end);
        if end != text.len() {
            return Err(fail("22P02", end, "text after the end of the object"));
        }
        Ok(digest)
    }

    /// Encodes the object whose brace is at `start`; returns the position after it, and its digest.
    pub(crate) fn encode_at(
        &mut self,
        text: &str,
        start: usize,
        bounds: Bounds,
        out: &mut Vec<u8>,
    ) -> Result<(usize, u64), JsonbError> {
        if text.len() >= IN_SCRATCH as usize {
            return Err(fail("54000", 0, "text is longer than 2 GiB"));
        }
        self.scratch.clear();
        self.open.clear();
        self.closed.clear();
        let bounds = bounds.capped();
        let mut reader = Reader { encoder: self, text, bounds, size: 0 };
        let (root, end, digest) = reader.object(start, 1)?;
        let origin = out.len();
        self.write(root, text.as_bytes(), origin, out);
        if out.len() - origin > bounds.bytes {
            out.truncate(origin);
            return Err(bounds.too_large(start));
        }
        Ok((end, digest))
    }

    fn bytes<'s>(&'s self, text: &'s [u8], span: Span) -> &'s [u8] {
        let (source, at) = if span.at & IN_SCRATCH != 0 {
            (&self.scratch[..], span.at & !IN_SCRATCH)
        } else {
            (text, span.at)
        };
        &source[at as usize..][..span.len as usize]
    }

    /// Writes a container, aligned to 4 bytes from `origin`.
    fn write(&self, node: Node, text: &[u8], origin: usize, out: &mut Vec<u8>) {
        align(origin, out);
        let slots = &self.closed[node.span.at as usize..][..node.span.len as usize];
        let is_object = node.kind == OBJECT;
        out.extend_from_slice(&(node.kind | node.span.len).to_le_bytes());
        let mut entry = out.len();
        let entries = slots.len() * if is_object { 2 } else { 1 };
        out.resize(entry + entries * 4, 0);
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
            for slot in slots {
                let before = out.len();
                out.extend_from_slice(self.bytes(text, slot.key));
                note(TYPE_STRING, before, out);
            }
        }
        for slot in slots {
            let before = out.len();
            let kind = match slot.value.kind {
                TYPE_NUMERIC => {
                    align(origin, out);
                    out.extend_from_slice(self.bytes(text, slot.value.span));
                    TYPE_NUMERIC
                }
                TYPE_STRING => {
                    out.extend_from_slice(self.bytes(text, slot.value.span));
                    TYPE_STRING
                }
                CLOSED_OBJECT => {
                    self.write(Node { kind: OBJECT, ..slot.value }, text, origin, out);
                    TYPE_CONTAINER
                }
                CLOSED_ARRAY => {
                    self.write(Node { kind: ARRAY, ..slot.value }, text, origin, out);
                    TYPE_CONTAINER
                }
                kind => kind,
            };
            note(kind, before, out);
        }
    }
}

/// Node kinds of containers, outside the entry types.
const CLOSED_OBJECT: u32 = 1;
const CLOSED_ARRAY: u32 = 2;

fn align(origin: usize, out: &mut Vec<u8>) {
    while !(out.len() - origin).is_multiple_of(4) {
        out.push(0);
    }
}

/// Reads one text into an encoder's buffers.
struct Reader<'e, 't> {
    encoder: &'e mut Encoder,
    text: &'t str,
    bounds: Bounds,
    /// A lower bound of the encoded size, so that reading stops soon after the limit.
    size: usize,
}

impl Reader<'_, '_> {
    fn peek(&self, pos: usize) -> Option<u8> {
        self.text.as_bytes().get(pos).copied()
    }

    fn space(&self, pos: usize) -> usize {
        skip_space(self.text.as_bytes(), pos)
    }

    #[inline]
    fn grow(&mut self, bytes: usize, pos: usize) -> Result<(), JsonbError> {
        self.size += bytes;
        if self.size > self.bounds.bytes { Err(self.bounds.too_large(pos)) } else { Ok(()) }
    }

    #[cold]
    fn unexpected(&self, pos: usize, wanted: &str) -> JsonbError {
        if pos >= self.text.len() {
            return fail("22P02", pos, format!("expected {wanted}, found the end of the text"));
        }
        fail("22P02", pos, format!("expected {wanted}, found \"{}\"", token(self.text, pos)))
    }

    /// Reads the string whose opening quote is at `pos`.
    #[inline]
    fn string(&mut self, pos: usize) -> Result<(Span, usize), JsonbError> {
        let (end, escaped) = string_end(self.text.as_bytes(), pos + 1)?;
        let span = if escaped {
            let scratch = &mut self.encoder.scratch;
            let at = scratch.len();
            unescape(&self.text[pos + 1..end], pos + 1, scratch)?;
            Span { at: at as u32 | IN_SCRATCH, len: (scratch.len() - at) as u32 }
        } else {
            Span { at: pos as u32 + 1, len: (end - pos - 1) as u32 }
        };
        self.grow(span.len as usize + 4, pos)?;
        Ok((span, end + 1))
    }

    /// Reads the object whose brace is at `pos`, at nesting `depth`.
    fn object(&mut self, mut pos: usize, depth: usize) -> Result<(Node, usize, u64), JsonbError> {
        if depth > self.bounds.depth {
            return Err(self.bounds.too_deep(pos));
        }
        self.grow(4, pos)?;
        let start = pos;
        let base = self.encoder.open.len();
        let mut sum = 0u64;
        pos = self.space(pos + 1);
        if self.peek(pos) == Some(b'}') {
            return Ok((self.close(base, OBJECT), pos + 1, digest::object(0)));
        }
        loop {
            if self.peek(pos) != Some(b'"') {
                return Err(self.unexpected(pos, "a key"));
            }
            let (key, end) = self.string(pos)?;
            pos = self.space(end);
            if self.peek(pos) != Some(b':') {
                return Err(self.unexpected(pos, "\":\""));
            }
            pos = self.space(pos + 1);
            let (value, end, hash) = self.value(pos, depth)?;
            let key_hash = digest::string(self.encoder.bytes(self.text.as_bytes(), key));
            sum = sum.wrapping_add(digest::join(key_hash, hash));
            self.encoder.open.push(Slot { key, value });
            pos = self.space(end);
            match self.peek(pos) {
                Some(b',') => pos = self.space(pos + 1),
                Some(b'}') => break,
                _ => return Err(self.unexpected(pos, "\",\" or \"}\"")),
            }
        }
        self.sort(base, start)?;
        Ok((self.close(base, OBJECT), pos + 1, digest::object(sum)))
    }

    fn array(&mut self, mut pos: usize, depth: usize) -> Result<(Node, usize, u64), JsonbError> {
        if depth > self.bounds.depth {
            return Err(self.bounds.too_deep(pos));
        }
        self.grow(4, pos)?;
        let base = self.encoder.open.len();
        let mut digest = digest::ArrayDigest::new();
        pos = self.space(pos + 1);
        if self.peek(pos) == Some(b']') {
            return Ok((self.close(base, ARRAY), pos + 1, digest.finish()));
        }
        loop {
            let (value, end, hash) = self.value(pos, depth)?;
            digest.push(hash);
            self.encoder.open.push(Slot { key: Span::default(), value });
            pos = self.space(end);
            match self.peek(pos) {
                Some(b',') => pos = self.space(pos + 1),
                Some(b']') => break,
                _ => return Err(self.unexpected(pos, "\",\" or \"]\"")),
            }
        }
        Ok((self.close(base, ARRAY), pos + 1, digest.finish()))
    }

    #[inline]
    fn value(&mut self, pos: usize, depth: usize) -> Result<(Node, usize, u64), JsonbError> {
        let scalar = |kind| Node { kind, span: Span::default() };
        match self.peek(pos) {
            Some(b'"') => {
                let (span, end) = self.string(pos)?;
                let hash = digest::string(self.encoder.bytes(self.text.as_bytes(), span));
                Ok((Node { kind: TYPE_STRING, span }, end, hash))
            }
            Some(b'-' | b'0'..=b'9') => self.number(pos),
            Some(b'{') => {
                let (node, end, hash) = self.object(pos, depth + 1)?;
                Ok((Node { kind: CLOSED_OBJECT, ..node }, end, hash))
            }
            Some(b'[') => {
                let (node, end, hash) = self.array(pos, depth + 1)?;
                Ok((Node { kind: CLOSED_ARRAY, ..node }, end, hash))
            }
            Some(b't') if self.word(pos, "true") => {
                self.grow(4, pos)?;
                Ok((scalar(TYPE_TRUE), pos + 4, digest::boolean(true)))
            }
            Some(b'f') if self.word(pos, "false") => {
                self.grow(4, pos)?;
                Ok((scalar(TYPE_FALSE), pos + 5, digest::boolean(false)))
            }
            Some(b'n') if self.word(pos, "null") => {
                self.grow(4, pos)?;
                Ok((scalar(TYPE_NULL), pos + 4, digest::null()))
            }
            _ => Err(self.unexpected(pos, "a value")),
        }
    }

    fn word(&self, pos: usize, word: &str) -> bool {
        self.text.as_bytes()[pos..].starts_with(word.as_bytes())
    }

    #[inline]
    fn number(&mut self, pos: usize) -> Result<(Node, usize, u64), JsonbError> {
        let scratch = &mut self.encoder.scratch;
        let at = scratch.len();
        let (end, hash) = numeric::encode(self.text.as_bytes(), pos, scratch)?;
        let len = scratch.len() - at;
        self.grow(len + 4, pos)?;
        let span = Span { at: at as u32 | IN_SCRATCH, len: len as u32 };
        Ok((Node { kind: TYPE_NUMERIC, span }, end, hash))
    }

    /// Sorts the slots from `base` on as Postgres sorts keys, and refuses equal ones.
    fn sort(&mut self, base: usize, pos: usize) -> Result<(), JsonbError> {
        let mut slots = std::mem::take(&mut self.encoder.open);
        let text = self.text.as_bytes();
        let key = |slot: &Slot| self.encoder.bytes(text, slot.key);
        let order = |a: &Slot, b: &Slot| match a.key.len.cmp(&b.key.len) {
            Ordering::Equal => key(a).cmp(key(b)),
            unequal => unequal,
        };
        let members = &mut slots[base..];
        if members.len() > 1 {
            members.sort_unstable_by(order);
        }
        let twin = members.windows(2).find(|w| order(&w[0], &w[1]) == Ordering::Equal);
        let twin = twin.map(|w| String::from_utf8_lossy(key(&w[0])).into_owned());
        self.encoder.open = slots;
        match twin {
            Some(key) => Err(fail("22030", pos, format!("duplicate key \"{}\"", excerpt(&key)))),
            None => Ok(()),
        }
    }

    /// Moves the slots from `base` on to their final place.
    #[inline]
    fn close(&mut self, base: usize, kind: u32) -> Node {
        let Encoder { open, closed, .. } = &mut *self.encoder;
        let at = closed.len() as u32;
        closed.extend_from_slice(&open[base..]);
        let len = (open.len() - base) as u32;
        open.truncate(base);
        Node { kind, span: Span { at, len } }
    }
}
