//! Where a rule does not hold, and why: the only way round one. An entry that
//! covers nothing is itself a finding.

use super::RULES;
use super::tree::Tree;

/// One file that one rule does not cover.
struct Exception {
    rule: &'static str,
    path: &'static str,
    /// Why the rule would make this file worse.
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

/// Whether a finding of this rule in this file is an exception.
pub fn covers(rule: &str, path: &str) -> bool {
    EXCEPTIONS.iter().any(|exception| exception.rule == rule && exception.path == path)
}

/// Entries that excuse nothing, or give no reason.
pub fn useless(tree: &Tree) -> Vec<String> {
    EXCEPTIONS
        .iter()
        .filter(|exception| exception.reason.is_empty() || !excuses(exception, tree))
        .map(|exception| {
            format!(
                "xtask/src/tidy/exceptions.rs: the entry for {} and {} excuses nothing; delete it",
                exception.rule, exception.path
            )
        })
        .collect()
}

fn excuses(exception: &Exception, tree: &Tree) -> bool {
    RULES
        .iter()
        .filter(|rule| rule.id == exception.rule)
        .any(|rule| (rule.check)(tree).iter().any(|finding| finding.path == exception.path))
}
