//! The guest's contents: an initial RAM file system with busybox, the kernel's
//! modules, the agent and a handful of scripts (`lab/guest/`). No disk image:
//! it is made in milliseconds, and a guest boots from it in seconds even when
//! its processor is emulated.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cpio::Writer;
use crate::kernel::Kernel;
use crate::program::{find, is_static, output};

/// The line on the console that says that the guest's programs run now.
pub const USERSPACE_IS_UP: &str = "lab: userspace is up";

/// The line on the console that says that the power button works from now on.
pub const LOOKS_AT_POWER_BUTTON: &str = "lab: looking at the power button";

/// What every guest of the lab needs on its kernel's command line: the serial
/// console, a reboot instead of a halt when the kernel panics, and a clock that
/// does not rest on the time stamp counter. The kernel measures that counter at
/// boot, and an emulated processor that waits for the host meanwhile makes it
/// wrong: guests were seen whose seconds passed four times too fast. For the same
/// reason it does not try out whether the timer's interrupts come: late ones made
/// it stop at "8254 timer not connected to IO-APIC".
pub const CMDLINE: &str = "console=ttyS0 quiet panic=1 tsc=unstable no_timer_check";

/// The folders of the guest, parents first.
const FOLDERS: &[&str] = &[
    "bin",
    "data",
    "dev",
    "etc",
    "etc/lab",
    "lib",
    "lib/modules",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
    "var/lib",
    "var/log",
];

/// The guest's own files: name, permissions, contents.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/inittab", 0o644, include_str!("../guest/inittab")),
    ("etc/os-release", 0o644, include_str!("../guest/os-release")),
    ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
    ("etc/lab/agent", 0o755, include_str!("../guest/agent")),
    ("etc/lab/lease", 0o755, include_str!("../guest/lease")),
    ("etc/lab/network", 0o755, include_str!("../guest/network")),
    ("etc/lab/options", 0o644, include_str!("../guest/options")),
    ("etc/lab/power-button", 0o755, include_str!("../guest/power-button")),
    ("etc/lab/start", 0o755, include_str!("../guest/start")),
];

/// Where programs that administer a system are looked for.
const IN_SBIN: &[&str] = &["halt", "init", "ip", "poweroff", "reboot"];

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// The kernel, for its modules.
    pub kernel: &'a Kernel,
    /// The static agent; without one the guest has none.
    pub agent: Option<&'a Path>,
    /// Further programs, which go to `/usr/bin` under their own names; one that
    /// needs libraries brings them along.
    pub programs: &'a [PathBuf],
    /// Further files: name, permissions, contents. One that has the name of a
    /// file of the lab takes its place.
    pub files: &'a [(&'a str, u32, &'a str)],
}

/// Writes the guest's initial RAM file system to `to`, whole or not at all.
///
/// # Errors
/// When a program is missing or needs libraries, or `to` cannot be written.
pub fn build(contents: &Contents<'_>, to: &Path) -> Result<()> {
    let mut archive = Writer::new(Vec::new());
    write(contents, &mut archive)?;
    let bytes = archive.finish()?;
    let unfinished = to.with_extension("unfinished");
    fs::File::create(&unfinished)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&unfinished, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn write(contents: &Contents<'_>, archive: &mut Writer<Vec<u8>>) -> Result<()> {
    for folder in FOLDERS {
        archive.directory(folder)?;
    }
    // The kernel opens it for PID 1 before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1)?;
    for (name, permissions, text) in FILES {
        archive.file(name, *permissions, text.as_bytes())?;
    }
    busybox(archive)?;
    for module in &contents.kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("lib/modules/{name}"), 0o644, &read(module)?)?;
    }
    if let Some(agent) = contents.agent {
        program(archive, "usr/bin/infiniservice", agent)?;
    }
    with_libraries(archive, contents.programs)?;
    for (name, permissions, text) in contents.files {
        if let Some(folder) = Path::new(name).parent().and_then(Path::to_str)
            && !FOLDERS.contains(&folder)
        {
            archive.directory(folder)?;
        }
        archive.file(name, *permissions, text.as_bytes())?;
    }
    Ok(())
}

/// Programs that may be dynamic, and every library that any of them needs, at
/// the paths where the loader looks for them.
fn with_libraries(archive: &mut Writer<Vec<u8>>, programs: &[PathBuf]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for path in programs {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("usr/bin/{name}"), 0o755, &read(path)?)?;
        if !is_static(path)? {
            let listed = output(Command::new("ldd").arg(path))?;
            let listed = String::from_utf8_lossy(&listed).into_owned();
            libraries.extend(listed.split_whitespace().filter(is_path).map(str::to_owned));
        }
    }
    let mut folders = BTreeSet::new();
    for library in &libraries {
        for folder in Path::new(library).ancestors().skip(1) {
            folders.insert(folder.to_string_lossy().trim_start_matches('/').to_owned());
        }
    }
    // Sorted, so that a folder comes before what lies in it.
    for folder in
        folders.iter().filter(|name| !name.is_empty() && !FOLDERS.contains(&name.as_str()))
    {
        archive.directory(folder)?;
    }
    for library in &libraries {
        archive.file(library.trim_start_matches('/'), 0o755, &read(Path::new(library))?)?;
    }
    Ok(())
}

/// Tells the paths in ldd's output from its arrows, names and addresses.
fn is_path(word: &&str) -> bool {
    word.starts_with('/')
}

/// busybox under all the names that it answers to, and as PID 1.
fn busybox(archive: &mut Writer<Vec<u8>>) -> Result<()> {
    let path = find("busybox").context("busybox is missing: install busybox-static")?;
    program(archive, "bin/busybox", &path)?;
    let names = output(Command::new(&path).arg("--list"))?;
    for name in String::from_utf8_lossy(&names).lines() {
        match name {
            "busybox" => {}
            name if IN_SBIN.contains(&name) => {
                archive.symlink(&format!("sbin/{name}"), "/bin/busybox")?;
            }
            name => archive.symlink(&format!("bin/{name}"), "/bin/busybox")?,
        }
    }
    archive.symlink("init", "/bin/busybox")?;
    Ok(())
}

fn program(archive: &mut Writer<Vec<u8>>, name: &str, path: &Path) -> Result<()> {
    if !is_static(path)? {
        bail!("{} is not static: the guest has no libraries", path.display());
    }
    Ok(archive.file(name, 0o755, &read(path)?)?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
