use super::{HllError, murmur};
use siphasher::sip128::{Hash128, SipHasher24};
use std::fmt;

const SLOT_BITS: u32 = 26;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// All that a sketch keeps of one value: 26 bits of slot and 6 bits of register value, 1 to 63.
///
/// The packing is that of DataSketches: value in the upper bits, slot in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coupon(u32);

impl Coupon {
    /// Takes the slot from the low hash word, the leading zeros plus one from the high word.
    #[inline]
    pub fn from_hash(low: u64, high: u64) -> Self {
        let value = high.leading_zeros().min(62) + 1;
        Self((value << SLOT_BITS) | (low as u32 & SLOT_MASK))
    }

    /// Reads the packed form; none has the value 0.
    #[inline]
    pub(super) fn from_raw(raw: u32) -> Option<Self> {
        (raw >> SLOT_BITS != 0).then_some(Self(raw))
    }

    #[inline]
    pub(super) fn raw(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) fn slot(self) -> usize {
        (self.0 & SLOT_MASK) as usize
    }

    #[inline]
    pub(super) fn value(self) -> u8 {
        (self.0 >> SLOT_BITS) as u8
    }
}

/// How the values of a sketch were hashed. Only like may merge with like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keying {
    /// MurmurHash3, as every DataSketches does: portable, and anyone can compute it.
    Plain,
    /// SipHash under a secret; the epoch names the secret.
    Keyed { epoch: u32 },
}

impl Keying {
    pub(super) fn check_same(self, other: Self) -> Result<(), HllError> {
        match (self, other) {
            (Self::Plain, Self::Plain) => Ok(()),
            (Self::Keyed { epoch: ours }, Self::Keyed { epoch: theirs }) if ours == theirs => Ok(()),
            (Self::Keyed { epoch: ours }, Self::Keyed { epoch: theirs }) => {
                Err(HllError::EpochMismatch { ours, theirs })
            }
            _ => Err(HllError::KeyingMismatch),
        }
    }
}

/// A 128-bit secret. Its Debug form does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// Turns values into coupons, the same way for a whole aggregate.
#[derive(Clone, Debug)]
pub enum ValueHasher {
    /// The portable hash.
    Plain,
    /// SipHash-2-4-128 under `key`, which `epoch` names.
    Keyed { key: HashKey, epoch: u32 },
}

impl ValueHasher {
    /// The keying of sketches that this hasher feeds.
    pub fn keying(&self) -> Keying {
        match self {
            Self::Plain => Keying::Plain,
            Self::Keyed { epoch, .. } => Keying::Keyed { epoch: *epoch },
        }
    }

    /// Hashes a byte string: text as UTF-8, bytea and uuid as they are, numeric as canonical text.
    ///
    /// The plain hash has no coupon for the empty string: DataSketches counts none in any language,
    /// and a union must count alike on both sides. The keyed hash counts it as a value like any.
    #[inline]
    pub fn bytes(&self, bytes: &[u8]) -> Option<Coupon> {
        let (low, high) = match self {
            Self::Plain if bytes.is_empty() => return None,
            Self::Plain => murmur::hash_bytes(bytes),
            Self::Keyed { key, .. } => sip(key, bytes),
        };
        Some(Coupon::from_hash(low, high))
    }

    /// Hashes an integer as its eight little-endian bytes: int2, int4 and int8 alike, timestamptz
    /// as its microseconds.
    #[inline]
    pub fn int(&self, value: i64) -> Coupon {
        let (low, high) = match self {
            Self::Plain => murmur::hash_i64(value),
            Self::Keyed { key, .. } => sip(key, &value.to_le_bytes()),
        };
        Coupon::from_hash(low, high)
    }
}

#[inline]
fn sip(key: &HashKey, bytes: &[u8]) -> (u64, u64) {
    let Hash128 { h1, h2 } = SipHasher24::new_with_key(&key.0).hash(bytes);
    (h1, h2)
}
