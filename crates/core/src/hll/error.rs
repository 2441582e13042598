use super::{MAX_LGK, MIN_LGK};
use crate::stored::StateError;
use std::fmt;

/// Why a sketch was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HllError {
    /// lgk outside the accepted range.
    Lgk(u8),
    /// Standard deviations other than 1, 2 or 3.
    StdDevs(u8),
    /// Bytes that are no stored sketch; what is wrong with them.
    Malformed(&'static str),
    /// A stored sketch whose bytes are not what was written.
    Checksum,
    /// A stored form written by a later version.
    Version(u8),
    /// A foreign image that is no DataSketches HLL; what is wrong with it.
    Foreign(&'static str),
    /// Merging sketches of different lgk.
    LgkMismatch { ours: u8, theirs: u8 },
    /// Merging a keyed sketch with a plain one.
    KeyingMismatch,
    /// Merging sketches hashed under different keys.
    EpochMismatch { ours: u32, theirs: u32 },
    /// Exporting a keyed sketch: its hashes mean nothing outside.
    KeyedExport,
}

impl HllError {
    /// The SQLSTATE that a client sees.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Lgk(_) | Self::StdDevs(_) => "22023",
            Self::Malformed(_) | Self::Version(_) | Self::Foreign(_) => "22P03",
            Self::Checksum => StateError::Checksum.sqlstate(),
            Self::LgkMismatch { .. } => "22T01",
            Self::KeyingMismatch => "22T02",
            Self::EpochMismatch { .. } => "22T03",
            Self::KeyedExport => "22T04",
        }
    }
}

impl fmt::Display for HllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lgk(lgk) => write!(f, "hll lgk {lgk} is outside {MIN_LGK} to {MAX_LGK}"),
            Self::StdDevs(n) => write!(f, "{n} standard deviations asked for, not 1, 2 or 3"),
            Self::Malformed(what) => write!(f, "malformed hll: {what}"),
            Self::Checksum => f.write_str(&StateError::Checksum.about("hll")),
            Self::Version(v) => write!(f, "hll of unknown version {v}"),
            Self::Foreign(what) => write!(f, "not a DataSketches hll: {what}"),
            Self::LgkMismatch { ours, theirs } => {
                write!(f, "cannot merge hll of lgk {theirs} into lgk {ours}")
            }
            Self::KeyingMismatch => f.write_str("cannot merge a keyed hll with a plain one"),
            Self::EpochMismatch { ours, theirs } => {
                write!(f, "cannot merge hll of key epoch {theirs} into epoch {ours}")
            }
            Self::KeyedExport => f.write_str("a keyed hll has no DataSketches form"),
        }
    }
}

impl std::error::Error for HllError {}
