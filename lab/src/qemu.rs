//! Boots a guest by hand, without the daemon: for tests of the agent alone and
//! for what the daemon is measured against.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::accel::Accelerator;
use crate::wait;

/// Memory that is enough for every guest of the lab, in MiB.
pub const MEMORY_MIB: u64 = 256;
/// The port that the agent looks for.
const PORT_NAME: &str = "org.infinibay.agent";
/// How long a guest may take until its programs run: an emulated processor on
/// a busy machine is ten times slower than the 3 s seen on an idle one.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How much of a console an error repeats, in bytes.
const CONSOLE_TAIL: usize = 4000;

/// What to boot.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The initial RAM file system, as [`crate::guest::build`] makes it.
    pub initrd: &'a Path,
    /// What follows [`crate::guest::CMDLINE`] on the kernel's command line.
    pub options: &'a str,
    /// How the processor is had.
    pub accelerator: Accelerator,
    /// Whether the guest has an interface; it leads nowhere.
    pub network: bool,
    /// A raw disk.
    pub disk: Option<&'a Path>,
    /// Names of further ports; the host's end of each is a socket of that name.
    pub ports: &'a [&'a str],
}

/// A running guest. It dies with this value.
#[derive(Debug)]
pub struct Guest {
    process: Child,
    folder: PathBuf,
}

impl Guest {
    /// Starts QEMU; its sockets and its console lie in `folder`, whose path
    /// must be short (a unix socket's path has at most 107 bytes).
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(boot: &Boot<'_>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(boot, folder));
        Self::spawn(command, folder)
    }

    /// Starts any command line that keeps its sockets and its console in
    /// `folder` under the names used here.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(mut command: Command, folder: &Path) -> Result<Self> {
        // A console of an earlier guest would pass for this one's.
        File::create(console_path(folder))?;
        let errors = File::create(folder.join("qemu.log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self { process, folder: folder.to_owned() })
    }

    /// The process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What the guest wrote to its serial console so far.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(console_path(&self.folder)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the console shows `text`.
    ///
    /// # Errors
    /// When it does not within `limit`, or QEMU ends before; the error shows
    /// the console's end.
    pub fn wait_for_console(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("`{text}` on the guest's console");
        let waited = wait::until(&what, limit, || {
            if self.console().contains(text) {
                return Ok(Some(()));
            }
            match self.process.try_wait()? {
                Some(status) => bail!("QEMU ended ({status}) before {what} came"),
                None => Ok(None),
            }
        });
        waited.with_context(|| self.last_words())
    }

    /// Connects to the host's end of the agent's channel. QEMU takes one
    /// client at a time.
    ///
    /// # Errors
    /// When QEMU does not listen within [`BOOT_LIMIT`].
    pub fn channel(&self) -> Result<UnixStream> {
        let path = self.channel_path();
        wait::until("the channel's socket", BOOT_LIMIT, || Ok(UnixStream::connect(&path).ok()))
            .with_context(|| self.last_words())
    }

    /// The path of the host's end of the agent's channel.
    #[must_use]
    pub fn channel_path(&self) -> PathBuf {
        channel_path(&self.folder)
    }

    /// The path of QEMU's control socket, which speaks QMP.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        control_path(&self.folder)
    }

    /// Waits until QEMU ends by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until("QEMU's end", limit, || Ok(self.process.try_wait()?))
            .with_context(|| self.last_words())
    }

    pub(crate) fn last_words(&self) -> String {
        let errors = fs::read(self.folder.join("qemu.log")).unwrap_or_default();
        let console = self.console();
        let mut from = console.len().saturating_sub(CONSOLE_TAIL);
        while !console.is_char_boundary(from) {
            from += 1;
        }
        format!(
            "QEMU said: {}\nthe console ends with:\n{}",
            crate::program::tail(&errors),
            &console[from..]
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and the
        // wait only takes its exit status.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// QEMU's arguments for a guest whose files lie in `folder`.
#[must_use]
pub fn arguments(boot: &Boot<'_>, folder: &Path) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut option = |name: &str, value: OsString| {
        arguments.push(OsString::from(name));
        if !value.is_empty() {
            arguments.push(value);
        }
    };
    option("-nodefaults", OsString::new());
    option("-no-user-config", OsString::new());
    option("-display", "none".into());
    option("-machine", "q35".into());
    option("-accel", boot.accelerator.as_str().into());
    option("-cpu", "max".into());
    option("-m", format!("{MEMORY_MIB}M").into());
    option("-kernel", boot.kernel.into());
    option("-initrd", boot.initrd.into());
    option("-append", format!("{} {}", crate::guest::CMDLINE, boot.options).into());
    option("-serial", joined("file:", &console_path(folder)));
    option("-chardev", socket("control", &control_path(folder)));
    option("-mon", "chardev=control,mode=control".into());
    option("-device", "virtio-rng-pci".into());
    option("-device", "virtio-serial-pci".into());
    option("-chardev", socket("channel", &channel_path(folder)));
    option("-device", format!("virtserialport,chardev=channel,name={PORT_NAME}").into());
    for (index, name) in boot.ports.iter().enumerate() {
        option("-chardev", socket(&format!("port{index}"), &folder.join(name)));
        option("-device", format!("virtserialport,chardev=port{index},name={name}").into());
    }
    if boot.network {
        option("-netdev", "user,id=net0,restrict=on".into());
        option("-device", "virtio-net-pci,netdev=net0".into());
    }
    if let Some(disk) = boot.disk {
        let mut drive = joined("driver=file,node-name=file0,filename=", disk);
        option("-blockdev", std::mem::take(&mut drive));
        option("-blockdev", "driver=raw,node-name=disk0,file=file0".into());
        option("-device", "virtio-blk-pci,drive=disk0".into());
    }
    arguments
}

pub(crate) fn socket(id: &str, path: &Path) -> OsString {
    let mut value = joined(&format!("socket,id={id},path="), path);
    value.push(",server=on,wait=off");
    value
}

/// QEMU ends a value at a comma; two of them stand for one.
fn joined(prefix: &str, path: &Path) -> OsString {
    let mut value = OsString::from(prefix);
    value.push(path.to_string_lossy().replace(',', ",,"));
    value
}

fn console_path(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

fn channel_path(folder: &Path) -> PathBuf {
    folder.join("channel.sock")
}

fn control_path(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_does_not_end_the_value() {
        assert_eq!(
            socket("c", Path::new("/tmp/a,b")),
            "socket,id=c,path=/tmp/a,,b,server=on,wait=off"
        );
    }
}
