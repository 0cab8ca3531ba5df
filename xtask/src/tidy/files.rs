//! Rules about files as such: how long, how they begin, what they are called.

use super::Finding;
use super::source::whole_words;
use super::tree::Tree;

/// Above this a file does two things. The projects of this field that stay easy
/// to read keep below it; functions are short everywhere, files are not.
const CEILING: usize = 600;

/// Names that say where a thing was put, and not what it is.
const EMPTY_NAMES: &[&str] = &["base", "common", "helper", "helpers", "misc", "util", "utils"];

/// Files with more lines than the ceiling, tests not counted.
pub fn ceiling(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in &tree.sources {
        let lines = source.test_lines.iter().filter(|&&is_test| !is_test).count();
        if lines > CEILING {
            let message = format!(
                "{lines} lines without tests, {CEILING} is the ceiling; which two things does it do?"
            );
            found.push(Finding::whole(&source.path, message));
        }
    }
    found
}

/// Rust files that do not say at their top what they are.
pub fn module_docs(tree: &Tree) -> Vec<Finding> {
    let says_nothing = |text: &str| {
        let first = text.lines().next().unwrap_or_default();
        !first.strip_prefix("//! ").is_some_and(|words| words.trim().contains(' '))
    };
    tree.sources
        .iter()
        .filter(|source| says_nothing(&source.text))
        .map(|source| {
            let message =
                "the first line must be `//!` and say what this is and why it is separate";
            Finding::at(&source.path, 0, message)
        })
        .collect()
}

/// Files, folders and inline modules with a name that means nothing.
pub fn names(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for path in &tree.paths {
        let empty = path
            .split('/')
            .map(|part| part.strip_suffix(".rs").unwrap_or(part))
            .find(|part| EMPTY_NAMES.contains(part));
        if let Some(name) = empty {
            let message = format!("`{name}` says nothing; name it by what it provides");
            found.push(Finding::whole(path, message));
        }
    }
    for source in &tree.sources {
        for name in EMPTY_NAMES {
            for offset in source.code_words(&format!("mod {name}")) {
                let rest = source.code[offset + "mod ".len() + name.len()..].trim_start();
                if rest.starts_with('{') {
                    let message = format!("`mod {name}` says nothing; name it by what it provides");
                    found.push(Finding::at(&source.path, source.line_of(offset), message));
                }
            }
        }
    }
    found
}

/// Space at the end of lines, tabs, carriage returns, and a last line without
/// its end, where people write by hand.
pub fn whitespace(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in &tree.texts {
        if !path.ends_with(".rs") && !path.ends_with(".toml") && !path.ends_with(".md") {
            continue;
        }
        for (number, line) in text.split('\n').enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                found.push(Finding::at(path, number, "white space at the end of the line"));
            } else if line.contains('\t') {
                found.push(Finding::at(path, number, "a tab; indent with spaces"));
            }
        }
        if !text.ends_with('\n') {
            found.push(Finding::whole(path, "the last line does not end"));
        } else if text.ends_with("\n\n") {
            found.push(Finding::whole(path, "empty lines at the end"));
        }
    }
    found
}

/// Marks of work that somebody meant to come back to.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    // Put together here, or this file would break its own rule.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let mut found = Vec::new();
    for (path, text) in &tree.texts {
        if path.starts_with("LICENSE") || path.ends_with(".lock") {
            continue;
        }
        for mark in marks {
            for offset in whole_words(text, mark) {
                let line = text[..offset].matches('\n').count();
                let message =
                    format!("{mark}: finish it, or open an issue and say here what is so");
                found.push(Finding::at(path, line, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_breaks_the_ceiling_and_its_tests_do_not_count() {
        let long = "fn a() {}\n".repeat(CEILING + 1);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        let tree = Tree::with(&[("a.rs", long.as_str()), ("b.rs", tested.as_str())]);
        let found = ceiling(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "a.rs");
    }

    #[test]
    fn a_file_that_says_nothing_about_itself_is_found() {
        let tree = Tree::with(&[
            ("a.rs", "//! What it is.\n"),
            ("b.rs", "// What it is.\n"),
            ("c.rs", "//!\n//! Late.\n"),
        ]);
        let found: Vec<String> = module_docs(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["b.rs", "c.rs"]);
    }

    #[test]
    fn empty_names_are_found_in_files_folders_and_inline_modules() {
        let tree = Tree::with(&[
            ("a/utils.rs", ""),
            ("b/common/mod.rs", ""),
            ("c.rs", "mod helpers {}\n"),
            ("basement.rs", "mod helpful {}\n"),
        ]);
        assert_eq!(names(&tree).len(), 3);
    }

    #[test]
    fn loose_white_space_is_found() {
        let tree = Tree::with(&[
            ("a.rs", "fn a() {} \n"),
            ("b.md", "text"),
            ("c.toml", "a = 1\r\n"),
            ("d.rs", "\tlet a;\n"),
            ("e.rs", "fn a() {}\n\n"),
            ("f.txt", "golden \n"),
        ]);
        assert_eq!(whitespace(&tree).len(), 5);
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        let text =
            format!("// {}: later\n// {}\n", concat!("TO", "DO"), concat!("METHO", "DOLOGY"));
        assert_eq!(unfinished(&Tree::with(&[("a.rs", &text)])).len(), 1);
    }
}
