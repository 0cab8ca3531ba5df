//! A systemd scope per machine: a restart of the daemon's unit ends everything
//! in that unit, and must not end a machine.

use std::path::Path;
use std::process::Command;

/// Whether this host was booted by systemd.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A command that runs `program` in the scope of the machine `name`, or plainly
/// where there is no systemd. Its process is `program` itself either way:
/// systemd-run makes the scope around itself and then becomes the program.
pub fn command(program: &Path, name: &str) -> Command {
    if !has_systemd() {
        return Command::new(program);
    }
    scoped(program, name)
}

/// The unit that stops all guests when the host goes down. systemd ends what is
/// before a unit only after the unit itself has ended, and all scopes at once
/// with everything else if nothing says otherwise.
const GUESTS_UNIT: &str = "infinibay-guests.service";

fn scoped(program: &Path, name: &str) -> Command {
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--collect"]);
    command.arg(format!("--property=Before={GUESTS_UNIT}"));
    command.arg(format!("--unit=infinibay-vm-{name}"));
    command.arg(format!("--description=Virtual machine {name} of Infinibay"));
    command.arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_let_machines_outlive_the_daemon() {
        let daemon = include_str!("../../../../config/systemd/vmm-service.service");
        for line in
            ["Type=notify", "RuntimeDirectoryPreserve=yes", "ExecStart=/usr/bin/vmm-service"]
        {
            assert!(daemon.lines().any(|other| other == line), "{line}");
        }
        let guests = include_str!("../../../../config/systemd/infinibay-guests.service");
        let binds = ["Requires=", "BindsTo=", "PartOf=", "Requisite="];
        assert!(!guests.lines().any(|line| binds.iter().any(|word| line.starts_with(word))));
        assert!(guests.lines().any(|line| line.starts_with("After=vmm-service.service ")));
    }

    #[test]
    fn the_scope_is_named_after_the_machine() {
        let command = scoped(Path::new("/usr/bin/vmm-service"), "0b5c");
        let arguments: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        assert!(arguments.contains(&"--unit=infinibay-vm-0b5c"));
        assert!(arguments.contains(&"--property=Before=infinibay-guests.service"));
        assert_eq!(arguments[arguments.len() - 2..], ["--", "/usr/bin/vmm-service"]);
    }
}
