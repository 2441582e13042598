//! The content digest: one 64-bit hash of a JSON value, the same for every spelling of it.
//!
//! Stable for ever, since fingerprints built on it are stored; `docs/formats.md` describes it.

use twox_hash::XxHash3_64;

/// An odd multiplier (2^64 divided by the golden ratio), so that [`join`] tells its arguments apart.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

const NULL: u64 = 1;
const FALSE: u64 = 2;
const TRUE: u64 = 3;
const STRING: u64 = 4;
const NUMBER: u64 = 5;
const ARRAY: u64 = 6;
const OBJECT: u64 = 7;

/// The digest of `{}`.
pub const EMPTY_DIGEST: u64 = object(0);

/// Scrambles 64 bits reversibly: the finalizer of MurmurHash3.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

/// Hashes an ordered pair; for either argument held fixed, a bijection of the other.
pub(crate) const fn join(a: u64, b: u64) -> u64 {
    mix(a.wrapping_mul(ODD).wrapping_add(b))
}

/// Returns the digest of `null`.
pub(crate) const fn null() -> u64 {
    mix(NULL)
}

/// Returns the digest of a boolean.
pub(crate) const fn boolean(value: bool) -> u64 {
    mix(if value { TRUE } else { FALSE })
}

/// Returns the digest of a string's UTF-8 bytes.
#[inline]
pub(crate) fn string(bytes: &[u8]) -> u64 {
    join(STRING, XxHash3_64::oneshot(bytes))
}

/// Returns the digest of a number from its canonical base-10000 digits (little-endian `i16`, neither first nor
/// last zero); the display scale has no part in it.
#[inline]
pub(crate) fn number(negative: bool, weight: i16, digits: &[u8]) -> u64 {
    let head = (u64::from(negative) << 16) | u64::from(weight as u16);
    join(join(NUMBER, head), XxHash3_64::oneshot(digits))
}

/// Accumulates an array's elements, in order.
pub(crate) struct ArrayDigest {
    state: u64,
    count: u64,
}

impl ArrayDigest {
    pub(crate) const fn new() -> Self {
        Self { state: ARRAY, count: 0 }
    }

    #[inline]
    pub(crate) fn push(&mut self, value: u64) {
        self.state = join(self.state, value);
        self.count += 1;
    }

    pub(crate) fn finish(&self) -> u64 {
        join(self.state, self.count)
    }
}

/// Returns the digest of an object from the wrapping sum of [`join`]`(key, value)` over its members.
pub(crate) const fn object(sum: u64) -> u64 {
    join(OBJECT, sum)
}
