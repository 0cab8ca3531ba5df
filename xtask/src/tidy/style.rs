//! The rule about the rules: STYLE.md names exactly what is checked. A rule that
//! nobody checks is not followed, and a check that nobody explains is not
//! understood.

use std::collections::BTreeSet;

use super::tree::Tree;
use super::{Finding, RULES};

const STYLE: &str = "STYLE.md";

/// Ids in STYLE.md without a check, and checks without a word in STYLE.md.
pub fn index(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.texts.get(STYLE) else {
        return vec![Finding::whole(STYLE, "there is none")];
    };
    let checked = checked(tree);
    let mut explained = BTreeSet::new();
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let ids = ids(line);
        if line.starts_with("- ") && rule_text(text, number).is_none() {
            found.push(Finding::at(
                STYLE,
                number,
                "this rule names no check; add one or delete it",
            ));
        }
        for id in ids {
            if !checked.contains(&id) {
                let message =
                    format!("`{id}` is no check; see RULES in xtask and [workspace.lints]");
                found.push(Finding::at(STYLE, number, message));
            }
            explained.insert(id);
        }
    }
    for id in checked.difference(&explained) {
        found.push(Finding::whole(STYLE, format!("`{id}` is checked, but no rule explains it")));
    }
    found
}

/// The text of the rule that begins at this line, if it names a check.
fn rule_text(text: &str, first: usize) -> Option<String> {
    let rule: Vec<&str> = text
        .lines()
        .skip(first)
        .enumerate()
        .take_while(|(n, line)| *n == 0 || line.starts_with("  "))
        .map(|(_, line)| line)
        .collect();
    let rule = rule.join("\n");
    (!ids(&rule).is_empty()).then_some(rule)
}

/// Every `[checker: name]` in a text.
fn ids(text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for (offset, _) in text.match_indices('[') {
        let Some(end) = text[offset..].find(']') else { continue };
        let inside = &text[offset + 1..offset + end];
        let checker = inside.split(": ").next().unwrap_or_default();
        if inside.contains(": ") && matches!(checker, "tidy" | "clippy" | "rustc" | "deny") {
            ids.push(inside.to_owned());
        }
    }
    ids
}

/// What really is checked: the rules here, the workspace's lints, and the
/// sections of deny.toml.
fn checked(tree: &Tree) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = RULES.iter().map(|rule| format!("tidy: {}", rule.id)).collect();
    let table = |path: &str| tree.texts.get(path).and_then(|text| text.parse::<toml::Table>().ok());
    let root = table("Cargo.toml");
    let lints = root.as_ref().and_then(|root| root.get("workspace")?.get("lints"));
    for (section, checker) in [("rust", "rustc"), ("clippy", "clippy")] {
        let names = lints.and_then(|lints| lints.get(section)?.as_table());
        let names = names.into_iter().flat_map(toml::Table::keys);
        ids.extend(names.map(|name| format!("{checker}: {name}")));
    }
    let deny = table("deny.toml").unwrap_or_default();
    let sections =
        deny.keys().filter(|name| matches!(name.as_str(), "bans" | "licenses" | "sources"));
    ids.extend(sections.map(|name| format!("deny: {name}")));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(style: &str, cargo: &str) -> Vec<String> {
        let all: String = RULES.iter().map(|rule| format!("[tidy: {}]\n", rule.id)).collect();
        let style = format!("{style}\n{all}");
        let tree = Tree::with(&[(STYLE, &style), ("Cargo.toml", cargo)]);
        index(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn every_check_is_explained_and_every_rule_is_checked() {
        let lints = "[workspace.lints.clippy]\nunwrap_used = \"warn\"\n";
        assert!(findings("- Text. [clippy: unwrap_used]", lints).is_empty());
        assert_eq!(findings("", lints).len(), 1);
        assert_eq!(findings("- Text. [clippy: unwrap_used]", "").len(), 1);
        assert_eq!(findings("- Text.\n  [tidy: no-such-rule]", "").len(), 1);
    }

    #[test]
    fn a_rule_without_a_check_is_found() {
        assert_eq!(findings("- Be elegant.", "").len(), 1);
        assert!(findings("- Be\n  short. [tidy: file-ceiling]", "").is_empty());
    }

    #[test]
    fn a_tree_without_the_guide_is_found() {
        assert_eq!(index(&Tree::with(&[])).len(), 1);
    }
}
