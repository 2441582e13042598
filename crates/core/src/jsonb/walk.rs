//! Container bytes back to meaning: a strict check, the content digest, JSON text.
//!
//! Bytes are not trusted: every length, offset, alignment, order and number is checked, recursion and work are
//! bounded by the limits and by the length of the input, and nothing is allocated but the text asked for.

use super::numeric::Numeric;
use super::scan::quote;
use super::*;
use std::cmp::Ordering;

/// Checks that `bytes` are one well-formed object container, laid out as Postgres lays it out, and returns the
/// digest of its content. Malformed bytes are 22P03, limits 54000 and 22003.
pub fn check(bytes: &[u8], bounds: Bounds) -> Result<u64, JsonbError> {
    walk(bytes, bounds, None)
}

/// Appends the JSON text of an object container to `out`, spelt as Postgres prints it. Bytes are checked as by
/// [`check`]; after an error `out` holds what came before it.
pub fn to_json(bytes: &[u8], out: &mut String) -> Result<(), JsonbError> {
    walk(bytes, Bounds::WIDEST, Some(out)).map(drop)
}

fn walk(bytes: &[u8], bounds: Bounds, out: Option<&mut String>) -> Result<u64, JsonbError> {
    let bounds = bounds.capped();
    if bytes.len() > bounds.bytes {
        return Err(bounds.too_large(0));
    }
    if bytes.len() >= 4 && read(bytes, 0) & !COUNT_MASK != OBJECT {
        return Err(malformed(0, "not an object"));
    }
    Walker { bytes, bounds, out }.container(0, bytes.len(), 1)
}

#[cold]
fn malformed(pos: usize, what: &str) -> JsonbError {
    fail("22P03", pos, format!("malformed jsonb: {what}"))
}

fn read(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct Walker<'b, 'o> {
    bytes: &'b [u8],
    bounds: Bounds,
    out: Option<&'o mut String>,
}

/// Reads a container's entries in order and turns them into ranges.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    /// Where the entries begin.
    table: usize,
    /// The next entry.
    index: usize,
    /// Where the data begin, and where they must end.
    base: usize,
    end: usize,
    /// How much of the data earlier entries took.
    offset: usize,
}

impl Entries {
    /// Begins the container that fills `start..end`: whether it is an object, how many members it has, and their entries; those of
    /// an object's values follow those of its keys.
    pub(super) fn open(bytes: &[u8], start: usize, end: usize) -> Result<(bool, usize, Self), JsonbError> {
        if end - start < 4 {
            return Err(malformed(start, "no header"));
        }
        let header = read(bytes, start);
        let count = (header & COUNT_MASK) as usize;
        let is_object = match header & !COUNT_MASK {
            OBJECT => true,
            ARRAY => false,
            _ => return Err(malformed(start, "unknown container")),
        };
        let table = start + 4;
        let width = if is_object { 8 } else { 4 };
        if count > (end - table) / width {
            return Err(malformed(start, "more entries than bytes"));
        }
        Ok((is_object, count, Self { table, index: 0, base: table + count * width, end, offset: 0 }))
    }

    /// Returns the next entry's type and the range of its data.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<(u32, usize, usize), JsonbError> {
        let at = self.table + self.index * 4;
        let entry = read(bytes, at);
        let field = (entry & ENTRY_LENGTH) as usize;
        let has_offset = entry & ENTRY_HAS_OFFSET != 0;
        if has_offset != self.index.is_multiple_of(OFFSET_STRIDE) {
            return Err(malformed(at, "offset out of place"));
        }
        let after = if has_offset { field } else { self.offset + field };
        if after < self.offset || after > self.end - self.base {
            return Err(malformed(at, "length out of range"));
        }
        let range = (self.base + self.offset, self.base + after);
        self.offset = after;
        self.index += 1;
        Ok((entry & ENTRY_TYPE, range.0, range.1))
    }
}

impl Walker<'_, '_> {
    fn emit(&mut self, text: &str) {
        if let Some(out) = &mut self.out {
            out.push_str(text);
        }
    }

    /// Walks the container that must fill `start..end`.
    fn container(&mut self, start: usize, end: usize, depth: usize) -> Result<u64, JsonbError> {
        if depth > self.bounds.depth {
            return Err(self.bounds.too_deep(start));
        }
        let (is_object, count, mut entries) = Entries::open(self.bytes, start, end)?;
        let base = entries.base;
        let digest = if is_object {
            self.object(&mut entries, count, depth)
        } else {
            self.array(&mut entries, count, depth)
        }?;
        if base + entries.offset != end {
            return Err(malformed(end, "bytes left over"));
        }
        Ok(digest)
    }

    fn object(&mut self, values: &mut Entries, count: usize, depth: usize) -> Result<u64, JsonbError> {
        let mut keys = *values;
        let mut last: Option<&[u8]> = None;
        for _ in 0..count {
            let (kind, from, to) = values.next(self.bytes)?;
            let key = &self.bytes[from..to];
            let ordered =
                last.is_none_or(|l| l.len().cmp(&key.len()).then_with(|| l.cmp(key)) == Ordering::Less);
            if kind != TYPE_STRING || !ordered {
                return Err(malformed(from, "keys out of order"));
            }
            last = Some(key);
        }
        let mut sum = 0u64;
        self.emit("{");
        for i in 0..count {
            if i > 0 {
                self.emit(", ");
            }
            let (_, from, to) = keys.next(self.bytes)?;
            let key = self.string(from, to)?;
            self.emit(": ");
            let value = self.value(values, depth)?;
            sum = sum.wrapping_add(digest::join(key, value));
        }
        self.emit("}");
        Ok(digest::object(sum))
    }

    fn array(&mut self, values: &mut Entries, count: usize, depth: usize) -> Result<u64, JsonbError> {
        let mut digest = digest::ArrayDigest::new();
        self.emit("[");
        for i in 0..count {
            if i > 0 {
                self.emit(", ");
            }
            digest.push(self.value(values, depth)?);
        }
        self.emit("]");
        Ok(digest.finish())
    }

    fn value(&mut self, entries: &mut Entries, depth: usize) -> Result<u64, JsonbError> {
        let (kind, from, to) = entries.next(self.bytes)?;
        match kind {
            TYPE_STRING => self.string(from, to),
            TYPE_NUMERIC => {
                let from = self.padding(from, to)?;
                let number = numeric::decode(&self.bytes[from..to], from)?;
                if let Some(out) = &mut self.out {
                    number.print(out);
                }
                let Numeric { negative, weight, digits, .. } = number;
                Ok(digest::number(negative, weight, digits))
            }
            TYPE_CONTAINER => {
                let from = self.padding(from, to)?;
                self.container(from, to, depth + 1)
            }
            _ if from != to => Err(malformed(from, "a constant with data")),
            TYPE_NULL => {
                self.emit("null");
                Ok(digest::null())
            }
            TYPE_TRUE => {
                self.emit("true");
                Ok(digest::boolean(true))
            }
            TYPE_FALSE => {
                self.emit("false");
                Ok(digest::boolean(false))
            }
            _ => Err(malformed(from, "unknown entry type")),
        }
    }

    /// Checks the zero bytes up to the next multiple of 4 and returns the position after them.
    fn padding(&self, from: usize, to: usize) -> Result<usize, JsonbError> {
        let aligned = from.next_multiple_of(4);
        if aligned > to || self.bytes[from..aligned].iter().any(|&b| b != 0) {
            return Err(malformed(from, "bad padding"));
        }
        Ok(aligned)
    }

    fn string(&mut self, from: usize, to: usize) -> Result<u64, JsonbError> {
        let bytes = &self.bytes[from..to];
        let text = std::str::from_utf8(bytes).map_err(|_| malformed(from, "text is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(malformed(from, "zero byte in text"));
        }
        if let Some(out) = &mut self.out {
            quote(text, out);
        }
        Ok(digest::string(bytes))
    }
}
