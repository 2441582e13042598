//! Postgres' on-disk numeric, read without the server.

/// Digits that a moderate number has at most before its decimal point, and after it.
const MODERATE_DIGITS: i32 = 1000;

/// Whether a number is finite and has so few digits that sums of any number of such can be stored, and don't grow large.
///
/// `stored` is the value after its varlena header: numeric.c's NumericShort or NumericLong.
pub fn is_moderate(stored: &[u8]) -> bool {
    let Some((header, rest)) = stored.split_first_chunk::<2>() else { return false };
    let header = u16::from_le_bytes(*header);
    match header & 0xC000 {
        // Short: at most 256 digits before the point, and 63 after it.
        0x8000 => true,
        // NaN or infinite.
        0xC000 => false,
        _ => {
            let Some(weight) = rest.first_chunk::<2>() else { return false };
            let weight = i32::from(i16::from_le_bytes(*weight));
            4 * (weight + 1) <= MODERATE_DIGITS && i32::from(header & 0x3FFF) <= MODERATE_DIGITS
        }
    }
}

/// The greatest integer up to which every integer is a double.
const EXACT: u64 = 1 << 53;

/// The number as a double, correctly rounded, where that takes one exact integer and one exact power of ten: up to 15
/// significant digits or so, and at most 22 places before or after them. `None` for any other number, and for NaN.
///
/// `stored` is the value after its varlena header: numeric.c's NumericShort or NumericLong.
pub fn to_f64(stored: &[u8]) -> Option<f64> {
    let word =
        |place: usize| Some(u16::from_le_bytes([*stored.get(2 * place)?, *stored.get(2 * place + 1)?]));
    let header = word(0)?;
    let (negative, weight, first) = match header & 0xC000 {
        0x8000 => {
            // Short: sign 0x2000, scale, then a weight of seven bits in two's complement.
            let weight = i32::from(header & 0x003F) - i32::from(header & 0x0040);
            (header & 0x2000 != 0, weight, 1)
        }
        0xC000 => return None,
        sign => (sign == 0x4000, i32::from(word(1)? as i16), 2),
    };
    let digits = (stored.len() / 2).checked_sub(first)?;
    let mut integer = 0_u64;
    for place in 0..digits {
        integer = integer.checked_mul(10_000)?.checked_add(u64::from(word(first + place)?))?;
    }
    if integer > EXACT {
        return None;
    }
    let exponent = 4 * (weight - (digits as i32 - 1));
    let magnitude = match exponent {
        _ if integer == 0 => 0.0,
        0..=22 => integer as f64 * 10_f64.powi(exponent),
        -22..0 => integer as f64 / 10_f64.powi(-exponent),
        _ => return None,
    };
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The short form of an integer divided by a power of 10,000.
    fn short(negative: bool, mut integer: u64, places: i32) -> Vec<u8> {
        let mut digits = Vec::new();
        while integer > 0 {
            digits.insert(0, (integer % 10_000) as u16);
            integer /= 10_000;
        }
        let weight = digits.len() as i32 - 1 - places;
        let header = 0x8000 | u16::from(negative) << 13 | (weight & 0x7F) as u16;
        [header].iter().chain(&digits).flat_map(|word| word.to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn rounds_as_the_text_does(negative: bool, integer in 0_u64..=EXACT, places in -2_i32..=5) {
            let sign = if negative { "-" } else { "" };
            let text = format!("{sign}{integer}e{}", -4 * places);
            let expected: f64 = text.parse().expect("a number");
            prop_assert_eq!(to_f64(&short(negative, integer, places)), Some(expected));
        }

        #[test]
        fn reads_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            to_f64(&bytes);
            is_moderate(&bytes);
        }
    }

    #[test]
    fn large_and_long_numbers_are_not_moderate() {
        let long = |weight: i16, scale: u16| {
            [scale, weight as u16, 1].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        assert!(is_moderate(&short(true, 123_456, 1)));
        assert!(is_moderate(&long(249, 1000)) && is_moderate(&long(-100, 400)));
        assert!(!is_moderate(&long(250, 0)), "1e1000");
        assert!(!is_moderate(&long(-300, 1001)));
        assert!(!is_moderate(&[0x00, 0xC0]) && !is_moderate(&[0x00, 0xF0]) && !is_moderate(&[]));
    }

    #[test]
    fn leaves_what_it_cannot_round_exactly() {
        assert_eq!(to_f64(&short(false, EXACT + 1, 0)), None);
        assert_eq!(to_f64(&[0x00, 0xC0]), None);
        assert_eq!(to_f64(&[]), None);
    }
}
