//! One generated event and the two texts in which it travels.

use std::fmt::Write;

/// A generated event. Every string is plain ASCII without quotes, backslashes or control characters, so neither
/// text form needs escaping.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The tenant, `t01` the largest.
    pub tenant_id: String,
    /// The account within the tenant.
    pub account_id: String,
    /// The event's name, such as `feature.export`.
    pub name: &'static str,
    /// Microseconds since 1970-01-01 UTC.
    pub occurred_at: i64,
    /// A UUID of version 4 or 7, as `Ids` says.
    pub event_id: [u8; 16],
    /// Who acted; absent when the system did.
    pub user_id: Option<String>,
    /// The session: half an hour of one user.
    pub session_id: Option<String>,
    /// A JSON object.
    pub properties: String,
}

impl Event {
    /// Appends the event as one JSON object, without a line end.
    pub fn write_json(&self, out: &mut String) {
        out.push_str("{\"event_id\":\"");
        write_uuid(out, &self.event_id);
        out.push_str("\",\"tenant_id\":\"");
        out.push_str(&self.tenant_id);
        out.push_str("\",\"account_id\":\"");
        out.push_str(&self.account_id);
        for (key, value) in [("user_id", &self.user_id), ("session_id", &self.session_id)] {
            if let Some(value) = value {
                write!(out, "\",\"{key}\":\"{value}").expect("writing to a String");
            }
        }
        write!(out, "\",\"name\":\"{}\",\"occurred_at\":\"", self.name).expect("writing to a String");
        write_time(out, self.occurred_at);
        out.push_str("\",\"properties\":");
        out.push_str(&self.properties);
        out.push('}');
    }

    /// Appends the event as one line of text COPY: tenant_id, account_id, name, occurred_at, event_id, user_id,
    /// session_id, properties.
    pub fn write_copy(&self, out: &mut String) {
        write!(out, "{}\t{}\t{}\t", self.tenant_id, self.account_id, self.name).expect("writing to a String");
        write_time(out, self.occurred_at);
        out.push('\t');
        write_uuid(out, &self.event_id);
        for value in [&self.user_id, &self.session_id] {
            out.push('\t');
            out.push_str(value.as_deref().unwrap_or("\\N"));
        }
        out.push('\t');
        out.push_str(&self.properties);
        out.push('\n');
    }
}

/// Writes `events` as one JSON array.
pub fn json_array(events: &[Event]) -> String {
    let mut out = String::with_capacity(events.len() * 320 + 2);
    out.push('[');
    for (position, event) in events.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        event.write_json(&mut out);
    }
    out.push(']');
    out
}

/// Writes `events` as lines of text COPY.
pub fn copy_lines(events: &[Event]) -> String {
    let mut out = String::with_capacity(events.len() * 220);
    events.iter().for_each(|event| event.write_copy(&mut out));
    out
}

fn write_uuid(out: &mut String, id: &[u8; 16]) {
    for (position, byte) in id.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        for half in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(half)]));
        }
    }
}

/// Appends `2026-01-05T12:34:56.000789Z` for microseconds since 1970-01-01 UTC; years 1 to 9999.
pub fn write_time(out: &mut String, micros: i64) {
    let (day, within) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    // Years are counted from March, so that the leap day comes last; 146,097 days make 400 of them.
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (second, micro) = (within / 1_000_000, within % 1_000_000);
    write!(
        out,
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{micro:06}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
    .expect("writing to a String");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(micros: i64) -> String {
        let mut out = String::new();
        write_time(&mut out, micros);
        out
    }

    #[test]
    fn times_agree_with_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(time(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(time(1_767_225_599_000_001), "2025-12-31T23:59:59.000001Z");
        assert_eq!(time(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn both_texts_carry_the_same_event() {
        let event = Event {
            tenant_id: "t01".into(),
            account_id: "a1".into(),
            name: "page.view",
            occurred_at: 1_767_225_599_000_001,
            event_id: *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\x89\xab\xcd\xef",
            user_id: Some("u1".into()),
            session_id: None,
            properties: r#"{"plan":"free"}"#.into(),
        };
        assert_eq!(
            json_array(&[event.clone(), event.clone()]),
            format!(
                "[{0},{0}]",
                concat!(
                    r#"{"event_id":"01234567-89ab-4def-8123-456789abcdef","tenant_id":"t01","account_id":"a1","#,
                    r#""user_id":"u1","name":"page.view","occurred_at":"2025-12-31T23:59:59.000001Z","#,
                    r#""properties":{"plan":"free"}}"#
                )
            )
        );
        assert_eq!(
            copy_lines(&[event]),
            "t01\ta1\tpage.view\t2025-12-31T23:59:59.000001Z\t01234567-89ab-4def-8123-456789abcdef\tu1\t\\N\t\
             {\"plan\":\"free\"}\n"
        );
    }
}
