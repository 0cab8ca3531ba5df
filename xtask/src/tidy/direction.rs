//! Rules about who may know whom: between crates, from their manifests, and
//! between the folders of a program, from the paths its code names.

use super::source::{Source, is_word};
use super::tree::Tree;
use super::{Finding, manifests};

/// Each crate and all crates of this workspace that it may build on. The
/// programs are on no right side: a program depends on no other program.
const CRATES: &[(&str, &[&str])] = &[
    ("guest-protocol", &[]),
    ("guest-protocol-fuzz", &["guest-protocol"]),
    ("vmm-api", &["guest-protocol"]),
    ("infiniservice", &["guest-protocol"]),
    ("vmm-service", &["guest-protocol", "vmm-api"]),
    ("vmmctl", &["guest-protocol", "vmm-api"]),
    ("lab", &["guest-protocol", "vmm-api"]),
    ("e2e", &["guest-protocol", "lab", "vmm-api"]),
    ("bench", &["guest-protocol", "lab", "vmm-api"]),
    ("xtask", &["guest-protocol", "lab", "vmm-api"]),
];

/// A program's source folder and its layers, top to bottom. A module may name
/// those of lower layers only: not one above, and not a neighbour.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "crates/vmm-service/src",
        &[
            &["main"],
            &["app"],
            &["machines", "rescue"],
            &["config"],
            &["api", "dashboard"],
            &["metrics"],
            &["access", "boot", "vm"],
            &["hypervisor", "guest", "image", "disk", "snapshot", "pci", "store", "logs"],
            &["keeper"],
            &["door", "events", "host"],
            &["sys"],
        ],
    ),
    (
        "crates/infiniservice/src",
        &[
            &["main"],
            &["config", "diag"],
            &["flags"],
            &["agent"],
            &["publish"],
            &["collect", "command"],
            &["identity", "lifecycle", "log", "mistake"],
            &["sys"],
        ],
    ),
    (
        "crates/vmmctl/src",
        &[
            &["main"],
            &["commands"],
            &["output"],
            &["cli"],
            &["failure"],
            &["render"],
            &["fleet"],
            &["sys"],
        ],
    ),
];

/// Modules that may name less than their layer allows: the keeper outlives the
/// daemon, so that nothing of the daemon's state may reach it.
const NARROWER: &[(&str, &str, &[&str])] = &[("crates/vmm-service/src", "keeper", &["sys"])];

/// Manifests that name a crate of this workspace which they may not know.
pub fn crates(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for manifest in manifests::members(tree).iter().filter(|manifest| manifest.is_member()) {
        let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == manifest.name) else {
            let message = format!(
                "the crate {} is in no row of CRATES in xtask/src/tidy/direction.rs",
                manifest.name
            );
            found.push(Finding::whole(&manifest.path, message));
            continue;
        };
        for dependency in &manifest.dependencies {
            let ours = CRATES.iter().any(|(name, _)| *name == dependency.name);
            if ours && !allowed.contains(&dependency.name.as_str()) {
                let message = format!("{} may not know {}", manifest.name, dependency.name);
                found.push(Finding::whole(&manifest.path, message));
            }
        }
    }
    found
}

/// Code outside tests that names a module which its own may not know.
pub fn folders(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (folder, layers) in LAYERS {
        for source in &tree.sources {
            let Some(inside) = source.path.strip_prefix(&format!("{folder}/")) else { continue };
            let from = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
            let Some(layer) = layer_of(layers, from) else {
                let message = format!(
                    "the module {from} is in no layer of LAYERS in xtask/src/tidy/direction.rs"
                );
                found.push(Finding::whole(&source.path, message));
                continue;
            };
            for (offset, to) in root_modules(source, inside) {
                let below = layer_of(layers, &to).is_none_or(|other| other > layer);
                let narrower = NARROWER.iter().find(|row| row.0 == *folder && row.1 == from);
                let allowed = narrower.is_none_or(|row| row.2.contains(&to.as_str()));
                if from != to && !(below && allowed) {
                    let message = format!("{from} may not know {to}");
                    found.push(Finding::at(&source.path, source.line_of(offset), message));
                }
            }
        }
    }
    found
}

fn layer_of(layers: &[&[&str]], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&module))
}

/// The modules at the crate's root that a file names outside tests, through
/// `crate::` or as many `super::` as lead there.
fn root_modules(source: &Source, inside: &str) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for offset in source.code_words("crate") {
        let rest = &source.code[offset + "crate".len()..];
        if let Some(rest) = rest.strip_prefix("::") {
            named.extend(first_names(rest).into_iter().map(|name| (offset, name)));
        }
    }
    let chain = "super::".repeat(depth(inside));
    if !chain.is_empty() {
        for (offset, _) in source.code.match_indices(&chain) {
            let before = source.code[..offset].chars().next_back();
            let rest = &source.code[offset + chain.len()..];
            let is_start = !before.is_some_and(|c| is_word(c) || c == ':');
            if is_start && !source.is_test(offset) {
                named.extend(first_names(rest).into_iter().map(|name| (offset, name)));
            }
        }
    }
    // What begins with a capital is an item of the root itself.
    named.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    named
}

/// How many `super` lead from a file to the crate's root.
fn depth(inside: &str) -> usize {
    let parts = inside.split('/').count();
    match inside.rsplit('/').next() {
        Some("main.rs" | "lib.rs" | "mod.rs") => parts - 1,
        _ => parts,
    }
}

/// The first name of a path, or of each path in a group.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|&c| is_word(c)).collect();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = Vec::new();
    let mut depth = 0_i32;
    let mut from = 0;
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                names.push(name(&group[from..at]));
                from = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_findings(name: &str, dependency: &str) -> usize {
        let manifest = format!(
            "[package]\nname = \"{name}\"\n[dependencies]\n{dependency}.workspace = true\n"
        );
        crates(&Tree::with(&[("crates/x/Cargo.toml", &manifest)])).len()
    }

    #[test]
    fn programs_know_contracts_and_no_other_program() {
        assert_eq!(crate_findings("vmm-service", "guest-protocol"), 0);
        assert_eq!(crate_findings("vmm-service", "serde"), 0);
        assert_eq!(crate_findings("vmm-service", "infiniservice"), 1);
        assert_eq!(crate_findings("guest-protocol", "vmm-api"), 1);
        assert_eq!(crate_findings("vmm-api", "guest-protocol"), 0);
        assert_eq!(crate_findings("vmmctl", "lab"), 1);
        assert_eq!(crate_findings("newcomer", "serde"), 1);
    }

    fn folder_findings(path: &str, text: &str) -> Vec<String> {
        let path = format!("crates/vmm-service/src/{path}");
        folders(&Tree::with(&[(&path, text)])).into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn code_names_lower_layers_only() {
        assert!(folder_findings("api/vms.rs", "use crate::vm::Registry;").is_empty());
        assert_eq!(folder_findings("vm/driver.rs", "use crate::api::Page;").len(), 1);
        assert_eq!(folder_findings("vm/driver.rs", "fn a() { crate::app::b() }").len(), 1);
        assert_eq!(folder_findings("store/sqlite.rs", "use crate::guest::Hub;").len(), 1);
        assert!(folder_findings("vm/driver.rs", "use crate::vm::state::State;").is_empty());
    }

    #[test]
    fn groups_and_supers_are_seen_through() {
        let text = "use crate::{store::{A, B}, api, events::C};";
        assert_eq!(folder_findings("vm/mod.rs", text), ["vm may not know api"]);
        assert_eq!(folder_findings("vm/mod.rs", "use super::api::A;").len(), 1);
        assert_eq!(folder_findings("vm/driver.rs", "use super::super::api::A;").len(), 1);
        assert!(folder_findings("vm/driver.rs", "use super::state::State;").is_empty());
    }

    #[test]
    fn tests_may_look_up_and_the_keeper_may_not_even_look_down() {
        let text = "#[cfg(test)]\nmod tests {\n    use crate::api::A;\n}\n";
        assert!(folder_findings("vm/driver.rs", text).is_empty());
        assert_eq!(folder_findings("keeper/mod.rs", "use crate::events::A;").len(), 1);
        assert!(folder_findings("keeper/mod.rs", "use crate::sys::A;").is_empty());
    }

    #[test]
    fn a_module_must_have_a_layer() {
        assert_eq!(folder_findings("extra.rs", "").len(), 1);
    }
}
