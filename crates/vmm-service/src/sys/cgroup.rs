//! A control group per machine where the host has no systemd: what ends the
//! daemon's group then does not reach the machine. Where systemd is, it alone
//! manages the groups, and the machine's scope is one.

use std::io;
use std::path::{Path, PathBuf};

use super::scope::has_systemd;

/// The group under which all machines' groups lie.
const PARENT: &str = "infinibay";

/// The file of a group that takes its members.
const MEMBERS: &str = "cgroup.procs";

/// Moves this process into a group of its own. `false` when the host offers no
/// place for it, which costs nothing but the separation.
///
/// # Errors
///
/// When the host's list of mounts cannot be read.
pub fn enter(name: &str) -> io::Result<bool> {
    let Some(root) = root()? else { return Ok(false) };
    let group = root.join(PARENT).join(name);
    let entered =
        std::fs::create_dir_all(&group).and_then(|()| std::fs::write(group.join(MEMBERS), "0"));
    Ok(entered.is_ok())
}

/// Where the group of the machine `name` is that this process is in, be it
/// systemd's scope or our own.
///
/// # Errors
///
/// When this process is in no group of that machine's: whatever is done to the
/// group it is in would be done to others too.
pub fn own(name: &str) -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let root = unified(&mounts)
        .ok_or_else(|| io::Error::other("the host has no control groups of version 2"))?;
    let membership = std::fs::read_to_string("/proc/self/cgroup")?;
    membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .filter(|group| group.rsplit('/').next().is_some_and(|last| last.contains(name)))
        .map(|group| root.join(group))
        .ok_or_else(|| io::Error::other("the machine could get no control group of its own"))
}

/// Leaves the machine's group and removes it, unless somebody else is in it.
pub fn leave(name: &str) {
    let left =
        root().ok().flatten().is_some_and(|root| std::fs::write(root.join(MEMBERS), "0").is_ok());
    if left {
        // The daemon removes what could not be removed here.
        let _ = remove(name);
    }
}

/// Removes a machine's group, if it is there and empty.
///
/// # Errors
///
/// When it is there and could not be removed.
pub fn remove(name: &str) -> io::Result<()> {
    let Some(root) = root()? else { return Ok(()) };
    match std::fs::remove_dir(root.join(PARENT).join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where groups can be made, if there is such a place and it is ours.
fn root() -> io::Result<Option<PathBuf>> {
    if has_systemd() {
        return Ok(None);
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(unified(&mounts).map(Path::to_owned))
}

/// Where version 2 of the hierarchy is mounted.
fn unified(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_the_old_one() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(unified(mounts), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(unified("proc /proc proc rw 0 0\n"), None);
    }
}
