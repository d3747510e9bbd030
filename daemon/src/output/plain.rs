//! Text from outside (notes, names, comments) on a terminal: shown, never obeyed.

/// `text` in one line: what a terminal would obey (control characters, and those that turn the direction of writing)
/// is written as `\u{1b}`.
pub(crate) fn plain(text: &str) -> String {
    escape(text, |_| false)
}

/// Like [`plain`], for a text whose lines are ours.
pub(crate) fn plain_lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, is_ours: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if !is_ours(c) && is_obeyed(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note with an escape sequence in it coloured the terminal of whoever listed it.
    #[test]
    fn nothing_is_obeyed() {
        assert_eq!(plain("a\u{1b}[31m\n\tü…\u{9b}1m\u{202e}"), "a\\u{1b}[31m\\n\\tü…\\u{9b}1m\\u{202e}");
        assert_eq!(plain_lines("a\nb\r\n"), "a\nb\\r\n");
    }
}
