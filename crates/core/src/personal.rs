//! Finding personal data: whether a value looks like an e-mail address, a telephone, card or account number, an IP address or a
//! national identification number. By form and check digits, not by dictionaries: what has neither, as most names, isn't found.
//!
//! Wrong alarms cost as much as misses, so a number without marks is one only where its check digits say so and such numbers are rare
//! among others; order numbers, versions, moments, prices and uuids are not.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Email,
    Phone,
    Card,
    BankAccount,
    IpAddress,
    NationalId,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "e-mail address",
            Kind::Phone => "phone number",
            Kind::Card => "card number",
            Kind::BankAccount => "bank account",
            Kind::IpAddress => "IP address",
            Kind::NationalId => "national id",
        }
    }
}

/// Whether a value is of a kind.
type Test = fn(&str) -> bool;

/// Bytes of a value that are looked at: longer ones are texts, of which the beginning tells enough.
const LOOKED_AT_BYTES: usize = 4_096;

/// What a value is, or a word of it; `None` where it is nothing of that.
pub fn kind_of(value: &str) -> Option<Kind> {
    let value = &value[..value.floor_char_boundary(LOOKED_AT_BYTES)];
    let value = value.trim();
    if let Some(kind) = kind_of_whole(value) {
        return Some(kind);
    }
    // In a text: a word by itself, without the marks around it.
    let words = value.split(|c: char| c.is_whitespace() || ",;<>()[]{}\"'|=".contains(c));
    let words =
        words.map(|word| word.trim_matches(|c: char| ".:!?".contains(c))).filter(|word| *word != value);
    words.filter(|word| !word.is_empty()).find_map(|word| {
        let is_plain_number = word.bytes().all(|byte| byte.is_ascii_digit());
        kind_of_whole(word).filter(|kind| !is_plain_number || *kind == Kind::Card)
    })
}

fn kind_of_whole(value: &str) -> Option<Kind> {
    if !(5..=320).contains(&value.len()) {
        return None;
    }
    let tests: [(Test, Kind); 6] = [
        (is_email, Kind::Email),
        (is_ip, Kind::IpAddress),
        (is_bank_account, Kind::BankAccount),
        (is_national_id, Kind::NationalId),
        (is_card, Kind::Card),
        (is_phone, Kind::Phone),
    ];
    tests.into_iter().find(|(is, _)| is(value)).map(|(_, kind)| kind)
}

fn is_email(value: &str) -> bool {
    let value = value.strip_prefix("mailto:").unwrap_or(value);
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    let Some((_, top)) = domain.rsplit_once('.') else { return false };
    let is_local = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=64).contains(&local.len())
        && local.chars().all(is_local)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && domain.split('.').all(is_label)
        && top.chars().count() >= 2
        && top.chars().all(char::is_alphabetic)
}

fn is_ip(value: &str) -> bool {
    if let Ok(address) = value.parse::<Ipv4Addr>() {
        let parts = address.octets();
        // 1.2.3.4 is a version far more often than an address; nor is one what stands for any or none.
        let is_like_a_version = parts[0] < 10 && parts.iter().all(|&part| part < 40);
        return !is_like_a_version && !address.is_unspecified() && !address.is_broadcast();
    }
    let is_v6 =
        value.parse::<Ipv6Addr>().is_ok_and(|address| !address.is_unspecified() && !address.is_loopback());
    is_v6 && value.bytes().filter(|&byte| byte == b':').count() >= 2
}

/// The digits of a value that has nothing else but these marks between them, neither first nor last nor two in a row.
fn digits_between(value: &str, marks: &str) -> Option<Vec<u8>> {
    let mut digits = Vec::new();
    let mut after_mark = true;
    for c in value.chars() {
        if let Some(digit) = c.to_digit(10) {
            digits.push(digit as u8);
            after_mark = false;
        } else if marks.contains(c) && !after_mark {
            after_mark = true;
        } else {
            return None;
        }
    }
    (!after_mark).then_some(digits)
}

/// Whether the last digit is the check digit of the others (Luhn, ISO/IEC 7812-1).
pub fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| {
            let digit = u32::from(digit) << (place % 2);
            if digit > 9 { digit - 9 } else { digit }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, &digit| number * 10 + u64::from(digit))
}

/// A payment card by the ranges that issuers have, and Luhn's check digit.
fn is_card(value: &str) -> bool {
    let Some(digits) = digits_between(value, " -") else { return false };
    let length = digits.len();
    if !(13..=19).contains(&length) || !luhn(&digits) {
        return false;
    }
    let first = |count: usize| number(&digits[..count]);
    match first(2) {
        34 | 37 => length == 15,
        36 | 38 | 39 => length == 14,
        30 => length == 14 && first(3) <= 305,
        35 => length == 16 && (3528..=3589).contains(&first(4)),
        40..=49 => matches!(length, 13 | 16 | 19),
        51..=55 => length == 16,
        22..=27 => length == 16 && (2221..=2720).contains(&first(4)),
        60 => length == 16 && first(4) == 6011,
        62 => matches!(length, 16..=19),
        64 => length == 16 && first(3) >= 644,
        65 => length == 16,
        _ => false,
    }
}

/// An IBAN (ISO 13616): country, check digits, account.
fn is_bank_account(value: &str) -> bool {
    let plain: String = value.chars().filter(|c| *c != ' ').collect();
    let is_form = (15..=34).contains(&plain.len())
        && plain.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
        && plain.bytes().take(2).all(|byte| byte.is_ascii_uppercase())
        && plain.bytes().skip(2).take(2).all(|byte| byte.is_ascii_digit());
    if !is_form {
        return false;
    }
    let (head, tail) = plain.split_at(4);
    let rest =
        tail.chars().chain(head.chars()).filter_map(|c| c.to_digit(36)).fold(0, |rest, value| {
            if value > 9 { (rest * 100 + value) % 97 } else { (rest * 10 + value) % 97 }
        });
    rest == 1
}

/// A telephone number in international form, or with the marks that people write between its parts.
fn is_phone(value: &str) -> bool {
    let value = value.strip_prefix("tel:").unwrap_or(value);
    let plain: String = value.chars().filter(|c| !"()".contains(*c)).collect();
    let plain = plain.trim();
    if let Some(international) = plain.strip_prefix('+') {
        let collapsed = international.split_whitespace().collect::<Vec<_>>().join(" ");
        return digits_between(&collapsed, " -./")
            .is_some_and(|digits| (8..=15).contains(&digits.len()) && digits[0] != 0);
    }
    let collapsed = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let groups: Vec<&str> = collapsed.split([' ', '-', '/', '.']).collect();
    let Some(digits) = digits_between(&collapsed, " -/.") else { return false };
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    // North America: area and exchange begin with 2 to 9.
    let is_nanp = |digits: &[u8]| digits.len() == 10 && digits[0] >= 2 && digits[3] >= 2;
    if lengths == [3, 3, 4] && is_nanp(&digits) {
        return true;
    }
    if lengths == [1, 3, 3, 4] && digits[0] == 1 && is_nanp(&digits[1..]) {
        return true;
    }
    // Elsewhere: a trunk prefix, then groups; a moment or a date has others.
    (9..=13).contains(&digits.len())
        && digits[0] == 0
        && digits[1] != 0
        && (2..=6).contains(&lengths.len())
        && (3..=5).contains(&lengths[0])
        && !collapsed.contains('.')
}

/// A national identification number by its form and, where it has some, its check digits.
fn is_national_id(value: &str) -> bool {
    is_ssn(value)
        || is_nino(value)
        || is_dni(value)
        || is_codice_fiscale(value)
        || is_nir(value)
        || is_steuer_id(value)
        || is_personnummer(value)
        || is_hetu(value)
        || is_cpf(value)
        || is_aadhaar(value)
}

/// Lengths of the groups of digits between marks.
fn groups(value: &str, mark: char) -> Vec<usize> {
    value.split(mark).map(str::len).collect()
}

/// United States: 3-2-4 digits; it has no check digit, but numbers that are never given out.
fn is_ssn(value: &str) -> bool {
    groups(value, '-') == [3, 2, 4]
        && digits_between(value, "-").is_some_and(|digits| {
            let area = number(&digits[..3]);
            area != 0 && area != 666 && area < 900 && number(&digits[3..5]) != 0 && number(&digits[5..]) != 0
        })
}

/// United Kingdom: two letters, six digits, a letter from A to D.
fn is_nino(value: &str) -> bool {
    let plain: Vec<u8> = value.bytes().filter(|byte| *byte != b' ').collect();
    plain.len() == 9
        && plain[..2].iter().all(|letter| letter.is_ascii_uppercase() && !b"DFIQUV".contains(letter))
        && plain[1] != b'O'
        && ![*b"BG", *b"GB", *b"KN", *b"NK", *b"NT", *b"TN", *b"ZZ"].contains(&[plain[0], plain[1]])
        && plain[2..8].iter().all(u8::is_ascii_digit)
        && (b'A'..=b'D').contains(&plain[8])
}

/// Spain: eight digits, or X, Y or Z and seven, and a letter of the rest by 23.
fn is_dni(value: &str) -> bool {
    let plain: Vec<u8> = value.bytes().filter(|byte| *byte != b'-').collect();
    if plain.len() != 9 {
        return false;
    }
    let first = match plain[0] {
        b'X' => b'0',
        b'Y' => b'1',
        b'Z' => b'2',
        digit => digit,
    };
    let digits: Vec<u8> = std::iter::once(first).chain(plain[1..8].iter().copied()).collect();
    digits.iter().all(u8::is_ascii_digit) && {
        let digits: Vec<u8> = digits.iter().map(|digit| digit - b'0').collect();
        b"TRWAGMYFPDXBNJZSQVHLCKE"[(number(&digits) % 23) as usize] == plain[8]
    }
}

/// Italy: sixteen letters and digits, the last of which checks the others.
fn is_codice_fiscale(value: &str) -> bool {
    const ODD: [u32; 36] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12,
        14, 16, 10, 22, 25, 24, 23,
    ];
    let bytes = value.as_bytes();
    let is_form = bytes.len() == 16
        && bytes.iter().enumerate().all(|(place, byte)| match place {
            0..6 | 8 | 11 | 15 => byte.is_ascii_uppercase(),
            _ => byte.is_ascii_digit(),
        });
    is_form && {
        let values = value.chars().filter_map(|c| c.to_digit(36));
        let sum: u32 = values
            .take(15)
            .enumerate()
            .map(|(place, value)| match (place % 2, value) {
                (0, value) => ODD[value as usize],
                (_, value) if value > 9 => value - 10,
                (_, value) => value,
            })
            .sum();
        u32::from(bytes[15] - b'A') == sum % 26
    }
}

/// France: thirteen digits, sex, year and month first, and two of the rest by 97.
fn is_nir(value: &str) -> bool {
    digits_between(value, " ").is_some_and(|digits| {
        digits.len() == 15
            && matches!(digits[0], 1 | 2)
            && (1..=12).contains(&number(&digits[3..5]))
            && 97 - number(&digits[..13]) % 97 == number(&digits[13..])
    })
}

/// Germany, tax: eleven digits, of the first ten one twice or three times and the others once at most; check digit by ISO 7064.
fn is_steuer_id(value: &str) -> bool {
    let Some(digits) = digits_between(value, " ") else { return false };
    if digits.len() != 11 || digits[0] == 0 {
        return false;
    }
    let mut counts = [0; 10];
    for &digit in &digits[..10] {
        counts[usize::from(digit)] += 1;
    }
    let repeated = counts.iter().filter(|&&count| count > 1).count();
    let most = counts.iter().max().copied().unwrap_or(0);
    let product = digits[..10].iter().fold(10, |product, &digit| {
        let sum = match (u32::from(digit) + product) % 10 {
            0 => 10,
            sum => sum,
        };
        sum * 2 % 11
    });
    let check = match 11 - product {
        10 => 0,
        check => check,
    };
    repeated == 1 && most <= 3 && check == u32::from(digits[10])
}

/// Sweden: date of birth, a mark, three digits and Luhn's.
fn is_personnummer(value: &str) -> bool {
    let short = if value.len() == 13 { value.get(2..).unwrap_or_default() } else { value };
    let is_form = short.len() == 11 && matches!(short.as_bytes()[6], b'-' | b'+');
    is_form
        && digits_between(short, "-+").is_some_and(|digits| {
            digits.len() == 10
                && (1..=12).contains(&number(&digits[2..4]))
                && (1..=31).contains(&number(&digits[4..6]))
                && luhn(&digits)
        })
}

/// Finland: date of birth, a mark of the century, three digits and a check character by 31.
fn is_hetu(value: &str) -> bool {
    let bytes = value.as_bytes();
    if bytes.len() != 11 || !b"+-ABCDEFYXWVU".contains(&bytes[6]) {
        return false;
    }
    let digits: Vec<u8> = bytes[..6]
        .iter()
        .chain(&bytes[7..10])
        .filter(|byte| byte.is_ascii_digit())
        .map(|byte| byte - b'0')
        .collect();
    digits.len() == 9
        && (1..=31).contains(&number(&digits[..2]))
        && (1..=12).contains(&number(&digits[2..4]))
        && b"0123456789ABCDEFHJKLMNPRSTUVWXY"[(number(&digits) % 31) as usize] == bytes[10]
}

/// Brazil: nine digits in groups of three and two check digits by 11.
fn is_cpf(value: &str) -> bool {
    let is_form =
        value.len() == 14 && matches!(value.as_bytes(), [_, _, _, b'.', _, _, _, b'.', _, _, _, b'-', _, _]);
    is_form
        && digits_between(value, ".-").is_some_and(|digits| {
            let check = |count: usize| {
                let weighted = digits[..count].iter().enumerate();
                let sum: usize =
                    weighted.map(|(place, &digit)| usize::from(digit) * (count + 1 - place)).sum();
                (sum * 10 % 11 % 10) as u8
            };
            digits.len() == 11 && digits[9] == check(9) && digits[10] == check(10)
        })
}

/// India: twelve digits in groups of four, the last one Verhoeff's.
fn is_aadhaar(value: &str) -> bool {
    groups(value, ' ') == [4, 4, 4]
        && digits_between(value, " ").is_some_and(|digits| digits[0] > 1 && verhoeff(&digits) == 0)
}

/// Verhoeff's check of digits: 0 where the last one is right.
pub fn verhoeff(digits: &[u8]) -> u8 {
    const PERMUTED: [u8; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    // The dihedral group of a pentagon.
    let product = |left: u8, right: u8| match (left < 5, right < 5) {
        (true, true) => (left + right) % 5,
        (true, false) => 5 + (left + right - 5) % 5,
        (false, true) => 5 + (left + 5 - right) % 5,
        (false, false) => (left + 5 - right) % 5,
    };
    digits.iter().rev().enumerate().fold(0, |check, (place, &digit)| {
        let permuted = (0..place % 8).fold(digit, |digit, _| PERMUTED[usize::from(digit)]);
        product(check, permuted)
    })
}
