use super::estimate::relative_error;
use super::registers::{self, Census, EXCEPTION};
use super::{Coupon, Hll, HllError, Keying, MAX_LGK, MIN_LGK, State, sparse_limit};
use crate::stored::{self, CHECKSUM};
use std::borrow::Cow;

/// No stored sketch is longer: the worst is lgk 14 with every register but one an exception.
pub const MAX_STORED_BYTES: usize = 65_536;

/// High nibble: an hll. Low nibble: the version. Version 1 had no checksum.
const MAGIC: u8 = 0xb0;
const VERSION: u8 = 2;
const VERSION_WITHOUT_CHECKSUM: u8 = 1;
const HEADER: usize = 4;
const EPOCH: usize = 4;
const COUPON: usize = 4;
const EXCEPTION_BYTES: usize = 3;

const FLAG_KEYED: u8 = 1;
const FLAG_DENSE: u8 = 2;

/// A stored sketch, validated and borrowed: nothing is copied, nothing allocated.
///
/// Of each version only the one canonical form of a state parses, so `Hll::try_from(&parsed)?.to_bytes()` gives
/// back the bytes that were parsed if they are of the newest.
#[derive(Clone, Copy, Debug)]
pub struct HllRef<'a> {
    lgk: u8,
    keying: Keying,
    body: Body<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Body<'a> {
    Sparse(&'a [u8]),
    Dense { base: u8, packed: &'a [u8], exceptions: &'a [u8] },
}

impl<'a> HllRef<'a> {
    /// Validates stored bytes. Every byte is distrusted; no byte may be left over.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HllError> {
        if bytes.len() > MAX_STORED_BYTES {
            return Err(HllError::Malformed("longer than 64 KiB"));
        }
        let Some(&magic) = bytes.first() else {
            return Err(HllError::Malformed("header cut short"));
        };
        if magic & 0xf0 != MAGIC {
            return Err(HllError::Malformed("does not begin like an hll"));
        }
        let bytes = match magic & 0x0f {
            VERSION => stored::open(bytes).ok_or(HllError::Checksum)?,
            VERSION_WITHOUT_CHECKSUM => bytes,
            version => return Err(HllError::Version(version)),
        };
        let Some((&[_, flags, lgk, base], rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(HllError::Malformed("header cut short"));
        };
        if flags & !(FLAG_KEYED | FLAG_DENSE) != 0 {
            return Err(HllError::Malformed("unknown flags"));
        }
        if !(MIN_LGK..=MAX_LGK).contains(&lgk) {
            return Err(HllError::Malformed("lgk out of range"));
        }
        let (keying, rest) = if flags & FLAG_KEYED == 0 {
            (Keying::Plain, rest)
        } else {
            let (epoch, rest) =
                rest.split_first_chunk::<EPOCH>().ok_or(HllError::Malformed("key epoch cut short"))?;
            (Keying::Keyed { epoch: u32::from_le_bytes(*epoch) }, rest)
        };
        let body = if flags & FLAG_DENSE == 0 {
            parse_sparse(lgk, base, rest)?
        } else {
            parse_dense(lgk, base, rest)?
        };
        Ok(Self { lgk, keying, body })
    }

    /// Log2 of the number of registers.
    pub fn lgk(&self) -> u8 {
        self.lgk
    }

    /// Says how the values of this sketch were hashed.
    pub fn keying(&self) -> Keying {
        self.keying
    }

    /// Says whether the count is exact; see [`Hll::is_exact`].
    pub fn is_exact(&self) -> bool {
        matches!(self.body, Body::Sparse(_))
    }

    /// The number of distinct values where it is exact, else `None`; see [`Hll::is_exact`].
    pub fn exact_count(&self) -> Option<usize> {
        match self.body {
            Body::Sparse(coupons) => Some(coupons.len() / COUPON),
            Body::Dense { .. } => None,
        }
    }

    /// Relative standard error of the estimate, as [`Hll::stderror`].
    pub fn stderror(&self) -> f64 {
        if self.is_exact() { 0.0 } else { relative_error(self.lgk) }
    }

    /// The coupons of a sparse sketch, ascending.
    pub(super) fn coupons(&self) -> Option<impl Iterator<Item = Coupon> + 'a> {
        match self.body {
            Body::Sparse(coupons) => Some(raw_coupons(coupons).filter_map(Coupon::from_raw)),
            Body::Dense { .. } => None,
        }
    }

    /// Raises an accumulator's registers to those of a dense sketch; does nothing for a sparse one.
    pub(super) fn raise_into(&self, registers: &mut [u8]) {
        if let Body::Dense { base, packed, exceptions } = self.body {
            registers::raise_packed(registers, packed, base);
            for (slot, value) in each_exception(exceptions) {
                registers[slot] = registers[slot].max(value);
            }
        }
    }
}

fn parse_sparse(lgk: u8, base: u8, coupons: &[u8]) -> Result<Body<'_>, HllError> {
    if base != 0 {
        return Err(HllError::Malformed("sparse with a register base"));
    }
    if !coupons.len().is_multiple_of(COUPON) {
        return Err(HllError::Malformed("coupon cut short"));
    }
    if coupons.len() / COUPON > sparse_limit(lgk) {
        return Err(HllError::Malformed("too many coupons"));
    }
    // Every coupon has a value of at least 1, so the ascent starts above all that have none.
    let mut last = (1 << 26) - 1;
    for raw in raw_coupons(coupons) {
        if raw <= last {
            return Err(HllError::Malformed("coupons not ascending"));
        }
        last = raw;
    }
    Ok(Body::Sparse(coupons))
}

fn parse_dense(lgk: u8, base: u8, rest: &[u8]) -> Result<Body<'_>, HllError> {
    let half = 1_usize << (lgk - 1);
    let Some((packed, exceptions)) = rest.split_at_checked(half) else {
        return Err(HllError::Malformed("registers cut short"));
    };
    if base > 63 {
        return Err(HllError::Malformed("register base out of range"));
    }
    if !exceptions.len().is_multiple_of(EXCEPTION_BYTES) {
        return Err(HllError::Malformed("exception cut short"));
    }
    let Census { least, most, exceptions: wanted } = registers::census(packed);
    if least != 0 {
        return Err(HllError::Malformed("no register at the base"));
    }
    if base == 0 && most == 0 {
        return Err(HllError::Malformed("dense without a value"));
    }
    if exceptions.len() / EXCEPTION_BYTES != wanted {
        return Err(HllError::Malformed("exceptions miscounted"));
    }
    if base + most > 63 {
        return Err(HllError::Malformed("register above 63"));
    }
    let mut next = 0;
    for (slot, value) in each_exception(exceptions) {
        if slot < next || slot >= 2 * half {
            return Err(HllError::Malformed("exceptions not ascending"));
        }
        if registers::packed_at(packed, slot) != EXCEPTION || value < base + EXCEPTION || value > 63 {
            return Err(HllError::Malformed("exception does not fit its register"));
        }
        next = slot + 1;
    }
    Ok(Body::Dense { base, packed, exceptions })
}

fn raw_coupons(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks::<COUPON>().0.iter().map(|raw| u32::from_le_bytes(*raw))
}

fn each_exception(bytes: &[u8]) -> impl Iterator<Item = (usize, u8)> + '_ {
    let chunks = bytes.as_chunks::<EXCEPTION_BYTES>().0.iter();
    chunks.map(|&[low, high, value]| (usize::from(u16::from_le_bytes([low, high])), value))
}

/// Validates stored bytes and gives them in the newest form.
pub fn renew(bytes: &[u8]) -> Result<Cow<'_, [u8]>, HllError> {
    let sketch = HllRef::parse(bytes)?;
    if bytes[0] == MAGIC | VERSION {
        return Ok(Cow::Borrowed(bytes));
    }
    Ok(Cow::Owned(Hll::try_from(&sketch)?.to_bytes()))
}

pub(super) fn write(sketch: &Hll) -> Vec<u8> {
    let (flag_keyed, epoch) = match sketch.keying {
        Keying::Plain => (0, None),
        Keying::Keyed { epoch } => (FLAG_KEYED, Some(epoch)),
    };
    match &sketch.state {
        State::Sparse(set) => {
            let mut coupons: Vec<u32> = set.iter().map(Coupon::raw).collect();
            coupons.sort_unstable();
            let mut out = Vec::with_capacity(HEADER + EPOCH + coupons.len() * COUPON + CHECKSUM);
            out.extend([MAGIC | VERSION, flag_keyed, sketch.lgk, 0]);
            out.extend(epoch.iter().flat_map(|epoch| epoch.to_le_bytes()));
            out.extend(coupons.iter().flat_map(|raw| raw.to_le_bytes()));
            stored::seal(&mut out);
            out
        }
        State::Dense(registers) => {
            let base = registers::minimum(registers);
            let mut out =
                Vec::with_capacity(HEADER + EPOCH + registers.len() / 2 + 8 * EXCEPTION_BYTES + CHECKSUM);
            out.extend([MAGIC | VERSION, flag_keyed | FLAG_DENSE, sketch.lgk, base]);
            out.extend(epoch.iter().flat_map(|epoch| epoch.to_le_bytes()));
            registers::pack(registers, base, &mut out);
            for (slot, value) in registers::each_exception(registers, base) {
                let [low, high] = (slot as u16).to_le_bytes();
                out.extend([low, high, value]);
            }
            stored::seal(&mut out);
            out
        }
    }
}
