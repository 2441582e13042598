//! Whether texts name one of many people: what somebody has written in words, and queries, of which strings, quoted names, comments
//! and numbers count, since their other words are SQL's. Linear in the text, whatever it has and however many people there are.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

/// A name of fewer characters stands in a text by chance: it counts only where it is all of a value.
const TELLING: usize = 4;

/// How often a value's escapes are read: as they stand, as a document's, and as those of documents in its strings.
const DOCUMENTS: usize = 4;

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names to look for.
#[derive(Default)]
struct Set {
    names: HashSet<String>,
    lengths: BTreeSet<usize>,
}

impl Set {
    fn insert(&mut self, name: String) {
        self.lengths.insert(name.len());
        self.names.insert(name);
    }

    /// Whether a text has one of the names, as a word or words of its own.
    fn is_in(&self, text: &str) -> bool {
        let mut before = None;
        text.char_indices().any(|(start, c)| {
            let begins = !before.is_some_and(is_of_word);
            before = Some(c);
            begins
                && self.lengths.iter().any(|length| {
                    text.get(start..start + length).is_some_and(|part| self.names.contains(part))
                        && !text[start + length..].chars().next().is_some_and(is_of_word)
                })
        })
    }
}

/// People to look for, by their ids.
#[derive(Default)]
pub struct Names {
    all: HashSet<String>,
    telling: Set,
    /// Those that are no word of SQL's, as an address is none.
    marked: Set,
}

impl Names {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut found = Self::default();
        for name in names {
            if name.chars().nth(TELLING - 1).is_some() {
                if !name.chars().all(is_of_word) {
                    found.marked.insert(name.clone());
                }
                found.telling.insert(name.clone());
            }
            found.all.insert(name);
        }
        found
    }

    /// Whether a text in somebody's words has one of them.
    pub fn are_in_text(&self, text: &str) -> bool {
        self.telling.is_in(text)
    }

    fn are_in_value(&self, value: &str) -> bool {
        let mut value = Cow::Borrowed(value);
        for _ in 0..DOCUMENTS {
            if self.all.contains(&*value) || self.telling.is_in(&value) {
                return true;
            }
            if !value.contains('\\') {
                return false;
            }
            // As JSON that the value may be, or have in a string.
            value = Cow::Owned(unescaped(&value, '\\', JSON));
        }
        false
    }

    /// Whether a query has one of them.
    pub fn are_in_query(&self, query: &str) -> bool {
        self.marked.is_in(query)
            || Literals { query, place: 0, between: Vec::new() }.any(|literal| match literal {
                Literal::Text(value) => self.are_in_value(&value),
                Literal::Number(digits) => self.telling.is_in(digits),
            })
    }

    /// Whether one of a query's parameters has one of them.
    pub fn are_in_parameters(&self, values: &[Option<String>]) -> bool {
        values.iter().flatten().any(|value| self.are_in_value(value))
    }
}

enum Literal<'a> {
    /// A string as it is meant, a quoted name, or a comment.
    Text(String),
    Number(&'a str),
}

/// The literals of a query that Postgres has taken; of another one, what ends nowhere ends with it.
struct Literals<'a> {
    query: &'a str,
    place: usize,
    /// Comments between the parts of a string.
    between: Vec<String>,
}

/// Escapes with a number that a string may have: what follows the backslash, how many digits at most and their radix, and whether they
/// are a byte or a character.
type Escapes = &'static [(&'static str, usize, u32, bool)];
/// Of `E'…'`.
const BACKSLASH: Escapes = &[("x", 2, 16, true), ("u", 4, 16, false), ("U", 8, 16, false), ("", 3, 8, true)];
/// Of `U&'…'`.
const UNICODE: Escapes = &[("+", 6, 16, false), ("", 4, 16, false)];
const JSON: Escapes = &[("u", 4, 16, false)];

impl<'a> Iterator for Literals<'a> {
    type Item = Literal<'a>;

    fn next(&mut self) -> Option<Literal<'a>> {
        loop {
            if let Some(comment) = self.between.pop() {
                return Some(Literal::Text(comment));
            }
            let rest = &self.query[self.place..];
            let first = rest.chars().next()?;
            match first {
                '\'' | '"' => return Some(Literal::Text(self.quoted(first, false))),
                '-' if rest.starts_with("--") => {
                    let end = rest.find('\n').unwrap_or(rest.len());
                    self.place += end;
                    return Some(Literal::Text(rest[2..end].trim().to_owned()));
                }
                '/' if rest.starts_with("/*") => {
                    return Some(Literal::Text(self.comment().trim().to_owned()));
                }
                '$' => match tag(rest) {
                    Some(tag) => {
                        let body = &rest[tag.len()..];
                        let end = body.find(tag).unwrap_or(body.len());
                        self.place += (end + 2 * tag.len()).min(rest.len());
                        return Some(Literal::Text(body[..end].to_owned()));
                    }
                    None => self.place += 1,
                },
                '0'..='9' => {
                    let end = rest.find(|c: char| !is_of_word(c) && c != '.').unwrap_or(rest.len());
                    self.place += end;
                    return Some(Literal::Number(&rest[..end]));
                }
                _ if is_of_word(first) => {
                    let end = rest.find(|c: char| !is_of_word(c) && c != '$').unwrap_or(rest.len());
                    self.place += end;
                    let (word, after) = rest.split_at(end);
                    if word.eq_ignore_ascii_case("e") && after.starts_with('\'') {
                        let text = self.quoted('\'', true);
                        return Some(Literal::Text(unescaped(&text, '\\', BACKSLASH)));
                    }
                    if word.eq_ignore_ascii_case("u") && (after.starts_with("&'") || after.starts_with("&\""))
                    {
                        self.place += 1;
                        let quote = if after.starts_with("&'") { '\'' } else { '"' };
                        let text = self.quoted(quote, false);
                        let escape = self.escape().unwrap_or('\\');
                        return Some(Literal::Text(unescaped(&text, escape, UNICODE)));
                    }
                }
                _ => self.place += first.len_utf8(),
            }
        }
    }
}

impl Literals<'_> {
    /// What stands between quotes; a quote within is doubled, or has a backslash, which stays, where that escapes. A string goes on in the next line.
    fn quoted(&mut self, quote: char, escapes: bool) -> String {
        let mut found = String::new();
        let mut rest = &self.query[self.place + 1..];
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c == '\\' && escapes {
                let escaped = rest.chars().next();
                found.push(c);
                found.extend(escaped);
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
                continue;
            }
            if c == quote {
                match rest.strip_prefix(quote) {
                    Some(after) => rest = after,
                    None => match self.continued(rest).filter(|_| quote == '\'') {
                        Some(after) => {
                            rest = after;
                            continue;
                        }
                        None => break,
                    },
                }
            }
            found.push(c);
        }
        self.place = self.query.len() - rest.len();
        found
    }

    /// What follows the quote with which a string goes on: between its parts is the end of a line, and nothing but white space and comments to the
    /// ends of lines.
    fn continued<'b>(&mut self, rest: &'b str) -> Option<&'b str> {
        let mut comments = Vec::new();
        let mut has_line_end = false;
        let mut left = rest;
        loop {
            let after = left.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
            has_line_end |= left[..left.len() - after.len()].contains(['\n', '\r']);
            if let Some(comment) = after.strip_prefix("--") {
                let end = comment.find(['\n', '\r'])?;
                comments.push(comment[..end].trim().to_owned());
                left = &comment[end..];
                continue;
            }
            let after = after.strip_prefix('\'').filter(|_| has_line_end)?;
            self.between.append(&mut comments);
            return Some(after);
        }
    }

    /// The character that begins escapes in the string before, where it says so: `UESCAPE '!'`.
    fn escape(&self) -> Option<char> {
        let mut ahead = Literals { query: self.query, place: self.place, between: Vec::new() };
        ahead.skip_blanks();
        let word = ahead.query.get(ahead.place..ahead.place + "uescape".len())?;
        if !word.eq_ignore_ascii_case("uescape") {
            return None;
        }
        ahead.place += word.len();
        ahead.skip_blanks();
        let mut escape = ahead.query[ahead.place..].strip_prefix('\'')?.chars();
        escape.next().filter(|_| escape.next() == Some('\''))
    }

    /// Goes on behind white space and comments.
    fn skip_blanks(&mut self) {
        loop {
            let rest = &self.query[self.place..];
            let after = rest.trim_start();
            self.place += rest.len() - after.len();
            if after.starts_with("--") {
                self.place += after.find(['\n', '\r']).unwrap_or(after.len());
            } else if after.starts_with("/*") {
                self.comment();
            } else {
                return;
            }
        }
    }

    /// A comment, which may have others in it.
    fn comment(&mut self) -> String {
        let rest = &self.query[self.place..];
        let (mut depth, mut end) = (0_usize, 0);
        while end < rest.len() {
            let left = &rest.as_bytes()[end..];
            if left.starts_with(b"/*") {
                depth += 1;
                end += 2;
            } else if left.starts_with(b"*/") {
                depth -= 1;
                end += 2;
                if depth == 0 {
                    break;
                }
            } else {
                end += 1;
            }
        }
        self.place += end;
        rest[..end].trim_matches(['/', '*']).to_owned()
    }
}

/// A text without its escapes.
fn unescaped(text: &str, escape: char, escapes: Escapes) -> String {
    let mut found = Unescaped::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == escape {
            rest = found.read(rest, escapes);
        } else {
            found.push(c);
        }
    }
    found.end();
    String::from_utf8_lossy(&found.bytes).into_owned()
}

/// What is read of a text with escapes, byte by byte.
#[derive(Default)]
struct Unescaped {
    bytes: Vec<u8>,
    /// The first half of a character that is written as two.
    half: Option<u32>,
}

impl Unescaped {
    fn end(&mut self) {
        if self.half.take().is_some() {
            self.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn push(&mut self, c: char) {
        self.end();
        self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn push_code(&mut self, code: u32) {
        match (self.half.take(), code) {
            (Some(half), 0xdc00..=0xdfff) => {
                let whole = 0x10000 + ((half - 0xd800) << 10) + (code - 0xdc00);
                self.push(char::from_u32(whole).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (half, _) => {
                self.half = half;
                self.end();
                match code {
                    0xd800..=0xdbff => self.half = Some(code),
                    _ => self.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    /// Reads what follows the beginning of an escape; what is left of the text.
    fn read<'a>(&mut self, rest: &'a str, escapes: Escapes) -> &'a str {
        for &(marker, most, radix, is_byte) in escapes {
            let Some(after) = rest.strip_prefix(marker) else { continue };
            let digits = after.chars().take(most).take_while(|c| c.is_digit(radix)).count();
            let Ok(number) = u32::from_str_radix(&after[..digits], radix) else { continue };
            if is_byte {
                self.end();
                self.bytes.push(number as u8);
            } else {
                self.push_code(number);
            }
            return &after[digits..];
        }
        let Some(c) = rest.chars().next() else { return rest };
        self.push(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            other => other,
        });
        &rest[c.len_utf8()..]
    }
}

/// The tag that a dollar-quoted string begins with.
fn tag(rest: &str) -> Option<&str> {
    let end = 1 + rest[1..].find('$')?;
    let name = &rest[1..end];
    (name.chars().all(is_of_word) && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| &rest[..=end])
}
