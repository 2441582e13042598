//! Event ids: UUIDs, given or made from another key.

use sha1::{Digest, Sha1};

/// The namespace of ids made from keys: the version 5 UUID of the DNS name `pg_tally`.
pub const KEY_NAMESPACE: [u8; 16] =
    [0x79, 0x00, 0x7a, 0xcb, 0xb2, 0xb8, 0x55, 0x69, 0xb8, 0x10, 0x26, 0x23, 0xec, 0xdf, 0xb8, 0x95];

/// Makes the event id of any other key: the version 5 UUID (RFC 9562: SHA-1) of the key's UTF-8 bytes in
/// [`KEY_NAMESPACE`]. The same key gives the same id for ever, in every tenant.
pub fn event_id_from_key(key: &str) -> [u8; 16] {
    let hash = Sha1::new().chain_update(KEY_NAMESPACE).chain_update(key).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[6] = id[6] & 0x0F | 0x50;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

/// Parses 8-4-4-4-12 or 32 hexadecimal digits, any case.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    let mut id = [0u8; 16];
    let mut bad = 0;
    match text.len() {
        36 => {
            if text[8] != b'-' || text[13] != b'-' || text[18] != b'-' || text[23] != b'-' {
                return None;
            }
            const STARTS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
            for (byte, at) in id.iter_mut().zip(STARTS) {
                let (high, low) = (HEX[text[at] as usize], HEX[text[at + 1] as usize]);
                bad |= high | low;
                *byte = high << 4 | low & 15;
            }
        }
        32 => {
            for (byte, pair) in id.iter_mut().zip(text.as_chunks::<2>().0) {
                let (high, low) = (HEX[pair[0] as usize], HEX[pair[1] as usize]);
                bad |= high | low;
                *byte = high << 4 | low & 15;
            }
        }
        _ => return None,
    }
    (bad < 16).then_some(id)
}

/// The value of each hexadecimal digit; 255 for other bytes.
const HEX: [u8; 256] = {
    let mut table = [255; 256];
    let mut i = 0;
    while i < 16 {
        table[b"0123456789abcdef"[i] as usize] = i as u8;
        table[b"0123456789ABCDEF"[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// Prints a UUID as 8-4-4-4-12 lower-case hexadecimal digits.
pub fn format_uuid(id: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[digit as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ids() {
        // Made with uuid_generate_v5 of another implementation.
        let dns = parse_uuid("6ba7b810-9dad-11d1-80b4-00c04fd430c8").unwrap();
        let hash = Sha1::new().chain_update(dns).chain_update("pg_tally").finalize();
        assert_eq!(hash[..6], KEY_NAMESPACE[..6]);
        assert_eq!(format_uuid(&KEY_NAMESPACE), "79007acb-b2b8-5569-b810-2623ecdfb895");
        assert_eq!(format_uuid(&event_id_from_key("order-1")), "f4ff5ec5-d265-5640-a669-69a272b260fd");
        assert_eq!(format_uuid(&event_id_from_key("")), "a8ed126f-2298-500b-bf1f-44c0fea4cc4c");
        assert_eq!(format_uuid(&event_id_from_key("zażółć")), "e3af67ec-a110-5d4c-a8e7-674ed846bdd7");
    }

    #[test]
    fn spellings() {
        let id = parse_uuid("96e44c00-62d3-99ba-ddec-6de52a367d23").unwrap();
        assert_eq!(parse_uuid("96E44C0062D399BADDEC6DE52A367D23"), Some(id));
        assert_eq!(parse_uuid(&format_uuid(&id)), Some(id));
        for bad in [
            "",
            "96e44c00-62d3-99ba-ddec-6de52a367d2",
            "96e44c00-62d3-99ba-ddec-6de52a367d2g",
            "96e44c0062d3-99ba-ddec-6de52a367d23aa",
            "{96e44c00-62d3-99ba-ddec-6de52a367d23}",
            "96e44c00062d3-99ba-ddec-6de52a367d23",
            "+6e44c0062d399baddec6de52a367d23",
            "é6e44c0062d399baddec6de52a367d2",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
