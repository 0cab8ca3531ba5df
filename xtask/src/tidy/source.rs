//! A Rust file as the rules see it: code without comments and literals, the
//! literals by line, and which lines are tests. It is a scanner, no parser: the
//! rules ask for words and places, never for meaning.

/// A Rust file.
pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    /// As it stands.
    pub text: String,
    /// The text with every comment and every literal blanked; offsets and line
    /// breaks stay where they were.
    pub code: String,
    /// String literals with the offset of their first character.
    pub literals: Vec<Literal>,
    /// Whether line `n` (from 0) belongs to tests.
    pub test_lines: Vec<bool>,
}

/// A string literal.
pub struct Literal {
    /// Where its content begins, in bytes.
    pub offset: usize,
    /// Its content, escapes not resolved.
    pub text: String,
}

impl Source {
    /// Scans one file.
    pub fn new(path: &str, text: &str) -> Self {
        let (code, literals) = blank(text);
        let test_lines = test_lines(path, text, &code);
        Self { path: path.to_owned(), text: text.to_owned(), code, literals, test_lines }
    }

    /// The line of an offset, from 0.
    pub fn line_of(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count()
    }

    /// Whether an offset lies in a test.
    pub fn is_test(&self, offset: usize) -> bool {
        self.test_lines.get(self.line_of(offset)).copied().unwrap_or(false)
    }

    /// Declares the whole file a test: it was declared behind `#[cfg(test)]`.
    pub fn mark_as_test(&mut self) {
        self.test_lines.fill(true);
    }

    /// Where `word` stands in the code outside tests, as a whole word: the
    /// characters beside it continue no name.
    pub fn code_words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        whole_words(&self.code, word).filter(|&offset| !self.is_test(offset))
    }

    /// String literals outside tests.
    pub fn code_literals(&self) -> impl Iterator<Item = &Literal> {
        self.literals.iter().filter(|literal| !self.is_test(literal.offset))
    }

    /// Modules declared behind `#[cfg(test)]` without a body: their names.
    pub fn test_modules(&self) -> Vec<String> {
        let mut names = Vec::new();
        for offset in whole_words(&self.code, "mod") {
            let rest = self.code[offset + "mod".len()..].trim_start();
            let name: String = rest.chars().take_while(|&c| is_word(c)).collect();
            if self.is_test(offset) && rest[name.len()..].trim_start().starts_with(';') {
                names.push(name);
            }
        }
        names
    }
}

/// Offsets of `word` where the characters beside it continue no name.
pub fn whole_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let first = word.chars().next().is_some_and(is_word);
    let last = word.chars().next_back().is_some_and(is_word);
    text.match_indices(word).map(|(offset, _)| offset).filter(move |&offset| {
        let before = text[..offset].chars().next_back().is_some_and(is_word);
        let after = text[offset + word.len()..].chars().next().is_some_and(is_word);
        !(first && before || last && after)
    })
}

/// Whether a character can be part of a name.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The offset behind the bracket that closes the one at `open`, in blanked code.
pub fn behind_closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The text with comments and literals blanked, and the string literals.
fn blank(text: &str) -> (String, Vec<Literal>) {
    let mut code = text.as_bytes().to_vec();
    let mut literals = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let previous_is_word = text[..at].chars().next_back().is_some_and(is_word);
        let token = if rest.starts_with("//") {
            Token::blank(rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            Token::blank(block_comment(rest))
        } else if let Some(token) = string(rest, previous_is_word) {
            token
        } else if let Some(length) = character(rest) {
            Token::blank(length)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if let Some((from, to)) = token.content {
            let text = text[at + from..at + to].to_owned();
            literals.push(Literal { offset: at + from, text });
        }
        for byte in &mut code[at..at + token.length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += token.length;
    }
    (String::from_utf8(code).expect("whole characters were replaced by spaces"), literals)
}

/// Something that is not code: its length, and where its content lies if it is
/// a string.
struct Token {
    length: usize,
    content: Option<(usize, usize)>,
}

impl Token {
    fn blank(length: usize) -> Self {
        Self { length, content: None }
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A string of any kind at the start of `rest`: `"…"`, `r#"…"#`, `b"…"`, `c"…"`.
fn string(rest: &str, previous_is_word: bool) -> Option<Token> {
    let prefix = rest.len() - rest.trim_start_matches(['r', 'b', 'c']).len();
    if prefix > 2 || (prefix > 0 && previous_is_word) {
        return None;
    }
    let raw = rest[..prefix].contains('r');
    let hashes = rest[prefix..].len() - rest[prefix..].trim_start_matches('#').len();
    if hashes > 0 && !raw {
        return None;
    }
    let from = prefix + hashes + 1;
    if !rest[prefix + hashes..].starts_with('"') {
        return None;
    }
    let to = if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        rest[from..].find(&end).map_or(rest.len(), |at| from + at)
    } else {
        closing_quote(rest, from)
    };
    let length = (to + 1 + hashes).min(rest.len());
    Some(Token { length, content: Some((from, to)) })
}

fn closing_quote(rest: &str, from: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(from) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal at the start of `rest`, which a lifetime is not.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        // The escaped character itself may be a quote.
        let skipped = escape.chars().next()?.len_utf8();
        return Some(2 + skipped + escape[skipped..].find('\'')? + 1);
    }
    let length = inner.chars().next()?.len_utf8();
    inner[length..].starts_with('\'').then_some(length + 2)
}

/// Which lines are tests: all of a file in a folder or of a name that is for
/// tests, and every item behind `#[cfg(test)]`.
fn test_lines(path: &str, text: &str, code: &str) -> Vec<bool> {
    let is_test_file = path.ends_with("/tests.rs")
        || path.split('/').any(|folder| matches!(folder, "tests" | "benches" | "fuzz"))
        || code.contains("#![cfg(test)]");
    let mut lines = vec![is_test_file; text.lines().count().max(1)];
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        for (start, _) in code.match_indices(attribute) {
            let end = behind_item(code, behind_closing(code, start + 1));
            let first = text[..start].matches('\n').count();
            let last = text[..end].matches('\n').count();
            let last = last.min(lines.len() - 1);
            lines[first..=last].fill(true);
        }
    }
    lines
}

/// The offset behind the item at `at`: behind its body, or behind its semicolon.
fn behind_item(code: &str, mut at: usize) -> usize {
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'(' | b'[' => at = behind_closing(code, at),
            b'{' => return behind_closing(code, at),
            b';' => return at + 1,
            _ => at += 1,
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_keep_their_places() {
        let source =
            Source::new("a.rs", "let a = \"x // y\"; // z\nlet b = '\"'; /* c /* d */ */ e");
        assert_eq!(source.code.lines().next(), Some("let a =         ;     "));
        assert!(source.code.ends_with(" e"));
        assert!(!source.code.contains('c') && !source.code.contains('"'));
        assert_eq!(source.code.len(), source.text.len());
        assert_eq!(source.literals[0].text, "x // y");
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        let source = Source::new("a.rs", "let a = r#\"say \"x\" \"#; unsafe");
        assert_eq!(source.literals[0].text, "say \"x\" ");
        assert_eq!(source.code_words("unsafe").count(), 1);
    }

    #[test]
    fn lifetimes_are_no_literals() {
        let source = Source::new("a.rs", "fn a<'a>(b: &'a str) -> char { '\\'' } fn unwrap() {}");
        assert_eq!(source.code_words("unwrap").count(), 1);
        assert!(source.code.contains("&'a str"));
    }

    #[test]
    fn names_that_contain_a_word_are_not_that_word() {
        let source = Source::new("a.rs", "unsafe_code my_unsafe unsafe");
        assert_eq!(source.code_words("unsafe").count(), 1);
    }

    #[test]
    fn items_behind_cfg_test_are_tests() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        assert_eq!(Source::new("a.rs", text).test_lines, [false, true, true, true, true, false]);
    }

    #[test]
    fn a_test_module_without_a_body_is_named() {
        let text = "mod a;\n#[cfg(test)]\nmod contract;\nmod b;\n";
        assert_eq!(Source::new("store/mod.rs", text).test_modules(), ["contract"]);
    }
}
