//! All files of the project, read once: every rule looks at the same tree, and a
//! rule's own test gives it a small one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::source::Source;

/// The project's files, by their paths from the root with forward slashes.
pub struct Tree {
    /// Text files.
    pub texts: BTreeMap<String, String>,
    /// Every file, also those that are no text.
    pub paths: BTreeSet<String>,
    /// The Rust files, scanned.
    pub sources: Vec<Source>,
}

impl Tree {
    /// Reads what git knows or would take: rules for what is built or ignored
    /// would be rules for somebody else's files.
    pub fn read(root: &Path) -> Result<Self> {
        // Whoever runs this may not be whom the checkout belongs to, as in
        // `sudo cargo xtask test`; listing files executes nothing of it.
        let listed = Command::new("git")
            .args(["-c", "safe.directory=*", "ls-files", "-z"])
            .args(["--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot run git, which knows the project's files")?;
        if !listed.status.success() {
            bail!(
                "git cannot list the project's files: {}",
                String::from_utf8_lossy(&listed.stderr).trim()
            );
        }
        let mut files = Vec::new();
        for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
            // A file that was deleted and not yet committed is still listed.
            if root.join(path).is_file() {
                let bytes = std::fs::read(root.join(path)).with_context(|| path.to_owned())?;
                files.push((path.to_owned(), bytes));
            }
        }
        Ok(Self::of(files))
    }

    /// A tree of these files.
    fn of(files: Vec<(String, Vec<u8>)>) -> Self {
        let paths: BTreeSet<String> = files.iter().map(|(path, _)| path.clone()).collect();
        let texts: BTreeMap<String, String> = files
            .into_iter()
            .filter_map(|(path, bytes)| Some((path, String::from_utf8(bytes).ok()?)))
            .collect();
        let mut sources: Vec<Source> = texts
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| Source::new(path, text))
            .collect();
        mark_test_modules(&mut sources);
        Self { texts, paths, sources }
    }

    /// A small tree for a rule's own test.
    #[cfg(test)]
    pub fn with(files: &[(&str, &str)]) -> Self {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Self::of(files.iter().map(|(path, text)| ((*path).to_owned(), bytes(text))).collect())
    }

    /// Rust files of what is shipped: `crates/*/src`.
    pub fn shipped(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| {
            source.path.starts_with("crates/") && source.path.split('/').nth(2) == Some("src")
        })
    }

    /// Whether a file or folder is there.
    pub fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        path.is_empty()
            || self.paths.contains(path)
            || self.paths.range(folder.clone()..).next().is_some_and(|p| p.starts_with(&folder))
    }
}

/// Files that belong to a module declared behind `#[cfg(test)]` are tests.
fn mark_test_modules(sources: &mut [Source]) {
    let mut modules = Vec::new();
    for source in sources.iter() {
        let folder = module_folder(&source.path);
        modules.extend(source.test_modules().into_iter().map(|name| format!("{folder}/{name}")));
    }
    for source in sources {
        let is_test = |module: &String| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        };
        if modules.iter().any(is_test) {
            source.mark_as_test();
        }
    }
}

/// Where the modules that a file declares lie.
fn module_folder(path: &str) -> &str {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder,
        _ => path.trim_end_matches(".rs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_exist_by_their_files() {
        let tree = Tree::with(&[("docs/host.md", "")]);
        assert!(tree.exists("docs") && tree.exists("docs/") && tree.exists("docs/host.md"));
        assert!(!tree.exists("doc") && !tree.exists("docs/agent.md"));
    }

    #[test]
    fn a_file_declared_behind_cfg_test_is_a_test() {
        let tree = Tree::with(&[
            ("a/store/mod.rs", "#[cfg(test)]\nmod contract;\n"),
            ("a/store/contract.rs", "fn a() {}\n"),
            ("a/store/memory.rs", "fn a() {}\n"),
        ]);
        let tests: Vec<bool> = tree.sources.iter().map(|source| source.test_lines[0]).collect();
        assert_eq!(tests, [true, false, true]);
    }
}
