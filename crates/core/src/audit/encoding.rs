//! The canonical encoding of what is hashed: a name and version, then each field with its length before it, so that no two
//! records have the same bytes.

/// Collects the fields of a record.
pub struct Encoding(Vec<u8>);

impl Encoding {
    /// Begins a record; `kind` names it and its version.
    pub fn new(kind: &str) -> Self {
        Self(Vec::with_capacity(256)).bytes(kind.as_bytes())
    }

    /// A field, which may be empty.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // What is longer than 4 GB isn't stored: a Postgres value has at most 1 GB.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.push(1);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// A field that may be missing.
    pub fn optional(mut self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => {
                self.0.push(0);
                self
            }
        }
    }

    /// A number.
    pub fn number(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    /// The record.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the fields of a record out again.
pub struct Decoding<'a>(&'a [u8]);

impl<'a> Decoding<'a> {
    /// `None` where the bytes aren't a record of this kind.
    pub fn new(kind: &str, bytes: &'a [u8]) -> Option<Self> {
        let mut decoding = Self(bytes);
        (decoding.bytes()? == kind.as_bytes()).then_some(decoding)
    }

    /// The next field; the outer `None` is malformed, the inner one a field that is missing.
    pub fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        let (&present, rest) = self.0.split_first()?;
        if present == 0 {
            self.0 = rest;
            return Some(None);
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.0 = rest;
        Some(Some(field))
    }

    /// The next field.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        self.optional()?
    }

    /// The next field, a number.
    pub fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes()?.try_into().ok()?))
    }

    /// The next field, a text.
    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// The next field, a text that may be missing.
    pub fn optional_text(&mut self) -> Option<Option<String>> {
        match self.optional()? {
            None => Some(None),
            Some(bytes) => Some(Some(String::from_utf8(bytes.to_vec()).ok()?)),
        }
    }
}
