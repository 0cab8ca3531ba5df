//! Which kernel modules a guest loads, and in which order. The package carries
//! no `modules.dep` (depmod writes it at installation), but every module names
//! what it depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A module's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name with underscores, as the kernel has it.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// The modules wanted and all that they depend on, each after what it depends
/// on.
pub(super) fn in_load_order(unpacked: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(&unpacked.join("lib/modules"), &mut files)?;
    let mut ordered = Vec::new();
    for name in wanted {
        add(name, &files, &mut ordered)?;
    }
    Ok(ordered)
}

/// Debian's kernels have no dependency cycles: modpost refuses to build them.
fn add(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<Module>) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let contents = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    for needed in depends(&contents) {
        add(&needed, files, ordered)?;
    }
    ordered.push(Module { name: name.to_owned(), path: path.clone() });
    Ok(())
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
            continue;
        }
        let file = entry.file_name();
        if let Some(stem) = file.to_str().and_then(|name| name.strip_suffix(".ko")) {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The list in a module's `.modinfo` section: zero-ended texts, of which one
/// begins with `depends=`.
fn depends(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .map(|list| {
            String::from_utf8_lossy(list)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(|name| name.replace('-', "_"))
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(folder: &Path, name: &str, depends: &str) {
        let bytes = format!("\x7fELF\0license=GPL\0depends={depends}\0name={name}\0");
        fs::write(folder.join(format!("{name}.ko")), bytes).unwrap();
    }

    #[test]
    fn each_comes_after_what_it_depends_on_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("lib/modules/6/kernel");
        fs::create_dir_all(&modules).unwrap();
        module(&modules, "virtio-ring", "");
        module(&modules, "virtio", "virtio_ring");
        module(&modules, "virtio_net", "virtio-ring,virtio");
        let ordered = in_load_order(folder.path(), &["virtio_net", "virtio"]).unwrap();
        let names: Vec<_> = ordered.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_net"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lib/modules")).unwrap();
        let error = in_load_order(folder.path(), &["virtio_net"]).unwrap_err();
        assert!(error.to_string().contains("virtio_net"), "{error}");
    }
}
