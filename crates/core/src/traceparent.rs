//! W3C Trace Context: the `traceparent` header.

/// Holds the parts of a valid header that name a trace and the operation in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'a> {
    /// Names the trace: 32 lower-case hexadecimal digits, not all zero.
    pub trace_id: &'a str,
    /// Names the caller's operation: 16 such digits.
    pub span_id: &'a str,
}

/// Reads `version-trace_id-parent_id-flags`; `None` where the header isn't valid. Versions after 00 may have more behind a
/// further hyphen; version ff is forbidden.
pub fn parse(text: &str) -> Option<TraceParent<'_>> {
    let mut parts = text.splitn(5, '-');
    let mut part = |digits: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && part.len() == digits).then_some(part)
    };
    let (version, trace_id, span_id, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let rest = parts.next();
    let named = |id: &str| id.bytes().any(|b| b != b'0');
    let valid = version != "ff" && (version != "00" || rest.is_none()) && named(trace_id) && named(span_id);
    valid.then_some(TraceParent { trace_id, span_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn valid_headers_are_taken_apart() {
        let wanted = Some(TraceParent { trace_id: TRACE, span_id: "00f067aa0ba902b7" });
        for (version, rest) in [("00", ""), ("cc", ""), ("01", "-what-comes-later")] {
            assert_eq!(parse(&format!("{version}-{TRACE}-00f067aa0ba902b7-01{rest}")), wanted);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-x"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}0-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "é".repeat(16)),
            format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }
}
