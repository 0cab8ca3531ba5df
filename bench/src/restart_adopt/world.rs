//! A mount and a process namespace in which a daemon and its machines live, so
//! that nothing of them is left behind, whatever happens to the benchmark: when
//! it ends, the namespace's first process does, and with it all others.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::program::find;
use lab::wait;
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to come or to go.
const PROCESS_LIMIT: Duration = Duration::from_secs(30);

/// The first process: it lives for as long as its standard input is open, and
/// reaps what others leave. No control groups: machines would leave theirs
/// behind, for these are the host's.
const FIRST: &str = "exec 3<&0
umount --all --types cgroup,cgroup2
for folder; do mkdir -p $folder && mount -t tmpfs -o mode=755 tmpfs $folder || exit; done
cat <&3 >/dev/null &
touch /run/ready
wait $!
";

/// The namespaces, which end with this value.
pub struct World {
    holder: Child,
}

/// A program in there.
pub struct Inhabitant {
    entered: Child,
}

impl World {
    /// Makes one in which `/run` and these folders are empty, and its own.
    pub fn new(empty: &[&str]) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "namespaces are made by root: run as root");
        let mut command = Command::new(find("unshare").context("install util-linux")?);
        command
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"])
            .args(["sh", "-c", FIRST, "sh", "/run"])
            .args(empty)
            .stdin(Stdio::piped());
        let world = Self { holder: command.spawn().context("unshare could not be started")? };
        let ready = world.path(Path::new("/run/ready"));
        wait::until("the namespaces", PROCESS_LIMIT, || Ok(ready.exists().then_some(())))?;
        Ok(world)
    }

    /// Where a path of in there is to be found from out here.
    pub fn path(&self, inside: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A program in there, its folder the root.
    pub fn command(&self, program: &Path) -> Command {
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        let option =
            |name: &str, file: &str| OsString::from(format!("--{name}={namespaces}/{file}"));
        let mut command = Command::new("nsenter");
        command.arg(option("mount", "mnt")).arg(option("pid", "pid_for_children")).arg(program);
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Its end is that of all in there.
        let _ = self.holder.wait();
    }
}

impl Inhabitant {
    /// Starts what [`World::command`] made, and waits for nothing.
    pub fn start(mut command: Command) -> Result<Self> {
        let entered = command.stdin(Stdio::null()).spawn().context("cannot run nsenter")?;
        Ok(Self { entered })
    }

    /// Fails when it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.entered.try_wait()? {
            Some(status) => bail!("it ended ({status})"),
            None => Ok(()),
        }
    }

    /// Sends a signal and waits for its end.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        // nsenter stays outside; the program is its only child.
        let children = format!("/proc/{0}/task/{0}/children", self.entered.id());
        let child = fs::read_to_string(&children)?;
        let pid = child.trim().parse().ok().and_then(Pid::from_raw);
        kill_process(pid.with_context(|| format!("{children}: {child:?}"))?, signal)?;
        wait::until("a program's end", PROCESS_LIMIT, || Ok(self.entered.try_wait()?)).map(drop)
    }
}
