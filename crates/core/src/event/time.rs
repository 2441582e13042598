//! Times: RFC 3339 text and Postgres microseconds.

use crate::calendar::{civil_from_days, days_from_civil};
use crate::jsonb::{JsonbError, excerpt, fail};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// 0001-01-01 00:00 UTC.
pub(super) const EARLIEST: i64 = days_from_civil(1, 1, 1) * DAY;
/// The last microsecond of 9999-12-31 UTC.
pub(super) const LATEST: i64 = days_from_civil(10_000, 1, 1) * DAY - 1;

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Parses an RFC 3339 time with offset to microseconds since 2000-01-01 00:00 UTC.
///
/// A space may stand for `T`; the offset is `Z`, `±hh`, `±hhmm` or `±hh:mm`, at most 15:59; a fraction of 1–9
/// digits is rounded to microseconds, halves up; second 60 is the next minute's second 0. Other text is 22007, a
/// date that does not exist or lies outside the years 1–9999, and `infinity`, are 22008.
pub fn parse_timestamp(text: &str) -> Result<i64, JsonbError> {
    match parse(text.as_bytes()) {
        Ok(micros) if (EARLIEST..=LATEST).contains(&micros) => Ok(micros),
        Ok(_) | Err(Fault::Range) => {
            Err(fail("22008", 0, format!("time \"{}\" is out of range", excerpt(text))))
        }
        Err(Fault::Format) if is_infinity(text) => {
            Err(fail("22008", 0, format!("time \"{}\" is not finite", excerpt(text))))
        }
        Err(Fault::Format) => {
            let wanted = "RFC 3339 with an offset, such as 2026-01-31T12:00:00Z";
            Err(fail("22007", 0, format!("time \"{}\" is not {wanted}", excerpt(text))))
        }
    }
}

fn is_infinity(text: &str) -> bool {
    text.trim_start_matches(['+', '-']).eq_ignore_ascii_case("infinity")
}

enum Fault {
    Format,
    Range,
}

fn number(text: &[u8], at: usize, len: usize) -> Result<i64, Fault> {
    let digits = text.get(at..at + len).ok_or(Fault::Format)?;
    digits.iter().try_fold(0, |n, b| {
        if b.is_ascii_digit() { Ok(n * 10 + i64::from(b - b'0')) } else { Err(Fault::Format) }
    })
}

fn parse(text: &[u8]) -> Result<i64, Fault> {
    let is = |at: usize, wanted: &[u8]| text.get(at).is_some_and(|b| wanted.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return Err(Fault::Format);
    }
    let (year, month, day) = (number(text, 0, 4)?, number(text, 5, 2)?, number(text, 8, 2)?);
    let (hour, minute, second) = (number(text, 11, 2)?, number(text, 14, 2)?, number(text, 17, 2)?);
    let mut pos = 19;
    let mut micros = 0;
    if is(pos, b".") {
        let digits = text[pos + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return Err(Fault::Format);
        }
        let nanos = number(text, pos + 1, digits)? * 10i64.pow(9 - digits as u32);
        micros = (nanos + 500) / 1000;
        pos += 1 + digits;
    }
    let offset = offset(&text[pos..])?;
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > month_days(year, month) {
        return Err(Fault::Range);
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err(Fault::Range);
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(seconds * SECOND + micros)
}

/// Reads an offset from UTC in seconds.
fn offset(text: &[u8]) -> Result<i64, Fault> {
    let sign = match text {
        [b'Z' | b'z'] => return Ok(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Err(Fault::Format),
    };
    let minutes = match text.len() {
        3 => 0,
        5 => number(text, 3, 2)?,
        6 if text[3] == b':' => number(text, 4, 2)?,
        _ => return Err(Fault::Format),
    };
    let hours = number(text, 1, 2)?;
    if hours > 15 || minutes > 59 {
        return Err(Fault::Range);
    }
    Ok(sign * (hours * 3600 + minutes * 60))
}

/// Prints microseconds since 2000-01-01 00:00 UTC as RFC 3339 in UTC with the shortest fraction.
///
/// Any value prints; years outside 1–9999 do not parse again.
pub fn format_timestamp(micros: i64) -> String {
    let (day, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(day);
    let (seconds, fraction) = (rest / SECOND, rest % SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        let digits = format!(".{fraction:06}");
        out.push_str(digits.trim_end_matches('0'));
    }
    out.push('Z');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> &'static str {
        parse_timestamp(text).map(|_| "").unwrap_or_else(|e| e.sqlstate)
    }

    #[test]
    fn known_times() {
        for (text, micros) in [
            ("2000-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00Z", -946_684_800_000_000),
            ("1970-01-01 00:00:00z", -946_684_800_000_000),
            ("2008-06-07T00:55:01Z", 266_115_301_000_000),
            ("2024-02-29t23:59:60Z", 762_566_400_000_000),
            ("2000-01-01T05:30:00+05:30", 0),
            ("1999-12-31T16:00:00-0800", 0),
            ("2000-01-01T01:00:00+01", 0),
            ("2000-01-01T00:00:00.123456789Z", 123_457),
            ("2000-01-01T00:00:00.0000005Z", 1),
            ("2000-01-01T00:00:00.9999995-00:00", 1_000_000),
            ("0001-01-01T00:00:00Z", -63_082_281_600_000_000),
            ("9999-12-31T23:59:59.999999Z", 252_455_615_999_999_999),
        ] {
            assert_eq!(parse_timestamp(text), Ok(micros), "{text}");
        }
    }

    #[test]
    fn refused_times() {
        for text in [
            "",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "2000-01-01T00:00Z",
            "2000-01-01T00:00:00.Z",
            "2000-01-01T00:00:00.1234567890Z",
            "2000-01-01T00:00:00 Z",
            "2000-01-01T00:00:00+5",
            "2000-01-01T00:00:00+05:3",
            "2000-1-1T00:00:00Z",
            "20000-01-01T00:00:00Z",
            "now",
            "2000-01-01T00:00:00Zé",
            "+000-01-01T00:00:00Z",
        ] {
            assert_eq!(code(text), "22007", "{text}");
        }
        for text in [
            "infinity",
            "-Infinity",
            "0000-01-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2000-13-01T00:00:00Z",
            "2000-00-01T00:00:00Z",
            "2000-04-31T00:00:00Z",
            "2000-01-00T00:00:00Z",
            "2000-01-01T24:00:00Z",
            "2000-01-01T00:60:00Z",
            "2000-01-01T00:00:61Z",
            "2000-01-01T00:00:00+16:00",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59.9999995Z",
        ] {
            assert_eq!(code(text), "22008", "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_times_parse_again(micros in EARLIEST..=LATEST) {
            prop_assert_eq!(parse_timestamp(&format_timestamp(micros)), Ok(micros));
        }

        #[test]
        fn consecutive_days_differ_by_a_day(day in -730_000i64..2_900_000) {
            let text = format_timestamp(day * DAY);
            let next = format_timestamp((day + 1) * DAY);
            prop_assert!(text < next);
            let date: Vec<i64> = next[..10].split('-').map(|p| p.parse().unwrap()).collect();
            prop_assert!((1..=month_days(date[0], date[1])).contains(&date[2]));
        }

        #[test]
        fn any_text_is_judged(text in "\\PC{0,40}") {
            let _ = parse_timestamp(&text);
        }

        #[test]
        fn any_value_prints(micros in any::<i64>()) {
            format_timestamp(micros);
        }
    }
}
