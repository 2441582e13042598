//! What stored states have in common: a checksum behind their bytes, and why bytes are refused.
//!
//! The checksum is CRC-32, which tells every change of up to 32 bits in a row from what was written, so each flipped bit
//! and each changed byte. First bytes of two versions of a format differ in at least two bits: no flipped bit turns a state
//! into one of an older version, which had no checksum.

use std::fmt;

/// Bytes of the checksum.
pub const CHECKSUM: usize = 4;

/// Why bytes are no stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// No state is stored as these bytes.
    Malformed,
    /// They begin like a state, and are not what was written.
    Checksum,
}

impl StateError {
    /// The SQLSTATE that a client sees.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::Malformed => "22P03",
            Self::Checksum => "XX001",
        }
    }

    /// What is wrong with the bytes, which should be those of `what`.
    pub fn about(self, what: &str) -> String {
        match self {
            Self::Malformed => format!("these bytes are no {what}"),
            Self::Checksum => format!("corrupted {what}: {CHECKSUM_DIFFERS}"),
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about("stored state"))
    }
}

impl std::error::Error for StateError {}

/// How an error says it.
pub const CHECKSUM_DIFFERS: &str = "its checksum is not that of its bytes";

/// Appends the checksum of the bytes.
pub fn seal(bytes: &mut Vec<u8>) {
    let checksum = crc32fast::hash(bytes);
    bytes.extend(checksum.to_le_bytes());
}

/// The bytes before the checksum, if it is theirs.
pub fn open(bytes: &[u8]) -> Option<&[u8]> {
    let (sealed, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    (crc32fast::hash(sealed) == u32::from_le_bytes(*checksum)).then_some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_crc_32_of_zip_and_ethernet() {
        let mut bytes = b"123456789".to_vec();
        seal(&mut bytes);
        assert_eq!(bytes[9..], 0xcbf4_3926_u32.to_le_bytes());
        assert_eq!(open(&bytes), Some(&b"123456789"[..]));
        for short in [&[][..], &[1, 2, 3]] {
            assert_eq!(open(short), None);
        }
    }
}
