//! The one door through which text that a guest could have written reaches a
//! terminal.
//!
//! A host name may hold escape sequences that retitle the window, move the
//! cursor or paste keys; a bidi override may show one name as another. All of
//! it becomes visible text of ordinary characters, of bounded length.

use std::fmt::Write as _;

/// The longest text that is shown, in characters. Twice the width of a very
/// wide terminal; what is longer is an attack or an accident.
pub(crate) const MAX_CHARS: usize = 512;

/// How many characters that take no room of their own may follow each other.
/// Written languages need two; more would pile up over the neighbouring lines.
const MAX_COMBINING: usize = 2;

/// `text` with everything that is not an ordinary printable character turned
/// into a visible escape (`\x1b`, `\u{202e}`), and at most `max_chars` long,
/// `…` included.
pub(crate) fn sanitize(text: &str, max_chars: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max_chars));
    let mut length = 0;
    let mut combining = 0;
    // Where the text ends if an ellipsis has to be added.
    let mut cut = 0;
    for character in text.chars() {
        let width = unicode_width::UnicodeWidthChar::width(character);
        combining = if width == Some(0) { combining + 1 } else { 0 };
        let start = clean.len();
        if is_ordinary(character) && combining <= MAX_COMBINING {
            clean.push(character);
        } else {
            escape(&mut clean, character);
        }
        length += clean[start..].chars().count();
        if length > max_chars {
            clean.truncate(cut);
            if max_chars > 0 {
                clean.push('…');
            }
            return clean;
        }
        if length < max_chars {
            cut = clean.len();
        }
    }
    clean
}

/// Removes colour sequences (`ESC [ … m`), and nothing else: a console log is
/// full of them, and what remains still goes through [`sanitize`].
pub(crate) fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(start);
        plain.push_str(before);
        let parameters = &sequence[2..];
        let end = parameters.find(|c: char| !(c.is_ascii_digit() || c == ';'));
        rest = match end {
            Some(end) if parameters[end..].starts_with('m') => &parameters[end + 1..],
            _ => {
                plain.push_str("\x1b[");
                parameters
            }
        };
    }
    plain.push_str(rest);
    plain
}

/// The same JSON with every character that would act on a terminal in its
/// strings written as `\u` and four digits.
pub(crate) fn visible_json(json: &str) -> String {
    let mut visible = String::with_capacity(json.len());
    for character in json.chars() {
        // Between the strings of a document there is no other than the line
        // feeds and spaces of its layout.
        if character == '\n' || is_ordinary(character) {
            visible.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(visible, "\\u{unit:04x}").expect("a String takes all");
        }
    }
    visible
}

fn is_ordinary(character: char) -> bool {
    !character.is_control() && !is_invisible(character)
}

/// Characters that change how others are shown, or show nothing at all: bidi
/// marks, embeddings, overrides and isolates, separators of lines, zero-width
/// spaces and joiners, fillers, annotations, tags and variation selectors, and
/// private use, which fonts draw as they like.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{10ffff}'
    )
}

fn escape(clean: &mut String, character: char) {
    let code = u32::from(character);
    match character {
        '\n' => clean.push_str("\\n"),
        '\r' => clean.push_str("\\r"),
        '\t' => clean.push_str("\\t"),
        _ if code < 0x100 => write!(clean, "\\x{code:02x}").expect("a String takes all"),
        _ => write!(clean, "\\u{{{code:x}}}").expect("a String takes all"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_ordinary_text_alone() {
        for text in ["", "web-1", "Débian 12 (bookworm)", "日本語", "C:\\Users", "naïve e\u{301}"]
        {
            assert_eq!(sanitize(text, MAX_CHARS), text);
        }
    }

    #[test]
    fn shows_escapes_and_overrides() {
        assert_eq!(sanitize("a\x1b[2Jb\x07\n", 99), "a\\x1b[2Jb\\x07\\n");
        assert_eq!(sanitize("\u{9b}31m", 99), "\\x9b31m");
        assert_eq!(sanitize("gpj.\u{202e}exe", 99), "gpj.\\u{202e}exe");
    }

    #[test]
    fn bounds_piles_of_combining_characters() {
        let pile = format!("a{}", "\u{301}".repeat(3));
        assert_eq!(sanitize(&pile, 99), "a\u{301}\u{301}\\u{301}");
    }

    #[test]
    fn cuts_with_an_ellipsis_and_never_inside_an_escape() {
        assert_eq!(sanitize("abcdef", 6), "abcdef");
        assert_eq!(sanitize("abcdefg", 6), "abcde…");
        assert_eq!(sanitize("abcd\x1b", 6), "abcd…");
        assert_eq!(sanitize("abc", 0), "");
    }

    #[test]
    fn removes_colours_only() {
        assert_eq!(without_colours("[\x1b[0;32m  OK  \x1b[0m]"), "[  OK  ]");
        assert_eq!(without_colours("\x1b[2J\x1b]0;x\x07\x1b["), "\x1b[2J\x1b]0;x\x07\x1b[");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_on_a_terminal_comes_through(
            text in "(\\PC|\\pC|\\PM|\\pM|[\u{0}-\u{9f}]|[\u{2000}-\u{2070}]){0,64}",
            max in 0usize..80,
        ) {
            let clean = sanitize(&text, max);
            prop_assert!(clean.chars().count() <= max);
            prop_assert!(clean.chars().all(is_ordinary), "{:?}", clean);
        }

        #[test]
        fn any_bytes_are_tamed(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let clean = sanitize(&String::from_utf8_lossy(&bytes), MAX_CHARS);
            prop_assert!(!clean.chars().any(char::is_control));
        }

        #[test]
        fn clean_text_stays_as_it_is(text in "\\PC{0,64}", max in 0usize..80) {
            let once = sanitize(&text, max);
            prop_assert_eq!(sanitize(&once, max), once);
        }

        #[test]
        fn json_stays_the_same_json(text in "(\\PC|\\pC|\\pM|[\u{0}-\u{9f}]){0,32}") {
            let json = serde_json::to_string_pretty(&vec![&text]).unwrap();
            let visible = visible_json(&json);
            prop_assert!(visible.chars().all(|c| c == '\n' || is_ordinary(c)));
            let back: Vec<String> = serde_json::from_str(&visible).unwrap();
            prop_assert_eq!(&back[0], &text);
        }

        #[test]
        fn removing_colours_adds_no_sequence(text in "[\x1b\\[0-9;mJa]{0,64}") {
            let plain = without_colours(&text);
            prop_assert!(plain.len() <= text.len());
            prop_assert!(!sanitize(&plain, MAX_CHARS).contains('\x1b'));
        }
    }
}
