//! Rules about what may stand in one folder only: the names of an operating
//! system, SQL, HTTP and QMP. They hold for what is shipped, outside tests; lab,
//! bench, the whole-system tests and xtask are tools for Linux and say so.

use super::Finding;
use super::source::{Source, is_word, whole_words};
use super::tree::Tree;

/// Code that only one operating system understands.
const OS_CODE: &[&str] = &[
    "unsafe",
    "unsafe_code",
    "target_os",
    "target_family",
    "cfg(unix",
    "cfg(windows",
    "cfg(not(unix",
    "cfg(not(windows",
    "libc::",
    "nix::",
    "rustix::",
    "os::linux",
];

/// The standard library's words for one family of systems. A host is always
/// some Unix, so that its programs may use them; what runs in guests may not.
const OS_FAMILIES: &[&str] = &["os::unix", "os::windows"];

/// What runs in guests, or is spoken by it.
const IN_GUESTS: &[&str] = &["crates/guest-protocol/", "crates/infiniservice/"];

/// Paths that only one operating system has.
const OS_PATHS: &[&str] = &["/proc/", "/sys/"];

/// Statements, as they begin. Upper case, as SQL is written here.
const SQL: &[&str] = &[
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE FROM",
    "CREATE TABLE",
    "CREATE INDEX",
    "ALTER TABLE",
    "DROP TABLE",
    "PRAGMA",
    "BEGIN",
    "COMMIT",
];

/// `unsafe` and the names of an operating system outside `sys/`.
pub fn os_names(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in tree.shipped().filter(|source| !source.path.contains("/src/sys/")) {
        let mut report = |offset: usize, what: &str| {
            let message = format!("`{what}` belongs under sys/");
            found.push(Finding::at(&source.path, source.line_of(offset), message));
        };
        let in_guests = IN_GUESTS.iter().any(|folder| source.path.starts_with(folder));
        let families = OS_FAMILIES.iter().filter(|_| in_guests);
        for word in OS_CODE.iter().chain(families) {
            source.code_words(word).for_each(|offset| report(offset, word));
        }
        for literal in source.code_literals() {
            for path in OS_PATHS.iter().filter(|path| literal.text.starts_with(**path)) {
                report(literal.offset, path);
            }
        }
    }
    found
}

/// SQL outside the daemon's store.
pub fn sql(tree: &Tree) -> Vec<Finding> {
    outside(tree, "store", |source| {
        let statements = source.code_literals().filter_map(|literal| {
            let begins = |statement: &&str| whole_words(&literal.text, statement).next() == Some(0);
            Some((literal.offset, *SQL.iter().find(|statement| begins(statement))?))
        });
        statements.chain(words(source, &["rusqlite"])).collect()
    })
}

/// HTTP outside the daemon's api: a status code elsewhere would let a layer
/// below decide what a client sees.
pub fn http(tree: &Tree) -> Vec<Finding> {
    outside(tree, "api", |source| words(source, &["axum", "hyper", "http", "StatusCode"]).collect())
}

/// QMP outside the one hypervisor that speaks it.
pub fn qmp(tree: &Tree) -> Vec<Finding> {
    outside(tree, "hypervisor/qemu", |source| {
        let literals = source.code_literals();
        let literals = literals.filter(|literal| literal.text.contains("qmp_capabilities"));
        let names = ["qmp", "Qmp"].into_iter().flat_map(|prefix| {
            source.code.match_indices(prefix).map(|(offset, _)| offset).filter(|&offset| {
                let begins = !source.code[..offset].chars().next_back().is_some_and(is_word);
                begins && !source.is_test(offset)
            })
        });
        literals.map(|literal| literal.offset).chain(names).map(|offset| (offset, "QMP")).collect()
    })
}

/// Findings of `look` in the daemon's files outside one of its folders, where a
/// single file of that name counts as the folder.
fn outside<'a>(
    tree: &'a Tree,
    folder: &str,
    look: impl Fn(&'a Source) -> Vec<(usize, &'static str)>,
) -> Vec<Finding> {
    let (inside, file) = (format!("{folder}/"), format!("{folder}.rs"));
    let mut found = Vec::new();
    for source in tree.shipped() {
        let Some(path) = source.path.strip_prefix("crates/vmm-service/src/") else { continue };
        if path.starts_with(&inside) || path == file {
            continue;
        }
        for (offset, what) in look(source) {
            let message = format!("`{what}` belongs into {folder}/");
            found.push(Finding::at(&source.path, source.line_of(offset), message));
        }
    }
    found
}

fn words<'a>(
    source: &'a Source,
    words: &'static [&'static str],
) -> impl Iterator<Item = (usize, &'static str)> + 'a {
    words.iter().flat_map(|word| source.code_words(word).map(|offset| (offset, *word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rule: fn(&Tree) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&Tree::with(&[(path, text)])).len()
    }

    #[test]
    fn operating_systems_are_named_under_sys_only() {
        let found = |path, text| lines(os_names, path, text);
        assert_eq!(found("crates/a/src/b.rs", "#[cfg(target_os = \"linux\")]\nfn a() {}"), 1);
        assert_eq!(found("crates/a/src/b.rs", "use rustix::fs;"), 1);
        assert_eq!(found("crates/a/src/b.rs", "let a = \"/proc/stat\";"), 1);
        assert_eq!(found("crates/a/src/b.rs", "#![expect(unsafe_code)]\nunsafe { b() }"), 2);
        assert_eq!(found("crates/a/src/b.rs", "// unsafe in /proc/ and libc::\n"), 0);
        assert_eq!(found("crates/a/src/sys/linux/b.rs", "use rustix::fs;"), 0);
        assert_eq!(found("lab/src/b.rs", "use rustix::fs;"), 0);
        assert_eq!(found("crates/infiniservice/src/b.rs", "use std::os::unix::fs;"), 1);
        assert_eq!(found("crates/vmmctl/src/b.rs", "use std::os::unix::fs;"), 0);
        assert_eq!(found("crates/a/src/b.rs", "#[test]\nfn a() { rustix::fs() }"), 0);
    }

    #[test]
    fn sql_stands_in_the_store_only() {
        let text = "let a = \"SELECT 1\";";
        assert_eq!(lines(sql, "crates/vmm-service/src/vm/a.rs", text), 1);
        assert_eq!(lines(sql, "crates/vmm-service/src/store/a.rs", text), 0);
        assert_eq!(lines(sql, "crates/vmm-service/src/vm/a.rs", "let a = \"SELECTED\";"), 0);
        assert_eq!(lines(sql, "crates/vmm-service/src/vm/a.rs", "use rusqlite::A;"), 1);
    }

    #[test]
    fn http_stands_in_the_api_only() {
        let text = "use axum::http::StatusCode;";
        assert_eq!(lines(http, "crates/vmm-service/src/vm/a.rs", text), 3);
        assert_eq!(lines(http, "crates/vmm-service/src/api/a.rs", text), 0);
        assert_eq!(lines(http, "crates/vmm-service/src/vm/a.rs", "let https = 1;"), 0);
    }

    #[test]
    fn qmp_stands_in_its_hypervisor_only() {
        assert_eq!(lines(qmp, "crates/vmm-service/src/vm/a.rs", "use b::QmpClient;"), 1);
        assert_eq!(lines(qmp, "crates/vmm-service/src/vm/a.rs", "a(\"qmp_capabilities\")"), 1);
        assert_eq!(lines(qmp, "crates/vmm-service/src/hypervisor/qemu/a.rs", "mod qmp;"), 0);
    }
}
