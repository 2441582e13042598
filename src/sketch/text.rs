//! The text form of a sketch: `\x` and its bytes in hexadecimal, as bytea has it.

use crate::backend::report::Report;

/// Writes bytes as text.
pub fn write(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]);
    ['\\', 'x'].into_iter().chain(digits).collect()
}

/// Reads text of at most `most` bytes' worth.
pub fn read(text: &str, most: usize, what: &str) -> Result<Vec<u8>, Report> {
    let error = |problem: &str| {
        Report::new("22P02", format!("invalid input for type {what}: {problem}"))
            .hint("the text form is \\x followed by hexadecimal digits")
    };
    let digits = text.trim().strip_prefix("\\x").ok_or_else(|| error("no \\x in front"))?.as_bytes();
    if digits.len() % 2 != 0 {
        return Err(error("an odd number of digits"));
    }
    if digits.len() / 2 > most {
        return Err(error("too long"));
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    digits
        .chunks_exact(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect::<Option<_>>()
        .ok_or_else(|| error("not a hexadecimal digit"))
}
