use super::{MAX_COMPRESSION, MIN_COMPRESSION};
use crate::stored::StateError;
use std::fmt;

/// Why a digest was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum TDigestError {
    /// Compression outside the accepted range.
    Compression(u16),
    /// A value that is NaN or infinite.
    NotFinite(f64),
    /// More values than [`super::MAX_COUNT`].
    Count,
    /// A fraction outside 0 to 1, or a lower one above an upper one.
    Fraction(f64),
    /// Bytes that are no stored digest; what is wrong with them.
    Malformed(&'static str),
    /// A stored digest whose bytes are not what was written.
    Checksum,
    /// A stored form written by a later version.
    Version(u8),
    /// Merging digests of different compression.
    CompressionMismatch { ours: u16, theirs: u16 },
}

impl TDigestError {
    /// The SQLSTATE that a client sees.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Compression(_) | Self::Fraction(_) => "22023",
            Self::NotFinite(_) | Self::Count => "22003",
            Self::Malformed(_) | Self::Version(_) => "22P03",
            Self::Checksum => StateError::Checksum.sqlstate(),
            Self::CompressionMismatch { .. } => "22T05",
        }
    }
}

impl fmt::Display for TDigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compression(c) => {
                write!(f, "tdigest compression {c} is outside {MIN_COMPRESSION} to {MAX_COMPRESSION}")
            }
            Self::NotFinite(value) => write!(f, "tdigest takes no {value}"),
            Self::Count => f.write_str("tdigest holds more values than it can count"),
            Self::Fraction(q) => write!(f, "fraction {q} is outside 0 to 1 or out of order"),
            Self::Malformed(what) => write!(f, "malformed tdigest: {what}"),
            Self::Checksum => f.write_str(&StateError::Checksum.about("tdigest")),
            Self::Version(v) => write!(f, "tdigest of unknown version {v}"),
            Self::CompressionMismatch { ours, theirs } => {
                write!(f, "cannot merge tdigest of compression {theirs} into compression {ours}")
            }
        }
    }
}

impl std::error::Error for TDigestError {}
