//! Foreign words on a terminal: what an image, a registry or a container wrote is shown, and not
//! obeyed.
//!
//! Every text that this program prints for people goes through here, so that nobody has to know
//! which of its words are foreign. What a container itself prints, and its log, are passed on as
//! they are: they are what was asked for.

use std::borrow::Cow;

use crate::known_bad::left_out;

/// What a terminal or a reader could be misled by: C0, DEL and C1 controls, marks that change the
/// direction of text (CVE-2021-42574), and separators that break lines for some programs only.
fn misleads(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As it can be shown, with its line ends and tabs. The escapes are JSON's, so a text that is JSON
/// means the same afterwards.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| misleads(letter) && !matches!(letter, '\n' | '\t'))
}

/// As it can be shown in one line, or in one cell of a table.
pub(crate) fn in_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, misleads)
}

fn escaped(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escapes) || left_out("words-escaped") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '\n' if escapes(letter) => shown.push_str("\\n"),
            '\t' if escapes(letter) => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            letter if escapes(letter) => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_shown_and_not_obeyed() {
        for (text, shown, in_line) in [
            ("plain ä € \u{1f600}", "plain ä € \u{1f600}", "plain ä € \u{1f600}"),
            ("\x1b[2J\u{9b}31m\x7f\r", "\\u001b[2J\\u009b31m\\u007f\\r", ""),
            ("a\n\tb", "a\n\tb", "a\\n\\tb"),
            ("\u{202e}x\u{2066}\u{200f}\u{61c}", "\\u202ex\\u2066\\u200f\\u061c", ""),
            ("\0\u{8}", "\\u0000\\u0008", ""),
        ] {
            assert_eq!(visible(text), shown);
            assert_eq!(in_one_line(text), if in_line.is_empty() { shown } else { in_line });
        }
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({ "a\u{9b}": "\x1b\u{202e}\x7f\n" });
        let text = visible(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
        assert!(!text.contains(['\u{9b}', '\u{202e}', '\x7f']));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
