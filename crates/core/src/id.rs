//! Ids: what names a tenant, an account, an event, a user or a session.

/// The most bytes of UTF-8 that an id may have.
pub const MAX_BYTES: usize = 200;

/// The greatest id in byte order: fifty times U+10FFFF.
pub const GREATEST: &str = concat!(
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
);

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    Empty,
    TooLong,
    ControlCharacter,
}

impl IdError {
    /// What is wrong, to follow the field's name.
    pub fn problem(self) -> &'static str {
        match self {
            IdError::Empty => "is empty",
            IdError::TooLong => "is longer than 200 bytes",
            IdError::ControlCharacter => "contains a control character",
        }
    }

    /// The error's SQLSTATE.
    pub fn sqlstate(self) -> &'static str {
        match self {
            IdError::Empty => "22023",
            IdError::TooLong => "22001",
            IdError::ControlCharacter => "22021",
        }
    }
}

/// Checks that a text is an id: 1 to 200 bytes, no control characters (U+0000–001F, 007F–009F).
pub fn check(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_BYTES {
        return Err(IdError::TooLong);
    }
    // 0xC2 begins U+0080–00BF; only then are characters looked at one by one.
    let suspect = id.bytes().fold(false, |seen, byte| seen | (byte < 0x20) | (byte == 0x7F) | (byte == 0xC2));
    let control = suspect && id.chars().any(char::is_control);
    if control { Err(IdError::ControlCharacter) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn knows_the_edges() {
        assert_eq!(check(""), Err(IdError::Empty));
        assert_eq!(check(&"x".repeat(200)), Ok(()));
        assert_eq!(check(&"x".repeat(201)), Err(IdError::TooLong));
        assert_eq!(check("\u{a0}"), Ok(()));
        assert_eq!(check("a\u{9f}"), Err(IdError::ControlCharacter));
        assert_eq!(check(GREATEST), Ok(()));
        assert_eq!(GREATEST.len(), MAX_BYTES);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(id in "\\PC{0,20}|[\\x00-\u{ff}]{0,20}") {
            let control = id.chars().any(char::is_control);
            prop_assert_eq!(check(&id).is_ok(), !id.is_empty() && !control);
        }

        #[test]
        fn none_is_greater_than_the_greatest(id in "\\PC{1,60}") {
            prop_assume!(check(&id).is_ok());
            prop_assert!(id.as_bytes() <= GREATEST.as_bytes());
        }
    }
}
