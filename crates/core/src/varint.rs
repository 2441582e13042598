//! Whole numbers in as few bytes as they need: seven bits a byte, the lowest first, the top bit says that more follow.

/// Appends a number.
pub fn write(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front; `None` where there is none, or one that is longer than it need be or beyond 64 bits.
#[inline]
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F).checked_shl(7 * place)?;
        if byte < 0x80 {
            let needless = byte == 0 && place > 0;
            let beyond = place == 9 && byte > 1;
            return (!needless && !beyond).then_some(number);
        }
    }
    None
}

/// A signed number as an unsigned one: small whatever its sign.
pub fn fold_sign(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The signed number again.
pub fn unfold_sign(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, signed: i64, short in 0_u64..1000) {
            for number in [number, fold_sign(signed), short] {
                let mut bytes = Vec::new();
                write(number, &mut bytes);
                let mut rest = &bytes[..];
                prop_assert_eq!(read(&mut rest), Some(number));
                prop_assert!(rest.is_empty());
                for cut in 0..bytes.len() {
                    prop_assert_eq!(read(&mut &bytes[..cut]), None);
                }
            }
            prop_assert_eq!(unfold_sign(fold_sign(signed)), signed);
        }

        #[test]
        fn any_bytes_are_one_number_or_none(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            if let Some(number) = read(&mut rest) {
                let mut again = Vec::new();
                write(number, &mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
