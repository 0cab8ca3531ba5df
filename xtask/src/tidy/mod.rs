//! `cargo xtask tidy`: the house rules as code. Each rule is one function over
//! the whole tree with a test that shows it firing; STYLE.md gives its reason.
//! The same rules run as an ordinary test, so that `cargo test` finds them too.

mod code;
mod direction;
mod documents;
mod exceptions;
mod files;
mod manifests;
mod places;
mod source;
mod style;
mod tree;

use std::fmt;

use anyhow::{Result, bail};

use self::tree::Tree;
use crate::workspace;

/// The house rules of STYLE.md that no lint of the compiler knows
#[derive(clap::Args)]
pub struct Args {}

/// A rule of the house.
struct Rule {
    /// As STYLE.md names it: `[tidy: id]`.
    id: &'static str,
    /// Everything in the tree that breaks it.
    check: fn(&Tree) -> Vec<Finding>,
}

/// One place that breaks a rule.
struct Finding {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    /// What is wrong there, and what to do.
    message: String,
}

impl Finding {
    /// About a line, counted from 0 as [`source::Source`] counts.
    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: line + 1, message: message.into() }
    }

    /// About a whole file.
    fn whole(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: 0, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// All rules, in the order of STYLE.md.
const RULES: &[Rule] = &[
    Rule { id: "file-ceiling", check: files::ceiling },
    Rule { id: "module-docs", check: files::module_docs },
    Rule { id: "file-names", check: files::names },
    Rule { id: "whitespace", check: files::whitespace },
    Rule { id: "unfinished", check: files::unfinished },
    Rule { id: "crate-direction", check: direction::crates },
    Rule { id: "folder-direction", check: direction::folders },
    Rule { id: "os-names", check: places::os_names },
    Rule { id: "sql", check: places::sql },
    Rule { id: "http", check: places::http },
    Rule { id: "qmp", check: places::qmp },
    Rule { id: "owned-tasks", check: code::owned_tasks },
    Rule { id: "own-level", check: code::own_level },
    Rule { id: "expect-reason", check: code::expect_reason },
    Rule { id: "default-reason", check: code::default_reason },
    Rule { id: "nothing-unused", check: code::nothing_unused },
    Rule { id: "no-ignored-test", check: code::no_ignored_test },
    Rule { id: "example-config", check: documents::example_config },
    Rule { id: "links", check: documents::links },
    Rule { id: "code-map", check: documents::code_map },
    Rule { id: "named-tests", check: documents::named_tests },
    Rule { id: "shared-lints", check: manifests::shared_lints },
    Rule { id: "shared-versions", check: manifests::shared_versions },
    Rule { id: "used-dependency", check: manifests::used_dependency },
    Rule { id: "style-index", check: style::index },
];

/// Prints every finding and fails if there is one.
pub fn run(_args: &Args) -> Result<()> {
    let found = findings(&Tree::read(&workspace::root())?);
    for line in &found {
        println!("{line}");
    }
    match found.len() {
        0 => {
            println!("{} house rules, and no place that breaks one.", RULES.len());
            Ok(())
        }
        1 => bail!("1 place breaks a house rule; STYLE.md gives its reason"),
        n => bail!("{n} places break house rules; STYLE.md gives their reasons"),
    }
}

/// What breaks the rules and is no exception, one line each.
fn findings(tree: &Tree) -> Vec<String> {
    let mut lines = exceptions::useless(tree);
    for rule in RULES {
        for finding in (rule.check)(tree) {
            if !exceptions::covers(rule.id, &finding.path) {
                lines.push(format!("{finding} [tidy: {}]", rule.id));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_id() {
        let mut ids: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), RULES.len());
    }

    #[test]
    fn a_finding_names_its_place_and_its_rule() {
        let found = findings(&Tree::with(&[("lab/src/util.rs", "//! Things.\n")]));
        let line = found.iter().find(|line| line.contains("file-names")).unwrap();
        assert!(line.starts_with("lab/src/util.rs: "), "{line}");
        assert!(line.ends_with("[tidy: file-names]"), "{line}");
    }

    #[test]
    fn the_tree_keeps_the_house_rules() {
        let found = findings(&Tree::read(&workspace::root()).unwrap());
        assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    }
}
