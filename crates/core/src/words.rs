//! What somebody wrote: whether anybody can read it.

/// How many characters of a text show something: neither white space nor what takes no place or is never drawn.
pub fn visible(text: &str) -> usize {
    text.chars().filter(|&c| !c.is_whitespace() && !c.is_control() && !is_blank(c)).count()
}

/// Characters that are no white space to Unicode and show nothing: its default ignorable code points, marks that join or direct others, and
/// those that are drawn empty.
fn is_blank(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}'
        | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_show_something_are_counted() {
        for (text, count) in [
            ("", 0),
            (" \t\n\r\u{b}\u{c}\u{85}\u{a0}\u{2007}\u{2028}\u{202f}\u{3000}", 0),
            ("\u{200b}\u{200d}\u{feff}\u{ad}\u{2060}\u{202e}\u{2800}\u{3164}\u{fe0f}\u{e0020}\u{0}\u{7f}", 0),
            ("case 4711", 8),
            ("\u{6848}\u{4ef6}\n4711", 6),
            ("e\u{301}", 2),
        ] {
            assert_eq!(visible(text), count, "{text:?}");
        }
    }
}
