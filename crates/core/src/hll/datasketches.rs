//! The travel form: Apache DataSketches HLL images, as its Java, C++, Python, Go and Rust read them.

use super::registers::EXCEPTION;
use super::{Coupon, Hll, HllError, Keying, State, registers, sparse_limit};

const SERIAL_VERSION: u8 = 1;
const FAMILY_HLL: u8 = 7;
const LIST_INTS: u8 = 2;
const SET_INTS: u8 = 3;
const HLL_INTS: u8 = 10;
const LIST_HEADER: usize = 8;
const SET_HEADER: usize = 12;
const HLL_HEADER: usize = 40;
const LG_LIST: u8 = 3;
const LIST_MOST: usize = 7;

const FLAG_EMPTY: u8 = 4;
const FLAG_COMPACT: u8 = 8;
/// The registers were merged or reordered: readers must not expect a history (HIP) estimate.
const FLAG_OUT_OF_ORDER: u8 = 16;

const MODE_LIST: u8 = 0;
const MODE_SET: u8 = 1;
const MODE_HLL: u8 = 2;
const TARGET_HLL4: u8 = 0;
const TARGET_HLL6: u8 = 1;
const TARGET_HLL8: u8 = 2;

/// No accepted image is longer: an updatable HLL_4 image of lgk 14 with all its exceptions.
const MAX_IMAGE: usize = 131_072;

impl Hll {
    /// Writes the compact DataSketches image, target type HLL_4; a keyed sketch is refused.
    pub fn to_datasketches(&self) -> Result<Vec<u8>, HllError> {
        if self.keying != Keying::Plain {
            return Err(HllError::KeyedExport);
        }
        Ok(match &self.state {
            State::Sparse(set) => {
                let mut coupons: Vec<u32> = set.iter().map(Coupon::raw).collect();
                coupons.sort_unstable();
                write_coupons(self.lgk, &coupons)
            }
            State::Dense(registers) => write_registers(self.lgk, registers),
        })
    }

    /// Reads a DataSketches image, compact or updatable, of any target type, lgk 4 to 14.
    pub fn from_datasketches(image: &[u8]) -> Result<Self, HllError> {
        if image.len() > MAX_IMAGE {
            return Err(HllError::Foreign("longer than 128 KiB"));
        }
        let Some((&[ints, version, family, lgk, lg_arr, flags, state, mode], rest)) =
            image.split_first_chunk::<LIST_HEADER>()
        else {
            return Err(HllError::Foreign("header cut short"));
        };
        if version != SERIAL_VERSION || family != FAMILY_HLL {
            return Err(HllError::Foreign("another family or version"));
        }
        let mut sketch = Hll::new(lgk, Keying::Plain)?;
        let compact = flags & FLAG_COMPACT != 0;
        match (mode & 3, ints) {
            (MODE_LIST, LIST_INTS) => {
                let count = if flags & FLAG_EMPTY != 0 { 0 } else { usize::from(state) };
                let slots = if compact { count } else { 1 << LG_LIST };
                sketch.read_coupons(rest, slots, count)?;
            }
            (MODE_SET, SET_INTS) if lgk >= 8 && (5..=lgk - 3).contains(&lg_arr) => {
                let (count, rest) = take_u32(rest)?;
                sketch.read_coupons(rest, if compact { count } else { 1 << lg_arr }, count)?;
            }
            (MODE_HLL, HLL_INTS) => {
                let registers = read_registers(lgk, (mode >> 2) & 3, state, (compact, lg_arr), rest)?;
                if registers.iter().any(|&value| value != 0) {
                    sketch.state = State::Dense(registers);
                }
            }
            _ => return Err(HllError::Foreign("unknown mode")),
        }
        Ok(sketch)
    }

    fn read_coupons(&mut self, bytes: &[u8], slots: usize, count: usize) -> Result<(), HllError> {
        if count > sparse_limit(self.lgk) {
            return Err(HllError::Foreign("too many coupons"));
        }
        for raw in take_coupons(bytes, slots)? {
            match Coupon::from_raw(raw) {
                Some(coupon) => self.add(coupon),
                None if raw == 0 => {}
                None => return Err(HllError::Foreign("coupon without a value")),
            }
        }
        match &self.state {
            State::Sparse(set) if set.len() == count => Ok(()),
            _ => Err(HllError::Foreign("coupons miscounted")),
        }
    }
}

fn take_u32(bytes: &[u8]) -> Result<(usize, &[u8]), HllError> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or(HllError::Foreign("count cut short"))?;
    Ok((u32::from_le_bytes(*count) as usize, rest))
}

fn take_coupons(bytes: &[u8], slots: usize) -> Result<impl Iterator<Item = u32>, HllError> {
    let wanted = slots.checked_mul(4).ok_or(HllError::Foreign("too many coupons"))?;
    let bytes = bytes.get(..wanted).ok_or(HllError::Foreign("coupons cut short"))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw)))
}

fn read_registers(
    lgk: u8,
    target: u8,
    base: u8,
    (compact, lg_arr): (bool, u8),
    rest: &[u8],
) -> Result<Box<[u8]>, HllError> {
    let k = 1_usize << lgk;
    // Three cached doubles follow, which the registers determine, then two counts.
    let counts = rest.get(24..).ok_or(HllError::Foreign("registers cut short"))?;
    let (_, counts) = take_u32(counts)?;
    let (exceptions, body) = take_u32(counts)?;
    let take = |len: usize| body.get(..len).ok_or(HllError::Foreign("registers cut short"));
    let mut registers = match target {
        TARGET_HLL8 => take(k)?.to_vec(),
        TARGET_HLL6 => {
            let packed = take(k * 3 / 4)?;
            packed.as_chunks::<3>().0.iter().flat_map(|&three| unpack_sixes(three)).collect()
        }
        TARGET_HLL4 => {
            let packed = take(k / 2)?;
            packed
                .iter()
                .flat_map(|byte| [byte & 15, byte >> 4])
                .map(|nibble| nibble.saturating_add(base))
                .collect()
        }
        _ => return Err(HllError::Foreign("unknown target type")),
    };
    if target == TARGET_HLL4 {
        if base > 63 || exceptions > k {
            return Err(HllError::Foreign("register base or exceptions out of range"));
        }
        let slots = match (compact, exceptions) {
            (_, 0) => 0,
            (true, count) => count,
            (false, _) if lg_arr <= lgk => 1 << lg_arr,
            (false, _) => return Err(HllError::Foreign("exception table out of range")),
        };
        let packed = take(k / 2)?;
        let mut found = 0;
        for coupon in take_coupons(&body[k / 2..], slots)?.filter_map(Coupon::from_raw) {
            let slot = coupon.slot() & (k - 1);
            let nibble = (packed[slot / 2] >> (4 * (slot % 2))) & 15;
            if nibble != EXCEPTION || coupon.value() < registers[slot] {
                return Err(HllError::Foreign("exception does not fit its register"));
            }
            registers[slot] = coupon.value();
            found += 1;
        }
        let wanted = registers::census(packed).exceptions;
        if found != exceptions || found != wanted {
            return Err(HllError::Foreign("exceptions miscounted"));
        }
    }
    if registers.iter().any(|&value| value > 63) {
        return Err(HllError::Foreign("register above 63"));
    }
    Ok(registers.into_boxed_slice())
}

/// Four six-bit registers from three bytes, lowest bits first.
fn unpack_sixes([a, b, c]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from_le_bytes([a, b, c, 0]);
    std::array::from_fn(|i| (bits >> (6 * i)) as u8 & 63)
}

fn write_coupons(lgk: u8, coupons: &[u32]) -> Vec<u8> {
    let count = coupons.len();
    let mut out = Vec::with_capacity(SET_HEADER + 4 * count);
    if count <= LIST_MOST {
        let flags = FLAG_COMPACT | if count == 0 { FLAG_EMPTY } else { 0 };
        out.extend([LIST_INTS, SERIAL_VERSION, FAMILY_HLL, lgk, LG_LIST, flags, count as u8, MODE_LIST]);
    } else {
        // The table that a reader builds is at most three quarters full, and never below 32 slots.
        let mut lg_arr = 5;
        while count * 4 > (1 << lg_arr) * 3 {
            lg_arr += 1;
        }
        out.extend([SET_INTS, SERIAL_VERSION, FAMILY_HLL, lgk, lg_arr, FLAG_COMPACT, 0, MODE_SET]);
        out.extend((count as u32).to_le_bytes());
    }
    out.extend(coupons.iter().flat_map(|raw| raw.to_le_bytes()));
    out
}

fn write_registers(lgk: u8, registers: &[u8]) -> Vec<u8> {
    let counts = registers::histogram(registers);
    let base = counts.iter().position(|&count| count != 0).unwrap_or(0);
    let exceptions: u32 = counts.iter().skip(base + usize::from(EXCEPTION)).sum();
    // Sums of at most 2^14 powers of two no smaller than 2^-31, and 2^-63: exact in a double.
    let weigh = |from: usize, to: usize| -> f64 {
        (from..to).map(|value| f64::from(counts[value]) * (-(value as f64)).exp2()).sum()
    };
    let mut out = Vec::with_capacity(HLL_HEADER + registers.len() / 2 + 32);
    let flags = FLAG_COMPACT | FLAG_OUT_OF_ORDER;
    out.extend([
        HLL_INTS,
        SERIAL_VERSION,
        FAMILY_HLL,
        lgk,
        0,
        flags,
        base as u8,
        MODE_HLL | (TARGET_HLL4 << 2),
    ]);
    out.extend(0_f64.to_le_bytes());
    out.extend(weigh(0, 32).to_le_bytes());
    out.extend(weigh(32, 64).to_le_bytes());
    out.extend(counts[base].to_le_bytes());
    out.extend(exceptions.to_le_bytes());
    let base = base as u8;
    let nibble = |value: u8| value.wrapping_sub(base).min(EXCEPTION);
    let pairs = registers.as_chunks::<2>().0.iter();
    out.extend(pairs.map(|&[even, odd]| nibble(even) | (nibble(odd) << 4)));
    for (slot, value) in registers::each_exception(registers, base) {
        out.extend(((u32::from(value) << 26) | slot as u32).to_le_bytes());
    }
    out
}
