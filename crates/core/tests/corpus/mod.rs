//! Seeded JSON objects of every shape that matters to the encoder, spelt in every way JSON allows, and times.
#![allow(dead_code)]

/// Generates the same objects for the same seed.
pub struct Corpus {
    state: u64,
}

impl Corpus {
    /// Starts a sequence of objects.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Returns the text of one object.
    pub fn object(&mut self) -> String {
        let mut out = String::new();
        let size = match self.below(12) {
            0 => 0,
            1 => 30 + self.below(10),
            2 => 60 + self.below(70),
            _ => 1 + self.below(6),
        };
        self.members(size, 0, &mut out);
        out
    }

    /// Returns a time between the years 2 and 9998, most often one that exists. Fractions have at most 6 digits
    /// or 9 that are not half a microsecond, where rounding by floating point may differ.
    pub fn time(&mut self) -> String {
        let slip = self.below(40) == 0;
        let range = |c: &mut Self, low: u64, high: u64| low + c.below(high + 1 - low + u64::from(slip));
        let (year, month, day) =
            (2 + self.below(9997), range(self, 1, 12), range(self, 1, 28 + u64::from(slip) * 4));
        let (hour, minute, second) = (range(self, 0, 23), range(self, 0, 59), range(self, 0, 60));
        let mut out = format!("{year:04}-{month:02}-{day:02}");
        out.push(['T', ' '][self.below(2) as usize]);
        out.push_str(&format!("{hour:02}:{minute:02}:{second:02}"));
        match self.below(3) {
            0 => {
                let digits = 1 + self.below(6) as usize;
                out.push_str(&format!(".{:06}", self.below(1_000_000))[..digits + 1]);
            }
            1 => out.push_str(&format!(".{:06}{:03}", self.below(1_000_000), self.below(490))),
            _ => {}
        }
        let (hours, minutes) = (self.below(16), self.below(60));
        out.push_str(&match self.below(4) {
            0 => "Z".into(),
            1 => format!("+{hours:02}"),
            2 => format!("-{hours:02}{minutes:02}"),
            _ => format!("+{hours:02}:{minutes:02}"),
        });
        out
    }

    fn space(&mut self, out: &mut String) {
        if self.below(4) == 0 {
            out.push_str([" ", "\n", "\t", "\r", "  "][self.below(5) as usize]);
        }
    }

    fn members(&mut self, size: u64, depth: u64, out: &mut String) {
        out.push('{');
        self.space(out);
        let mut keys = Vec::new();
        for _ in 0..size {
            let key = self.text();
            if keys.contains(&key) {
                continue;
            }
            if !keys.is_empty() {
                out.push(',');
            }
            self.space(out);
            self.quoted(&key, out);
            self.space(out);
            out.push(':');
            self.space(out);
            self.value(depth + 1, size > 20, out);
            self.space(out);
            keys.push(key);
        }
        out.push('}');
    }

    fn value(&mut self, depth: u64, small: bool, out: &mut String) {
        let kinds = if depth > 4 || small { 7 } else { 9 };
        match self.below(kinds) {
            0 => out.push_str("null"),
            1 => out.push_str("true"),
            2 => out.push_str("false"),
            3 | 4 => self.number(out),
            5 | 6 => {
                let text = self.text();
                self.quoted(&text, out);
            }
            7 => {
                let size = if self.below(10) == 0 { 70 } else { self.below(5) };
                out.push('[');
                for i in 0..size {
                    if i > 0 {
                        out.push(',');
                    }
                    self.space(out);
                    self.value(depth + 1, size > 20, out);
                    self.space(out);
                }
                out.push(']');
            }
            _ => {
                let size = self.below(5);
                self.members(size, depth + 1, out);
            }
        }
    }

    /// Writes a number: small, large, scaled, exponential, near every border of the stored form.
    fn number(&mut self, out: &mut String) {
        if self.below(3) == 0 {
            out.push('-');
        }
        let digits = |c: &mut Self, n: u64| -> String {
            (0..n).map(|_| if c.below(3) == 0 { '0' } else { char::from(b'0' + c.below(10) as u8) }).collect()
        };
        let whole = match self.below(6) {
            0 => "0".into(),
            1 => self.below(10).to_string(),
            2 => self.below(100_000).to_string(),
            3 => format!("{}{}", 1 + self.below(9), "0".repeat(self.below(20) as usize)),
            4 => {
                let n = self.below(12);
                format!("{}{}", 1 + self.below(9), digits(self, n))
            }
            _ => {
                let n = self.below(90);
                format!("{}{}", 1 + self.below(9), digits(self, n))
            }
        };
        out.push_str(&whole);
        if self.below(2) == 0 {
            let n = match self.below(4) {
                0 => 1,
                1 => 60 + self.below(8),
                _ => 1 + self.below(9),
            };
            out.push('.');
            let zeros = if self.below(3) == 0 { n - 1 } else { 0 };
            out.push_str(&"0".repeat(zeros as usize));
            out.push_str(&digits(self, n - zeros));
        }
        if self.below(3) == 0 {
            out.push_str(["e", "E"][self.below(2) as usize]);
            out.push_str(["", "+", "-"][self.below(3) as usize]);
            let exponent = if self.below(8) == 0 { self.below(300) } else { self.below(20) };
            out.push_str(&exponent.to_string());
        }
    }

    fn text(&mut self) -> String {
        let len = match self.below(10) {
            0 => 0,
            1 => 20 + self.below(60),
            _ => 1 + self.below(9),
        };
        (0..len)
            .map(|_| match self.below(12) {
                0 => char::from_u32(0x80 + self.below(0x700) as u32).unwrap_or('é'),
                1 => char::from_u32(0x1_F300 + self.below(0x200) as u32).unwrap_or('😀'),
                2 => char::from(1 + self.below(0x7F) as u8),
                3 => ['"', '\\', '/', '\n', '\u{7f}', '\u{2028}', '漢', '\u{ffff}'][self.below(8) as usize],
                _ => char::from(b'a' + self.below(26) as u8),
            })
            .collect()
    }

    /// Writes a string, choosing among the spellings of each character.
    fn quoted(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            let short = match c {
                '"' => Some('"'),
                '\\' => Some('\\'),
                '/' => Some('/'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                _ => None,
            };
            let must = c < ' ' || c == '"' || c == '\\';
            match short {
                Some(s) if must || self.below(2) == 0 => {
                    out.push('\\');
                    out.push(s);
                }
                _ if must || self.below(10) == 0 => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        if self.below(2) == 0 {
                            out.push_str(&format!("\\u{unit:04x}"));
                        } else {
                            out.push_str(&format!("\\u{unit:04X}"));
                        }
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}
