//! Postgres' `numeric`: from a JSON number to its stored form and back to decimal text.
//!
//! A value is a sign, a display scale, and base-10000 digits of which the first has weight 10000^`weight`; neither
//! the first nor the last digit is zero, and zero itself has no digits.

use super::{JsonbError, digest, fail};
use std::fmt::Write;

/// Why writing to a string is taken to succeed.
const NEVER: &str = "a string takes all text";

/// The most digits before the decimal point, and the most after it. Both are counted once an exponent has been
/// applied, so what is printed from a stored number is accepted again.
pub const MAX_DIGITS: i32 = 400;

/// Exponents beyond this are refused before they are applied.
const MAX_EXPONENT: i32 = 1000;

/// Exponents are counted so far: beyond the longest fraction that is read.
const COUNTED_EXPONENT: i32 = 1_000_000;

const SHORT: u16 = 0x8000;
const SHORT_NEGATIVE: u16 = 0x2000;
const SHORT_SCALE_SHIFT: u32 = 7;
const SHORT_SCALE_MAX: u16 = 0x3F;
const SHORT_WEIGHT_MASK: u16 = 0x7F;
const LONG_NEGATIVE: u16 = 0x4000;
const LONG_SCALE_MASK: u16 = 0x3FFF;

/// Views a stored numeric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numeric<'a> {
    pub negative: bool,
    pub scale: u16,
    pub weight: i16,
    /// Base-10000 digits, little-endian, two bytes each.
    pub digits: &'a [u8],
}

/// Reads the JSON number at `pos`, appends its stored form (with a 4-byte varlena header) to `out`, and returns
/// the end of the token and the value's digest. The form is the one that `numeric_in` makes.
pub(super) fn encode(text: &[u8], pos: usize, out: &mut Vec<u8>) -> Result<(usize, u64), JsonbError> {
    let negative = text[pos] == b'-';
    let first = pos + usize::from(negative);
    let int_end = digits_end(text, first);
    if int_end == first || (text[first] == b'0' && int_end > first + 1) {
        return Err(fail("22P02", pos, "invalid number"));
    }
    let next = text.get(int_end).copied().unwrap_or(b' ');
    if int_end - first <= 8 && !matches!(next, b'.' | b'e' | b'E') {
        let value = text[first..int_end].iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
        return Ok((int_end, encode_small(negative, value, out)));
    }
    let mut end = int_end;
    let mut fraction = int_end..int_end;
    if next == b'.' {
        end = digits_end(text, int_end + 1);
        fraction = int_end + 1..end;
        if fraction.is_empty() {
            return Err(fail("22P02", pos, "invalid number"));
        }
    }
    let mut exponent = 0i32;
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = text.get(end + 1).copied().unwrap_or(0);
        let start = end + 1 + usize::from(matches!(sign, b'+' | b'-'));
        end = digits_end(text, start);
        if end == start {
            return Err(fail("22P02", pos, "invalid number"));
        }
        for d in &text[start..end] {
            exponent = (exponent * 10 + i32::from(d - b'0')).min(COUNTED_EXPONENT);
        }
        if exponent > MAX_EXPONENT {
            // Zero is zero however often it's multiplied by ten.
            let is_zero = text[first..int_end].iter().chain(&text[fraction.clone()]).all(|d| *d == b'0');
            if !is_zero || sign == b'-' {
                return Err(out_of_range(pos));
            }
        }
        if sign == b'-' {
            exponent = -exponent;
        }
    }
    // With the exponent bounded, a longer part cannot give a number within MAX_DIGITS.
    let longest = (MAX_DIGITS + MAX_EXPONENT) as usize;
    if int_end - first > longest || fraction.len() > longest {
        return Err(out_of_range(pos));
    }
    let int_len = (int_end - first) as i32;
    let scale = (fraction.len() as i32 - exponent).max(0);
    let digit = |i: usize| {
        if i < int_end - first { text[first + i] } else { text[fraction.start + i - (int_end - first)] }
    };
    let count = int_end - first + fraction.len();
    let leading = (0..count).find(|&i| digit(i) != b'0');
    let Some(leading) = leading else {
        if scale > MAX_DIGITS {
            return Err(out_of_range(pos));
        }
        let start = out.len();
        open(0, scale as u16, out);
        return Ok((end, close(false, 0, scale as u16, start, out)));
    };
    let last = (leading..count).rfind(|&i| digit(i) != b'0').unwrap_or(leading);
    // The power of ten of the first digit that is not zero.
    let top = int_len - 1 + exponent - leading as i32;
    if top >= MAX_DIGITS || scale > MAX_DIGITS {
        return Err(out_of_range(pos));
    }
    let weight = top.div_euclid(4) as i16;
    let start = out.len();
    open(weight, scale as u16, out);
    let mut power = top;
    let mut group = 0u16;
    for i in leading..=last {
        group = group * 10 + u16::from(digit(i) - b'0');
        if power.rem_euclid(4) == 0 {
            out.extend_from_slice(&group.to_le_bytes());
            group = 0;
        }
        power -= 1;
    }
    let missing = (power + 1).rem_euclid(4);
    if missing != 0 {
        group *= 10u16.pow(missing as u32);
        out.extend_from_slice(&group.to_le_bytes());
    }
    Ok((end, close(negative, weight, scale as u16, start, out)))
}

/// Appends an integer below 10^8 and returns its digest.
#[inline]
fn encode_small(negative: bool, value: u32, out: &mut Vec<u8>) -> u64 {
    let sign = if negative && value != 0 { SHORT_NEGATIVE } else { 0 };
    let (high, low) = ((value / 10_000) as u16, (value % 10_000) as u16);
    let weight = u16::from(high != 0);
    let count = if value == 0 { 0 } else { 1 + u32::from(high != 0 && low != 0) };
    out.extend_from_slice(&((6 + 2 * count) << 2).to_le_bytes());
    out.extend_from_slice(&(SHORT | sign | weight).to_le_bytes());
    if high != 0 {
        out.extend_from_slice(&high.to_le_bytes());
    }
    if low != 0 {
        out.extend_from_slice(&low.to_le_bytes());
    }
    digest::number(sign != 0, weight as i16, &out[out.len() - 2 * count as usize..])
}

fn is_short(weight: i16, scale: u16) -> bool {
    scale <= SHORT_SCALE_MAX && (-64..=63).contains(&weight)
}

/// Leaves room for the headers.
fn open(weight: i16, scale: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(if is_short(weight, scale) { &[0; 6] } else { &[0; 8] });
}

/// Fills in the headers of the number that begins at `start` and returns its digest.
fn close(negative: bool, weight: i16, scale: u16, start: usize, out: &mut [u8]) -> u64 {
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&(len << 2).to_le_bytes());
    if is_short(weight, scale) {
        let sign = if negative { SHORT_NEGATIVE } else { 0 };
        let head = SHORT | sign | (scale << SHORT_SCALE_SHIFT) | (weight as u16 & SHORT_WEIGHT_MASK);
        out[start + 4..start + 6].copy_from_slice(&head.to_le_bytes());
    } else {
        let head = if negative { LONG_NEGATIVE } else { 0 } | scale;
        out[start + 4..start + 6].copy_from_slice(&head.to_le_bytes());
        out[start + 6..start + 8].copy_from_slice(&weight.to_le_bytes());
    }
    let digits = start + if is_short(weight, scale) { 6 } else { 8 };
    digest::number(negative, weight, &out[digits..])
}

fn digits_end(text: &[u8], mut pos: usize) -> usize {
    while text.get(pos).is_some_and(u8::is_ascii_digit) {
        pos += 1;
    }
    pos
}

fn out_of_range(pos: usize) -> JsonbError {
    fail("22003", pos, format!("number has more than {MAX_DIGITS} digits before or after the decimal point"))
}

/// Reads a stored numeric that fills `bytes`; refuses whatever [`encode`] would not have written.
pub(super) fn decode(bytes: &[u8], pos: usize) -> Result<Numeric<'_>, JsonbError> {
    let bad = || fail("22P03", pos, "invalid numeric");
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
    if u32::from_le_bytes(*len) as usize != bytes.len() << 2 {
        return Err(bad());
    }
    let (head, rest) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
    let head = u16::from_le_bytes(*head);
    let short = head & SHORT != 0;
    let number = if short {
        if head & 0x4000 != 0 {
            return Err(bad()); // NaN or infinity, which JSON cannot hold
        }
        let weight = (((head & SHORT_WEIGHT_MASK) << 9) as i16) >> 9;
        let scale = (head >> SHORT_SCALE_SHIFT) & SHORT_SCALE_MAX;
        Numeric { negative: head & SHORT_NEGATIVE != 0, scale, weight, digits: rest }
    } else {
        let (weight, digits) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let weight = i16::from_le_bytes(*weight);
        Numeric { negative: head & LONG_NEGATIVE != 0, scale: head & LONG_SCALE_MASK, weight, digits }
    };
    if !number.digits.len().is_multiple_of(2) || short != is_short(number.weight, number.scale) {
        return Err(bad());
    }
    let mut digits = number.digits.as_chunks::<2>().0.iter().map(|d| u16::from_le_bytes(*d));
    if digits.any(|d| d > 9999) {
        return Err(bad());
    }
    let count = number.digits.len() as i32 / 2;
    let weight = i32::from(number.weight);
    if count == 0 {
        if number.negative || weight != 0 || i32::from(number.scale) > MAX_DIGITS {
            return Err(bad());
        }
        return Ok(number);
    }
    let digit = |i: i32| {
        let i = i as usize * 2;
        u16::from_le_bytes([number.digits[i], number.digits[i + 1]])
    };
    let (first, last) = (digit(0), digit(count - 1));
    if first == 0 || last == 0 {
        return Err(bad());
    }
    let top = weight * 4 + first.ilog10() as i32;
    if top >= MAX_DIGITS || i32::from(number.scale) > MAX_DIGITS {
        return Err(out_of_range(pos));
    }
    // The last decimal digit that is not zero must lie within the display scale.
    let zeros = (1..4).take_while(|&n| last.is_multiple_of(10u16.pow(n))).count() as i32;
    let lowest = (weight - count + 1) * 4 + zeros;
    if -lowest > i32::from(number.scale) {
        return Err(bad());
    }
    Ok(number)
}

impl Numeric<'_> {
    /// Appends the decimal text that Postgres prints: no exponent, as many decimals as the display scale.
    pub(super) fn print(&self, out: &mut String) {
        if self.negative {
            out.push('-');
        }
        let group = |power: i32| {
            let i = i32::from(self.weight) - power;
            let i = usize::try_from(i).unwrap_or(usize::MAX / 4) * 2;
            self.digits.get(i..i + 2).map_or(0, |d| u16::from_le_bytes([d[0], d[1]]))
        };
        if self.weight < 0 {
            out.push('0');
        }
        for power in (0..=i32::from(self.weight)).rev() {
            if power == i32::from(self.weight) {
                write!(out, "{}", group(power)).expect(NEVER);
            } else {
                write!(out, "{:04}", group(power)).expect(NEVER);
            }
        }
        let scale = usize::from(self.scale);
        if scale > 0 {
            out.push('.');
            let end = out.len() + scale;
            let mut power = -1;
            while out.len() < end {
                write!(out, "{:04}", group(power)).expect(NEVER);
                power -= 1;
            }
            out.truncate(end);
        }
    }
}
