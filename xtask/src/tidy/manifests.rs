//! Rules about manifests, and the reading of them that other rules share.

use super::Finding;
use super::source::whole_words;
use super::tree::Tree;

/// The manifest of a crate.
pub struct Manifest {
    /// Relative to the root.
    pub path: String,
    /// The crate's name.
    pub name: String,
    /// Of every kind: normal, for tests, for build scripts.
    pub dependencies: Vec<Dependency>,
    table: toml::Table,
}

impl Manifest {
    /// Whether the crate belongs to this workspace: a fuzz target is one of its
    /// own, because it needs another compiler.
    pub fn is_member(&self) -> bool {
        !self.table.contains_key("workspace")
    }
}

/// A dependency as the manifest names it.
pub struct Dependency {
    /// The name on the left.
    pub name: String,
    /// Whether its version comes from the root's manifest.
    pub shared: bool,
}

/// The manifests of all crates, fuzz targets' included.
pub fn members(tree: &Tree) -> Vec<Manifest> {
    let manifests = tree.texts.iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
    manifests.filter_map(|(path, text)| manifest(path, text)).collect()
}

fn manifest(path: &str, text: &str) -> Option<Manifest> {
    let table: toml::Table = text.parse().ok()?;
    let name = table.get("package")?.get("name")?.as_str()?.to_owned();
    let mut dependencies = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(listed) = table.get(kind).and_then(toml::Value::as_table) else { continue };
        dependencies.extend(listed.iter().map(|(name, value)| Dependency {
            name: name.clone(),
            shared: value.get("workspace").and_then(toml::Value::as_bool) == Some(true),
        }));
    }
    Some(Manifest { path: path.to_owned(), name, dependencies, table })
}

/// Crates that do not take the workspace's lints.
pub fn shared_lints(tree: &Tree) -> Vec<Finding> {
    let takes_them = |manifest: &Manifest| {
        let lints = manifest.table.get("lints").and_then(|lints| lints.get("workspace"));
        lints.and_then(toml::Value::as_bool) == Some(true)
    };
    let message = "add `[lints]` with `workspace = true`";
    members(tree)
        .iter()
        .filter(|manifest| manifest.is_member() && !takes_them(manifest))
        .map(|manifest| Finding::whole(&manifest.path, message))
        .collect()
}

/// Dependencies with a version of their own.
pub fn shared_versions(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for manifest in members(tree).iter().filter(|manifest| manifest.is_member()) {
        for dependency in manifest.dependencies.iter().filter(|dependency| !dependency.shared) {
            let name = &dependency.name;
            let message = format!("{name}: its version belongs into the root's Cargo.toml");
            found.push(Finding::whole(&manifest.path, message));
        }
    }
    found
}

/// Dependencies that no file of their crate names, and shared ones that no
/// crate takes.
pub fn used_dependency(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let manifests = members(tree);
    for manifest in &manifests {
        let folder = manifest.path.trim_end_matches("Cargo.toml");
        for Dependency { name, .. } in &manifest.dependencies {
            let ident = name.replace('-', "_");
            let mut sources = tree.sources.iter().filter(|source| source.path.starts_with(folder));
            if !sources.any(|source| whole_words(&source.code, &ident).next().is_some()) {
                let message = format!("no file of {} uses {name}; delete it", manifest.name);
                found.push(Finding::whole(&manifest.path, message));
            }
        }
    }
    for name in shared(tree) {
        let taken = |manifest: &Manifest| manifest.dependencies.iter().any(|d| d.name == name);
        if !manifests.iter().any(taken) {
            found.push(Finding::whole("Cargo.toml", format!("no crate takes {name}; delete it")));
        }
    }
    found
}

/// The names in the root's `[workspace.dependencies]`.
fn shared(tree: &Tree) -> Vec<String> {
    let root: Option<toml::Table> = tree.texts.get("Cargo.toml").and_then(|text| text.parse().ok());
    let shared = root.as_ref().and_then(|root| root.get("workspace")?.get("dependencies"));
    let shared = shared.and_then(toml::Value::as_table);
    shared.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "[package]\nname = \"a\"\n";

    fn messages(rule: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
        rule(&Tree::with(files)).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_crate_takes_the_shared_lints() {
        assert_eq!(messages(shared_lints, &[("a/Cargo.toml", PACKAGE)]).len(), 1);
        let good = format!("{PACKAGE}[lints]\nworkspace = true\n");
        assert!(messages(shared_lints, &[("a/Cargo.toml", &good)]).is_empty());
    }

    #[test]
    fn a_version_of_its_own_is_found() {
        let text = format!("{PACKAGE}[dependencies]\nb.workspace = true\nc = \"1\"\n");
        let found = messages(shared_versions, &[("a/Cargo.toml", &text)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("c:"), "{}", found[0]);
    }

    #[test]
    fn a_dependency_that_nothing_uses_is_found() {
        let text = format!("{PACKAGE}[dependencies]\nb-c.workspace = true\nd.workspace = true\n");
        let files = [
            ("Cargo.toml", "[workspace.dependencies]\nb-c = \"1\"\nd = \"1\"\ne = \"1\"\n"),
            ("a/Cargo.toml", text.as_str()),
            ("a/src/lib.rs", "use b_c::X; // d\n"),
            ("z/src/lib.rs", "use d::X;\n"),
        ];
        let found = messages(used_dependency, &files);
        assert_eq!(found, ["no file of a uses d; delete it", "no crate takes e; delete it"]);
    }
}
