//! bench/RESULTS.md: each benchmark and each soak owns the text between two
//! markers and rewrites it, so that the page always shows the newest run of each.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::Tree;

/// Where the tables are, from the root of the checkout.
const PAGE: &str = "bench/RESULTS.md";

/// A table as Markdown writes it.
#[derive(Debug)]
pub struct Table {
    /// The column heads.
    pub head: Vec<&'static str>,
    /// The rows, each as long as the head.
    pub rows: Vec<Vec<String>>,
    /// What a reader must know to judge the numbers.
    pub notes: Vec<String>,
}

/// Prints a table and puts it on the page in place of its old one.
///
/// # Errors
/// When the page has no markers of that name or cannot be written.
pub fn publish(name: &str, table: &Table) -> anyhow::Result<()> {
    let tree = Tree::locate()?;
    let text = format!("{}\n{}", provenance(tree.root())?, markdown(table));
    println!("\n## {name}\n\n{text}");
    let page = tree.root().join(PAGE);
    let old = fs::read_to_string(&page).with_context(|| format!("{PAGE} could not be read"))?;
    let new = replace(&old, name, &text)?;
    fs::write(&page, new).with_context(|| format!("{PAGE} could not be written"))
}

fn markdown(table: &Table) -> String {
    let mut text =
        format!("| {} |\n|{}\n", table.head.join(" | "), "---|".repeat(table.head.len()));
    for row in &table.rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    for note in &table.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

/// Replaces what stands between two markers.
fn replace(page: &str, name: &str, text: &str) -> anyhow::Result<String> {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let Some(from) = page.find(&start).map(|at| at + start.len()) else {
        bail!("{PAGE} has no line {:?}: add the two markers of what is new", start.trim());
    };
    let Some(to) = page[from..].find(&end).map(|at| at + from) else {
        bail!("{PAGE} has no line {end:?}");
    };
    Ok(format!("{}{text}{}", &page[..from], &page[to..]))
}

/// Machine, date and commit, as a line of prose.
fn provenance(root: &Path) -> anyhow::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").context("the processor is unknown")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    // Not those that this process may use: a benchmark may have pinned it.
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    // Tables that were measured just before are no change of what is measured.
    let changed = git(root, &["status", "--porcelain", "--", ".", ":!bench/RESULTS.md"])?;
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let dirty = if changed.is_empty() { "" } else { "-dirty" };
    Ok(format!(
        "{}, {count} processors ({model}), commit {commit}{dirty}.\n",
        jiff::Zoned::now().strftime("%Y-%m-%d"),
    ))
}

/// What git says of the checkout, which under sudo is somebody else's: git
/// refuses that unless it is told otherwise.
fn git(root: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["-c", "safe.directory=*"])
        .args(args)
        .output()
        .context("git could not be asked for the commit")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_a_benchmarks_markers_changes() {
        let page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n";
        let new = replace(page, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n");
        assert!(replace(page, "z", "").unwrap_err().to_string().contains("<!-- z -->"));
    }
}
