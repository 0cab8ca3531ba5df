//! Rules about single lines of code that no lint of the compiler has.

use super::Finding;
use super::source::{Source, behind_closing, is_word};
use super::tree::Tree;

/// Calls that start something which runs on by itself.
const SPAWNS: &[&str] = &["tokio::spawn(", "task::spawn(", "spawn_blocking(", "thread::spawn("];

/// Tasks and threads whose handle is thrown away where they are started.
pub fn owned_tasks(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        for call in SPAWNS {
            for (offset, _) in source.code.match_indices(call) {
                if !source.is_test(offset) && is_thrown_away(source, offset, call) {
                    let message = "nobody owns this task; keep its handle and await it";
                    found.push(Finding::at(&source.path, source.line_of(offset), message));
                }
            }
        }
    }
    found
}

/// Whether a call is a statement of its own, or is assigned to nothing.
fn is_thrown_away(source: &Source, offset: usize, call: &str) -> bool {
    let path = source.code[..offset].trim_end_matches(|c: char| c.is_alphanumeric() || c == ':');
    let before = path.trim_end();
    if before.ends_with("let _ =") || before.ends_with("drop(") {
        return true;
    }
    let begins = before.is_empty() || before.ends_with([';', '{', '}']);
    let end = behind_closing(&source.code, offset + call.len() - 1);
    begins && source.code[end..].trim_start().starts_with(';')
}

/// Errors that print their cause in their own message: whoever prints the chain
/// prints it twice.
pub fn own_level(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        for (offset, _) in source.code.match_indices("#[error(") {
            let end = behind_closing(&source.code, offset + "#[error".len());
            let message = &source.text[offset..end];
            // What the attribute stands on: a variant or a struct, up to its end.
            let item = &source.code[end..behind_fields(&source.code, end)];
            let numbered = cause_index(item).is_some_and(|n| message.contains(&format!("{{{n}")));
            if message.contains("{source") || numbered {
                let message = "the message repeats its cause; say only what this level knows";
                found.push(Finding::at(&source.path, source.line_of(offset), message));
            }
        }
    }
    found
}

/// Which field of a tuple is the cause, if one is.
fn cause_index(item: &str) -> Option<usize> {
    let open = item.find(['(', '{', ';', ','])?;
    let fields = item[open..].strip_prefix('(')?;
    let mark = ["#[from]", "#[source]"].iter().find_map(|mark| fields.find(mark))?;
    let mut index = 0;
    let mut at = 0;
    while at < mark {
        match fields.as_bytes()[at] {
            b'(' | b'[' | b'{' => at = behind_closing(fields, at),
            byte => {
                index += usize::from(byte == b',');
                at += 1;
            }
        }
    }
    Some(index)
}

/// The offset behind the fields of the variant or struct at `at`.
fn behind_fields(code: &str, mut at: usize) -> usize {
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'[' => at = behind_closing(code, at),
            b'(' | b'{' => return behind_closing(code, at),
            b',' | b'}' | b';' => return at,
            _ => at += 1,
        }
    }
    code.len()
}

/// `expect` with less than a reason in it.
pub fn expect_reason(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        for literal in source.code_literals() {
            let before = source.code[..literal.offset - 1].trim_end();
            if before.ends_with(".expect(") && literal.text.split_whitespace().count() < 3 {
                let message = "say in `expect` why this cannot fail";
                found.push(Finding::at(&source.path, source.line_of(literal.offset), message));
            }
        }
    }
    found
}

/// Default values without a comment that says why this one.
pub fn default_reason(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        let lines: Vec<&str> = source.text.lines().collect();
        for (offset, _) in source.code.match_indices("const DEFAULT_") {
            let line = source.line_of(offset);
            let above = lines[..line].last().map_or("", |above| above.trim_start());
            if !source.is_test(offset) && !above.starts_with("//") {
                let message = "say above this default why it is this value";
                found.push(Finding::at(&source.path, line, message));
            }
        }
    }
    found
}

/// Lints about unused things that were switched off.
pub fn nothing_unused(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        for start in ["allow(", "expect("] {
            for (offset, _) in source.code.match_indices(start) {
                let end = behind_closing(&source.code, offset + start.len() - 1);
                let inside = &source.code[offset..end];
                // Clippy's lints of such names are about something else.
                let unused = inside.split(|c| !is_word(c) && c != ':').any(|lint| {
                    lint == "dead_code" || lint == "unused" || lint.starts_with("unused_")
                });
                let is_attribute = source.code[..offset].trim_end().ends_with(['[', ',']);
                if is_attribute && unused && !source.is_test(offset) {
                    let message = "delete what nothing uses; history belongs to git";
                    found.push(Finding::at(&source.path, source.line_of(offset), message));
                }
            }
        }
    }
    found
}

/// Tests that never run.
pub fn no_ignored_test(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        for (offset, _) in source.code.match_indices("#[ignore") {
            let message = "a test that never runs proves nothing; make it run or delete it";
            found.push(Finding::at(&source.path, source.line_of(offset), message));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Tree) -> Vec<Finding>, text: &str) -> usize {
        rule(&Tree::with(&[("a.rs", text)])).len()
    }

    #[test]
    fn a_task_without_an_owner_is_found() {
        assert_eq!(found(owned_tasks, "fn a() { tokio::spawn(async { b(); }); }"), 1);
        assert_eq!(found(owned_tasks, "fn a() { c();\n std::thread::spawn(|| b()); }"), 1);
        assert_eq!(found(owned_tasks, "fn a() { let _ = tokio::spawn(b()); }"), 1);
        assert_eq!(found(owned_tasks, "fn a() { let task = tokio::spawn(b()); }"), 0);
        assert_eq!(found(owned_tasks, "fn a() -> C { tokio::spawn(b()) }"), 0);
        assert_eq!(found(owned_tasks, "fn a() { tasks.push(tokio::spawn(b())); }"), 0);
        assert_eq!(found(owned_tasks, "fn a() { tokio::task::spawn_blocking(b).await; }"), 0);
    }

    #[test]
    fn an_error_that_repeats_its_cause_is_found() {
        assert_eq!(found(own_level, "enum E { #[error(\"a: {0}\")] A(#[from] B) }"), 1);
        assert_eq!(found(own_level, "enum E { #[error(\"a: {source}\")] A { source: B } }"), 1);
        assert_eq!(found(own_level, "enum E { #[error(\"a {0}\")] A(u8), C(#[from] B) }"), 0);
        assert_eq!(found(own_level, "enum E { #[error(\"a {0}\")] A(u8, #[source] B) }"), 0);
        assert_eq!(found(own_level, "enum E { #[error(\"a {1}\")] A(u8, #[source] B) }"), 1);
        assert_eq!(found(own_level, "enum E { #[error(\"a\")] A(#[source] B) }"), 0);
        assert_eq!(found(own_level, "#[error(\"a {0}\")] struct A(u8);"), 0);
    }

    #[test]
    fn an_expect_without_a_reason_is_found() {
        assert_eq!(found(expect_reason, "fn a() { b.expect(\"b\"); }"), 1);
        assert_eq!(found(expect_reason, "fn a() { b.expect(\"b was checked above\"); }"), 0);
        assert_eq!(found(expect_reason, "fn a() { b.expect(\n    \"no\",\n); }"), 1);
    }

    #[test]
    fn a_default_without_a_reason_is_found() {
        assert_eq!(found(default_reason, "const DEFAULT_A: u8 = 1;\n"), 1);
        assert_eq!(found(default_reason, "/// Why.\npub const DEFAULT_A: u8 = 1;\n"), 0);
    }

    #[test]
    fn what_is_kept_unused_is_found() {
        assert_eq!(found(nothing_unused, "#[allow(dead_code)]\nfn a() {}"), 1);
        assert_eq!(found(nothing_unused, "#![expect(unused_imports, reason = \"b\")]"), 1);
        assert_eq!(found(nothing_unused, "#[cfg_attr(b, allow(unused))]\nfn a() {}"), 1);
        assert_eq!(found(nothing_unused, "fn a() { b.expect(unused); }"), 0);
        assert_eq!(found(nothing_unused, "#[expect(clippy::unused_self)]\nfn a() {}"), 0);
    }

    #[test]
    fn a_test_that_never_runs_is_found() {
        assert_eq!(found(no_ignored_test, "#[test]\n#[ignore = \"slow\"]\nfn a() {}"), 1);
    }
}
