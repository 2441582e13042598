//! Precision and recall of finding personal data, on 2,000 labelled values made from a seed: identifiers with right check digits,
//! made here by their own rules, and what applications send besides.

use tally_core::personal::{Kind, kind_of};

const EACH: usize = 1_000;

/// Xorshift, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    fn letters(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'A' + self.below(26) as u8)).collect()
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn hexadecimal(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from_digit(self.below(16) as u32, 16).unwrap()).collect()
    }
}

fn luhn_digit(digits: &str) -> u32 {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            if place % 2 == 1 { digit } else { [0, 2, 4, 6, 8, 1, 3, 5, 7, 9][digit as usize] }
        })
        .sum();
    (10 - sum % 10) % 10
}

fn grouped(digits: &str, sizes: &[usize], mark: &str) -> String {
    let mut rest = digits;
    let mut parts = Vec::new();
    for &size in sizes {
        let (part, behind) = rest.split_at(size.min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts.join(mark)
}

fn name(random: &mut Random) -> String {
    let first =
        random.of(&["anna", "Ben", "chloé", "dmitri", "Eva", "Fatima", "goran", "hiro", "Ines", "joão"]);
    let last = random.of(&["smith", "Müller", "garcía", "Nguyen", "o'brien", "Kowalski", "rossi", "lee"]);
    let mark = random.of(&[".", "_", "", "-", "+"]);
    format!("{first}{mark}{last}{}", random.below(100))
}

fn email(random: &mut Random) -> String {
    let name = name(random);
    let host = random.of(&[
        "example.com",
        "mail.example.co.uk",
        "firma.de",
        "gmail.com",
        "uni-köln.de",
        "a-b.io",
        "corp.example.museum",
    ]);
    match random.below(8) {
        0 => format!("{name} <{name}@{host}>"),
        1 => format!("please write to {name}@{host}."),
        2 => format!("mailto:{name}@{host}"),
        3 => format!("{name}@{host}").to_uppercase(),
        _ => format!("{name}@{host}"),
    }
}

fn phone(random: &mut Random) -> String {
    let area = 200 + random.below(800);
    let exchange = 200 + random.below(800);
    let line = random.digits(4);
    match random.below(9) {
        0 => format!("+1{area}{exchange}{line}"),
        1 => format!("+1 ({area}) {exchange}-{line}"),
        2 => format!("({area}) {exchange}-{line}"),
        3 => format!("{area}-{exchange}-{line}"),
        4 => format!("+49 {} {}", 151 + random.below(20), random.digits(8)),
        5 => format!("0{}/{}", 171 + random.below(9), random.digits(7)),
        6 => format!("+44 20 {} {}", random.digits(4), random.digits(4)),
        7 => format!("06 {}", grouped(&random.digits(8), &[2, 2, 2, 2], " ")),
        _ => format!("+91-{}{}", 6 + random.below(4), random.digits(9)),
    }
}

fn card(random: &mut Random) -> String {
    let (start, length, sizes): (&str, usize, &[usize]) = match random.below(5) {
        0 => ("4", 16, &[4, 4, 4, 4]),
        1 => ("53", 16, &[4, 4, 4, 4]),
        2 => ("37", 15, &[4, 6, 5]),
        3 => ("6011", 16, &[4, 4, 4, 4]),
        _ => ("2300", 16, &[4, 4, 4, 4]),
    };
    let body = format!("{start}{}", random.digits(length - 1 - start.len()));
    let number = format!("{body}{}", luhn_digit(&body));
    match random.below(4) {
        0 => grouped(&number, sizes, " "),
        1 => grouped(&number, sizes, "-"),
        2 => format!("card {number}"),
        _ => number,
    }
}

fn ip(random: &mut Random) -> String {
    match random.below(4) {
        0 => (0..8).map(|_| random.hexadecimal(4)).collect::<Vec<_>>().join(":"),
        1 => format!("2001:db8::{}:{}", random.hexadecimal(3), random.hexadecimal(4)),
        _ => format!(
            "{}.{}.{}.{}",
            1 + random.below(223),
            random.below(256),
            random.below(256),
            random.below(256)
        ),
    }
}

fn iban(random: &mut Random) -> String {
    let (country, length) = [("DE", 18), ("FR", 23), ("ES", 20), ("NL", 14)][random.below(4) as usize];
    let account = if country == "NL" { format!("ABNA{}", random.digits(10)) } else { random.digits(length) };
    let rest = format!("{account}{country}00").chars().fold(0_u64, |rest, c| {
        let value = u64::from(c.to_digit(36).unwrap());
        if value > 9 { (rest * 100 + value) % 97 } else { (rest * 10 + value) % 97 }
    });
    let iban = format!("{country}{:02}{account}", 98 - rest);
    if random.below(2) == 0 { grouped(&iban, &[4; 9][..iban.len().div_ceil(4)], " ") } else { iban }
}

fn date(random: &mut Random) -> (u64, u64, u64) {
    (40 + random.below(60), 1 + random.below(12), 1 + random.below(28))
}

fn national_id(random: &mut Random) -> String {
    let (year, month, day) = date(random);
    match random.below(10) {
        0 => {
            format!("{:03}-{:02}-{:04}", 1 + random.below(600), 1 + random.below(99), 1 + random.below(9_999))
        }
        1 => {
            let form = format!("AB{}{}", random.digits(6), random.of(&["A", "B", "C", "D"]));
            if random.below(2) == 0 { form } else { grouped(&form, &[2, 2, 2, 2, 1], " ") }
        }
        2 => {
            let number = random.below(100_000_000);
            let letter = b"TRWAGMYFPDXBNJZSQVHLCKE"[(number % 23) as usize];
            format!("{number:08}{}", char::from(letter))
        }
        3 => {
            let number = random.below(10_000_000);
            let letter = b"TRWAGMYFPDXBNJZSQVHLCKE"[((10_000_000 + number) % 23) as usize];
            format!("Y{number:07}{}", char::from(letter))
        }
        4 => codice_fiscale(random),
        5 => {
            let body = format!(
                "{}{year:02}{month:02}{:02}{}",
                1 + random.below(2),
                1 + random.below(95),
                random.digits(6)
            );
            let check = 97 - body.parse::<u64>().unwrap() % 97;
            format!("{body}{check:02}")
        }
        6 => steuer_id(random),
        7 => {
            let body = format!("{year:02}{month:02}{day:02}{}", random.digits(3));
            format!("{}-{}{}", &body[..6], &body[6..], luhn_digit(&body))
        }
        8 => {
            let body = format!("{day:02}{month:02}{year:02}{:03}", 2 + random.below(898));
            let rest = body.parse::<u64>().unwrap() % 31;
            let check = char::from(b"0123456789ABCDEFHJKLMNPRSTUVWXY"[rest as usize]);
            format!("{}-{}{check}", &body[..6], &body[6..])
        }
        _ => {
            let body: Vec<u64> = (0..9).map(|_| random.below(10)).collect();
            let check = |digits: &[u64]| {
                let weight = digits.len() as u64 + 1;
                let sum: u64 = digits.iter().zip(0..).map(|(digit, place)| digit * (weight - place)).sum();
                match sum % 11 {
                    0 | 1 => 0,
                    rest => 11 - rest,
                }
            };
            let first = check(&body);
            let second = check(&[&body[..], &[first]].concat());
            let text: String = body.iter().map(u64::to_string).collect();
            format!("{}-{first}{second}", grouped(&text, &[3, 3, 3], "."))
        }
    }
}

/// The table of odd places, as the decree of 1976 prints it.
fn codice_fiscale(random: &mut Random) -> String {
    let body = format!(
        "{}{}{}{}{}{}",
        random.letters(6),
        random.digits(2),
        random.of(&["A", "B", "C", "D", "E", "H", "L", "M", "P", "R", "S", "T"]),
        random.digits(2),
        random.letters(1),
        random.digits(3)
    );
    let odd = |c: char| match c {
        '0' | 'A' => 1,
        '1' | 'B' => 0,
        '2' | 'C' => 5,
        '3' | 'D' => 7,
        '4' | 'E' => 9,
        '5' | 'F' => 13,
        '6' | 'G' => 15,
        '7' | 'H' => 17,
        '8' | 'I' => 19,
        '9' | 'J' => 21,
        'K' => 2,
        'L' => 4,
        'M' => 18,
        'N' => 20,
        'O' => 11,
        'P' => 3,
        'Q' => 6,
        'R' => 8,
        'S' => 12,
        'T' => 14,
        'U' => 16,
        'V' => 10,
        'W' => 22,
        'X' => 25,
        'Y' => 24,
        _ => 23,
    };
    let even = |c: char| c.to_digit(10).unwrap_or_else(|| u32::from(c) - u32::from('A'));
    let sum: u32 =
        body.chars().zip(1..).map(|(c, place)| if place % 2 == 1 { odd(c) } else { even(c) }).sum();
    format!("{body}{}", char::from(b'A' + (sum % 26) as u8))
}

fn steuer_id(random: &mut Random) -> String {
    // Nine different digits, one of them twice.
    let mut digits: Vec<u64> = (0..10).collect();
    for place in (1..10).rev() {
        digits.swap(place, random.below(place as u64 + 1) as usize);
    }
    let twice = random.below(9) as usize;
    digits[9] = digits[twice];
    if digits[0] == 0 {
        digits.swap(0, 5);
    }
    let product = digits.iter().fold(10, |product, digit| {
        let sum = (digit + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    let check = (11 - product) % 10;
    digits.iter().chain([&check]).map(u64::to_string).collect()
}

/// What is no personal data and often looks like it.
fn harmless(random: &mut Random) -> String {
    let (year, month, day) = date(random);
    match random.below(24) {
        0 => { let count = 8 + random.below(5) as usize; random.digits(count) }
        1 => format!("ORD-20{}-{}", 10 + random.below(16), random.digits(6)),
        2 => random.digits(16),
        3 => format!("{}", 1_500_000_000 + random.below(300_000_000)),
        4 => format!("{}", 1_500_000_000_000 + random.below(300_000_000_000)),
        5 => format!("20{:02}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", year % 30, random.below(24), random.below(60), random.below(60)),
        6 => format!("{}.{}.{}", random.below(30), random.below(30), random.below(100)),
        7 => format!("{}.{}.{}.{}", random.below(9), random.below(20), random.below(30), random.below(30)),
        8 => format!("v{}.{}.{}-rc{}", random.below(9), random.below(20), random.below(30), random.below(9)),
        9 => format!("10.0.{}.{}", 10_000 + random.below(20_000), 300 + random.below(4_000)),
        10 => format!("{}-{}-{}-{}-{}", random.hexadecimal(8), random.hexadecimal(4), random.hexadecimal(4), random.hexadecimal(4), random.hexadecimal(12)),
        11 => format!("{},{}.{}", 1 + random.below(99), random.digits(3), random.digits(2)),
        12 => format!("€ {}.{}", random.below(5_000), random.digits(2)),
        13 => random.hexadecimal(40),
        14 => format!("https://shop.example.com/products/{}?page={}", random.digits(7), random.below(50)),
        15 => format!("{day:02}.{month:02}.20{:02}", year % 30),
        16 => format!("{:02}:{:02}:{:02}", random.below(24), random.below(60), random.below(60)),
        17 => format!("{}-{}", random.letters(3), random.digits(5)),
        18 => format!("{}.{},{}.{}", random.below(89), random.digits(4), random.below(179), random.digits(4)),
        19 => random.of(&["enterprise", "checkout step 3", "dark mode", "@news", "campaign_2026_q1", "true", "n/a", "feature.search", "C++ 17", "1st place", "50 %"]).to_owned(),
        20 => "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36".to_owned(),
        21 => (0..6).map(|_| random.hexadecimal(2)).collect::<Vec<_>>().join(":"),
        22 => format!("{}", random.below(100_000)),
        _ => format!("size {} x {} cm, {} items", random.below(200), random.below(200), random.below(2_000)),
    }
}

#[test]
fn precision_and_recall_are_95_per_cent_at_least() {
    for seed in [1, 20_261_126, 0xDEAD_BEEF] {
        let mut random = Random(seed);
        let (mut right, mut missed, mut wrong) = (0, Vec::new(), Vec::new());
        for n in 0..EACH {
            let (kind, value) = match n % 20 {
                0..5 => (Kind::Email, email(&mut random)),
                5..9 => (Kind::Phone, phone(&mut random)),
                9..12 => (Kind::Card, card(&mut random)),
                12..15 => (Kind::IpAddress, ip(&mut random)),
                15 => (Kind::BankAccount, iban(&mut random)),
                _ => (Kind::NationalId, national_id(&mut random)),
            };
            match kind_of(&value) {
                Some(found) if found == kind => right += 1,
                found => {
                    missed.push((kind, value.clone()));
                    wrong.extend(found.map(|found| (found, value)));
                }
            }
        }
        for _ in 0..EACH {
            let value = harmless(&mut random);
            wrong.extend(kind_of(&value).map(|kind| (kind, value)));
        }
        let precision = right as f64 / (right + wrong.len()) as f64;
        let recall = right as f64 / EACH as f64;
        println!("seed {seed}: precision {precision:.4}, recall {recall:.4}");
        assert!(
            precision >= 0.95 && recall >= 0.95,
            "seed {seed}: precision {precision:.4}, recall {recall:.4}; missed {missed:?}; wrong {wrong:?}"
        );
    }
}

#[test]
fn known_values_are_what_they_are() {
    // Published test numbers and examples.
    for (value, kind) in [
        ("4111 1111 1111 1111", Kind::Card),
        ("378282246310005", Kind::Card),
        ("GB82 WEST 1234 5698 7654 32", Kind::BankAccount),
        ("RSSMRA85T10A562S", Kind::NationalId),
        ("811218-9876", Kind::NationalId),
        ("131052-308T", Kind::NationalId),
        ("12345678Z", Kind::NationalId),
        ("529.982.247-25", Kind::NationalId),
        ("86095742719", Kind::NationalId),
        ("::ffff:192.0.2.1", Kind::IpAddress),
        ("jürgen@uni-köln.de", Kind::Email),
        ("+14155552671", Kind::Phone),
    ] {
        assert_eq!(kind_of(value), Some(kind), "{value}");
    }
    for value in [
        "",
        "4111 1111 1111 1112",
        "0.0.0.0",
        "::1",
        "a@b",
        "@",
        "@@",
        "1.2.3.4",
        "--",
        "+",
        "()",
        "0",
        "\u{0}",
        "１２３４５６７８",
    ] {
        assert_eq!(kind_of(value), None, "{value}");
    }
}

#[test]
fn any_text_is_read() {
    let mut random = Random(5);
    let marks: Vec<char> = "0123456789+-./:@ ()XYZabcé€\u{0}\"'".chars().collect();
    for _ in 0..20_000 {
        let length = random.below(24);
        let text: String = (0..length).map(|_| marks[random.below(marks.len() as u64) as usize]).collect();
        kind_of(&text);
    }
    kind_of(&"é".repeat(5_000));
    for short in ["tel:0", "((0))", "tel:", "+", "0 "] {
        assert_eq!(kind_of(short), None, "{short}");
    }
}
