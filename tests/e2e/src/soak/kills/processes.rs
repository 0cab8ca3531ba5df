//! What really runs, as the kernel tells it: the machines and their keepers.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The VM that it belongs to.
    pub vm: Uuid,
}

/// All machines and keepers of the host that are alive.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// Those that run a VM, told by the guest's identity among their arguments.
    pub machines: Vec<Process>,
    /// Those that keep a VM of one daemon, told by its folder.
    pub keepers: Vec<Process>,
}

impl Processes {
    /// Looks at all processes; `vms` is the folder of the daemon's VMs.
    pub fn look(vms: &Path) -> Result<Self> {
        let mut found = Self::default();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(pid) = name.parse::<u32>() else { continue };
            // What has ended shows no arguments.
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let arguments: Vec<&str> = line
                .split(|&byte| byte == 0)
                .filter_map(|word| str::from_utf8(word).ok())
                .collect();
            found.machines.extend(machine(&arguments).map(|vm| Process { pid, vm }));
            found.keepers.extend(keeper(&arguments, vms).map(|vm| Process { pid, vm }));
        }
        Ok(found)
    }

    /// The process that runs a VM. With several, the eldest.
    pub fn machine(&self, vm: Uuid) -> Option<u32> {
        of(&self.machines, vm).next()
    }

    /// The process that keeps a VM. A child that is about to become something
    /// else looks like its parent, which is the elder.
    pub fn keeper(&self, vm: Uuid) -> Option<u32> {
        of(&self.keepers, vm).next()
    }

    /// How many processes run a VM, and how many keep it.
    pub fn count(&self, vm: Uuid) -> (usize, usize) {
        (of(&self.machines, vm).count(), of(&self.keepers, vm).count())
    }
}

/// Whether a process has ended, reaped or not. One that was killed lives on
/// until its memory is freed.
pub fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Kills a process. `false` when it was gone already.
pub fn kill(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

fn of(processes: &[Process], vm: Uuid) -> impl Iterator<Item = u32> {
    let mut pids: Vec<u32> =
        processes.iter().filter(|process| process.vm == vm).map(|process| process.pid).collect();
    pids.sort_unstable();
    pids.into_iter()
}

fn machine(arguments: &[&str]) -> Option<Uuid> {
    let at = arguments.iter().position(|argument| *argument == "-uuid")?;
    Uuid::try_parse(arguments.get(at + 1)?).ok()
}

fn keeper(arguments: &[&str], vms: &Path) -> Option<Uuid> {
    if arguments.get(1) != Some(&"keep") {
        return None;
    }
    // The folder comes last, and the line ends with a zero byte.
    let folder = PathBuf::from(arguments.iter().rev().find(|argument| !argument.is_empty())?);
    Uuid::try_parse(folder.strip_prefix(vms).ok()?.to_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_and_keepers_are_told_by_their_arguments() {
        let id = Uuid::from_u128(7);
        let text = id.to_string();
        assert_eq!(machine(&["qemu", "-name", "x", "-uuid", &text, ""]), Some(id));
        assert_eq!(machine(&["qemu", "-uuid"]), None);
        let vms = Path::new("/tmp/x/vms");
        let folder = format!("/tmp/x/vms/{id}");
        assert_eq!(keeper(&["vmm-service", "keep", "--resume", &folder, ""], vms), Some(id));
        assert_eq!(keeper(&["vmm-service", "keep", &folder, ""], Path::new("/tmp/y")), None);
        assert_eq!(keeper(&["vmm-service", &folder], vms), None);
    }
}
