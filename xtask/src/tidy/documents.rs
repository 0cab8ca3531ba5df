//! Rules about what is written for people: links lead somewhere, the code map is
//! true, every example configuration is read by a test, and every lesson's test is
//! there.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::Tree;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const LESSONS: &str = "docs/lessons.md";

/// Example configurations that no test names: nothing would notice if a program
/// stopped to accept one.
pub fn example_config(tree: &Tree) -> Vec<Finding> {
    let tests: Vec<&str> = tree
        .sources
        .iter()
        .flat_map(|source| {
            let lines = source.text.lines().zip(&source.test_lines);
            lines.filter_map(|(line, is_test)| is_test.then_some(line))
        })
        .collect();
    let mut found = Vec::new();
    for path in tree.paths.iter().filter(|path| path.starts_with("config/")) {
        if !tests.iter().any(|line| line.contains(path.as_str())) {
            let message = "no test reads this example; parse it in the tests of its program";
            found.push(Finding::whole(path, message));
        }
    }
    found
}

/// Tests that docs/lessons.md names and that are not there: a lesson whose test
/// was renamed or deleted would go on looking learnt. A test is written as its
/// file's name, `::` and its own.
pub fn named_tests(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.texts.get(LESSONS) else {
        return vec![Finding::whole(LESSONS, "there is none")];
    };
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for token in line.split('`').skip(1).step_by(2) {
            let Some((file, test)) = token.rsplit_once("::") else { continue };
            if !has_function(tree, file, test) {
                let message = format!("there is no test {test} in a file {file}.rs");
                found.push(Finding::at(LESSONS, number, message));
            }
        }
    }
    found
}

/// Links in Markdown to files or headings that are not there.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in prose(text) {
            for link in targets(line) {
                if !leads_somewhere(tree, path, folder, link) {
                    let message = format!("the link to {link} leads nowhere");
                    found.push(Finding::at(path, number, message));
                }
            }
        }
    }
    found
}

/// Paths in ARCHITECTURE.md that do not exist, and folders of the source that
/// its code map does not name.
pub fn code_map(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.texts.get(ARCHITECTURE) else {
        return vec![Finding::whole(ARCHITECTURE, "there is none")];
    };
    let mut found = Vec::new();
    let mut named = BTreeSet::new();
    let mut place = Place::default();
    for (number, line) in prose(text) {
        place.enter(line);
        for token in paths_in(line) {
            let candidates = place.candidates(token);
            match candidates.into_iter().find(|path| tree.exists(path)) {
                Some(path) => {
                    if token.ends_with('/') {
                        place.folders.push(path.clone());
                    }
                    named.insert(path);
                }
                None if place.in_map || !ends_a_path(tree, token) => {
                    found.push(Finding::at(ARCHITECTURE, number, format!("there is no {token}")));
                }
                None => {}
            }
        }
    }
    for folder in folders_to_name(tree) {
        // A folder beside the file of its module is that module.
        if !named.contains(&folder) && !named.contains(&format!("{folder}.rs")) {
            let message = format!("the code map does not name {folder}/");
            found.push(Finding::whole(ARCHITECTURE, message));
        }
    }
    found
}

/// Where in the code map a line stands: paths are written relative to the crate
/// of the heading, and to the folders that their entry names before them.
#[derive(Default)]
struct Place {
    in_map: bool,
    krate: String,
    folders: Vec<String>,
}

impl Place {
    fn enter(&mut self, line: &str) {
        if let Some(heading) = line.strip_prefix("## ") {
            *self = Self { in_map: heading == "Code map", ..Self::default() };
        } else if let Some(heading) = line.strip_prefix("### ") {
            let krate = paths_in(heading).first().copied().unwrap_or_default();
            krate.trim_end_matches('/').clone_into(&mut self.krate);
            self.folders.clear();
        } else if line.starts_with("- ") {
            self.folders.clear();
        }
    }

    /// Everything that a path may mean here, nearest first.
    fn candidates(&self, token: &str) -> Vec<String> {
        let token = token.trim_end_matches('/');
        let mut candidates = Vec::new();
        for base in self.folders.iter().rev().chain([&self.krate]) {
            candidates.extend([format!("{base}/{token}"), format!("{base}/src/{token}")]);
        }
        candidates.push(token.to_owned());
        candidates
    }
}

/// Folders that a reader must find in the code map: every crate, and the top
/// folders in the source of what is shipped.
fn folders_to_name(tree: &Tree) -> BTreeSet<String> {
    let mut folders = BTreeSet::new();
    for path in tree.paths.iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let is_fuzz = path.split('/').any(|part| part == "fuzz");
        if !is_fuzz {
            folders.insert(path.trim_end_matches("/Cargo.toml").to_owned());
        }
    }
    for source in tree.shipped() {
        let parts: Vec<&str> = source.path.split('/').collect();
        if parts.len() > 4 {
            folders.insert(parts[..4].join("/"));
        }
    }
    folders
}

/// Words in backticks that look like a path of ours.
fn paths_in(line: &str) -> Vec<&str> {
    let in_backticks = line.split('`').skip(1).step_by(2);
    in_backticks
        .filter(|token| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
            let file = [".rs", ".md", ".toml"].iter().any(|end| token.ends_with(end));
            let folder = token.contains('/') && !token.starts_with('/');
            token.chars().all(plain) && (file || folder)
        })
        .collect()
}

/// Whether some path ends with these parts, or goes on below them.
fn ends_a_path(tree: &Tree, token: &str) -> bool {
    let token = format!("/{}/", token.trim_end_matches('/'));
    tree.paths.iter().any(|path| format!("/{path}/").contains(&token))
}

/// Lines outside fenced blocks, with their numbers from 0.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number, line));
        }
    }
    lines
}

/// Whether a file `…/FILE.rs` has a function of that name outside what is
/// shipped as code: a test, or a whole-system case.
fn has_function(tree: &Tree, file: &str, test: &str) -> bool {
    let file = file.replace("::", "/");
    let ends = [format!("/{file}.rs"), format!("/{file}/mod.rs")];
    let declared = format!("fn {test}(");
    let declared_generic = format!("fn {test}<");
    tree.sources
        .iter()
        .filter(|source| ends.iter().any(|end| source.path.ends_with(end.as_str())))
        .any(|source| {
            let is_case = source.path.starts_with("tests/");
            let places = source.code.match_indices(&declared);
            places
                .chain(source.code.match_indices(&declared_generic))
                .any(|(offset, _)| is_case || source.is_test(offset))
        })
}

/// The targets of the links in a line.
fn targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (offset, _) in line.match_indices("](") {
        let rest = &line[offset + 2..];
        if let Some(end) = rest.find(')') {
            targets.push(&rest[..end]);
        }
    }
    targets
}

/// Whether a link is into the world, which is not ours to check, or to a file
/// and heading that are there.
fn leads_somewhere(tree: &Tree, from: &str, folder: &str, link: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let path = if file.is_empty() { from.to_owned() } else { resolved(folder, file) };
    if !tree.exists(&path) {
        return false;
    }
    let headings = tree.texts.get(&path).map(|text| {
        let lines = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
        lines.map(|(_, line)| anchor(line)).collect::<Vec<_>>()
    });
    heading.is_empty() || headings.is_some_and(|all| all.iter().any(|known| known == heading))
}

/// A path seen from a folder, without its `..`.
fn resolved(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchor that a heading gets when it is rendered.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(rule: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
        rule(&Tree::with(files)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_example_that_no_test_reads_is_found() {
        let test = "#[test]\nfn example() { parse(include_str!(\"../../../config/a.toml\")) }\n";
        let files = [("config/a.toml", ""), ("config/b.toml", ""), ("crates/a/src/c.rs", test)];
        assert_eq!(messages(example_config, &files).len(), 1);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "[a](../README.md) [b](host.md#its-name) [c](https://d.e/f)\n\
                    [g](gone.md) [h](host.md#gone)\n\
                    ```\n[i](code.md)\n```\n";
        let files =
            [("README.md", ""), ("docs/host.md", "# Its `name`\n"), ("docs/index.md", text)];
        let found = messages(links, &files);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    const MAP: &str = "# A\n\n`api/` and `GET /vms` and `made-up/` are paths.\n\n\
        ## Code map\n\n### `crates/a/`, the agent\n\n\
        - `src/main.rs` and `src/api/` are it: `vms.rs`, `gone.rs`.\n\
        - `lab/` is not shipped.\n";

    #[test]
    fn the_code_map_is_compared_with_the_tree_both_ways() {
        let files = [
            (ARCHITECTURE, MAP),
            ("crates/a/Cargo.toml", ""),
            ("crates/a/src/main.rs", ""),
            ("crates/a/src/api/vms.rs", ""),
            ("crates/a/src/store/mod.rs", ""),
            ("lab/src/lib.rs", ""),
        ];
        let found = messages(code_map, &files);
        let gone = "there is no gone.rs";
        let unnamed = "the code map does not name crates/a/src/store/";
        assert_eq!(found, ["there is no made-up/", gone, unnamed]);
    }

    #[test]
    fn a_lesson_whose_test_is_gone_is_found() {
        let text = "| a | `life::stops` |\n| b | `life::gone` |\n| c | `store::shipped` |\n";
        let files = [
            (LESSONS, text),
            ("tests/e2e/src/cases/life.rs", "pub async fn stops(scene: Scene) {}\n"),
            ("crates/a/src/store.rs", "fn shipped() {}\n"),
        ];
        let found = messages(named_tests, &files);
        let gone = "there is no test gone in a file life.rs";
        assert_eq!(found, [gone, "there is no test shipped in a file store.rs"]);
        assert_eq!(messages(named_tests, &[]).len(), 1, "no lessons at all");
    }

    #[test]
    fn a_tree_without_a_map_is_found() {
        assert_eq!(messages(code_map, &[]).len(), 1);
    }
}
