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

fn scoped(program: &Path, name: &str) -> Command {
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--collect"]);
    command.arg(format!("--unit=infinibay-vm-{name}"));
    command.arg(format!("--description=Virtual machine {name} of Infinibay"));
    command.arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_named_after_the_machine() {
        let command = scoped(Path::new("/usr/bin/vmm-service"), "0b5c");
        let arguments: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        assert!(arguments.contains(&"--unit=infinibay-vm-0b5c"));
        assert_eq!(arguments[arguments.len() - 2..], ["--", "/usr/bin/vmm-service"]);
    }
}
