//! Ports: finding a virtio-serial port by its name, opening it, and reading and
//! writing it or a connection of a unix socket without ever blocking.
//!
//! What the kernel's virtio_console does, and why this is written so: read(2)
//! returns 0 while no host is connected, which is no end of file; poll tells
//! HUP for as long; a write is cut at 32 KiB; only one process may open a port;
//! and the port's name may become known after its node exists.

#![expect(unsafe_code, reason = "the runtime wants a promise about descriptors")]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::epoll;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

/// The most that is handed to one write(2), in bytes: what virtio_console takes.
const MAX_WRITE_BYTES: usize = 32 * 1024;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no port of that name.
    #[error(
        "there is no virtio-serial port named {0}: the host gave this machine none, or the \
         virtio_console module is not loaded"
    )]
    NoSuchPort(String),
    /// It is open already, and only one process may have it.
    #[error("{path} is held by {holder}")]
    Held {
        /// The port's node.
        path: PathBuf,
        /// The other process.
        holder: String,
    },
    /// The path names something else.
    #[error("{0} is not a character device")]
    NotAPort(PathBuf),
    /// The system refused.
    #[error("{path} could not be opened")]
    Refused {
        /// The port's node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes came.
    Data(usize),
    /// No host is connected now (a port), or the peer closed (a socket).
    HostAway,
    /// The host left and is back already. The runtime never forgets a hang-up
    /// and would spin on it: [`Port::register_again`] before the next read.
    HostCameBack,
}

/// What waiting to write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A write may be taken.
    Free,
    /// Nobody is there to read it.
    HostAway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    VirtioSerial,
    Socket,
}

/// The guest's end of a channel, open.
#[derive(Debug)]
pub struct Port {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
}

/// Finds the node of the virtio-serial port `name`.
pub fn find(name: &str) -> Result<PathBuf, OpenError> {
    find_below(Path::new("/"), name).ok_or_else(|| OpenError::NoSuchPort(name.to_owned()))
}

/// udev's link when there is udev, else by the name in sysfs. Never a port of
/// another name.
fn find_below(root: &Path, name: &str) -> Option<PathBuf> {
    let link = root.join("dev/virtio-ports").join(name);
    if link.exists() {
        return Some(link);
    }
    let ports = fs::read_dir(root.join("sys/class/virtio-ports")).ok()?;
    let port = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name)
    })?;
    Some(root.join("dev").join(port.file_name()))
}

impl Port {
    /// Opens the port at `path`.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |source: io::Error| OpenError::Refused { path: path.to_owned(), source };
        // Never blocking: a blocking write waits for ever for an absent host.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            // Kernels before 3.x said EMFILE.
            Err(Errno::BUSY | Errno::MFILE) => {
                return Err(OpenError::Held { path: path.to_owned(), holder: holder(path) });
            }
            Err(error) => return Err(refused(error.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| refused(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err(OpenError::NotAPort(path.to_owned()));
        }
        let fd = register(fd, Interest::READABLE).map_err(refused)?;
        Ok(Self { fd, kind: Kind::VirtioSerial })
    }

    /// Takes over a connection, which must not block.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: register(socket, Interest::READABLE)?, kind: Kind::Socket })
    }

    /// Whether the port outlives its host's end, which may come back.
    pub fn survives_its_host(&self) -> bool {
        self.kind == Kind::VirtioSerial
    }

    /// Waits for bytes. Nothing is lost when the wait is given up.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            let mut guard = self.fd.ready(Interest::READABLE).await?;
            match rustix::io::read(guard.get_inner(), &mut *buffer) {
                Ok(0) => return Ok(Read::HostAway),
                Ok(read) => {
                    // A socket that filled only a part of the buffer is empty;
                    // a port hands out one host buffer at a time.
                    if read < buffer.len() && self.kind == Kind::Socket {
                        guard.clear_ready_matching(Ready::READABLE);
                    }
                    return Ok(Read::Data(read));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let hung_up = guard.ready().is_read_closed();
                    guard.clear_ready();
                    if hung_up {
                        return Ok(Read::HostCameBack);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes as much of `bytes` as is taken now, which may be nothing.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_WRITE_BYTES)];
        loop {
            match rustix::io::write(&self.fd, piece) {
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Waits until a write may be taken. Registered for this wait alone: a
    /// standing registration would wake the agent each time the host reads.
    pub async fn writable(&self) -> io::Result<Room> {
        let room = register(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?, Interest::WRITABLE)?;
        let ready = room.ready(Interest::WRITABLE).await?.ready();
        Ok(if ready.is_write_closed() { Room::HostAway } else { Room::Free })
    }

    /// Gives the port up to wait for a host.
    pub fn into_absent(self) -> io::Result<AbsentHost> {
        AbsentHost::new(self.fd.into_inner())
    }

    /// Forgets what the runtime thinks of the port.
    pub fn register_again(&mut self) -> io::Result<()> {
        // A duplicate, because a registration ends only by giving its
        // descriptor up; both are the same open port.
        let again = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        self.fd = register(again, Interest::READABLE)?;
        Ok(())
    }
}

/// An open port whose host is away. It is watched through an epoll instance of
/// its own in edge-triggered mode, which tells each change once: the kernel's
/// hang-up is level-triggered and cannot be masked, so any other wait spins.
#[derive(Debug)]
pub struct AbsentHost {
    watch: AsyncFd<OwnedFd>,
    port: OwnedFd,
}

impl AbsentHost {
    fn new(port: OwnedFd) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&watch, &port, epoll::EventData::new_u64(0), wanted)?;
        Ok(Self { watch: register(watch, Interest::READABLE)?, port })
    }

    /// Waits until something changed at the port, or for `at_most`, which is
    /// for kernels that do not tell.
    pub async fn changed(&self, at_most: Duration) -> io::Result<()> {
        if let Ok(guard) = tokio::time::timeout(at_most, self.watch.readable()).await {
            guard?.clear_ready();
        }
        // Taken off the list, or it would not be told again.
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 1];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.watch, &mut events[..], Some(&now))?;
        Ok(())
    }

    /// Whether the host is connected now.
    pub fn is_back(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
        poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let told = fds[0].revents();
        if told.contains(PollFlags::NVAL) || told.contains(PollFlags::ERR) {
            return Err(Errno::NODEV.into());
        }
        Ok(!told.contains(PollFlags::HUP))
    }

    /// The port, to be read and written again.
    pub fn into_port(self) -> io::Result<Port> {
        drop(self.watch);
        Ok(Port { fd: register(self.port, Interest::READABLE)?, kind: Kind::VirtioSerial })
    }
}

/// Hands a descriptor to the runtime.
fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor, and the same one for as long
    // as the registration owns it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}

/// Who has `path` open, as far as /proc tells this process.
fn holder(path: &Path) -> String {
    let unknown = || "another process".to_owned();
    let Ok(target) = fs::canonicalize(path) else { return unknown() };
    let Ok(processes) = fs::read_dir("/proc") else { return unknown() };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|it| it.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        if open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|it| it == target)) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("{} (process {pid})", comm.trim_end().escape_debug());
        }
    }
    unknown()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_with_ports(ports: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (node, name) in ports {
            let port = root.path().join("sys/class/virtio-ports").join(node);
            fs::create_dir_all(&port).unwrap();
            fs::write(port.join("name"), format!("{name}\n")).unwrap();
        }
        root
    }

    #[test]
    fn without_udev_the_port_is_found_by_its_name_in_sysfs() {
        let root = machine_with_ports(&[
            ("vport0p1", "org.qemu.guest_agent.0"),
            ("vport1p1", "org.infinibay.agent"),
        ]);
        let found = find_below(root.path(), "org.infinibay.agent").unwrap();
        assert!(found.ends_with("dev/vport1p1"));
    }

    #[test]
    fn another_agents_port_is_never_taken() {
        let root = machine_with_ports(&[
            ("vport0p1", "org.qemu.guest_agent.0"),
            ("vport0p2", "com.redhat.spice.0"),
            ("vport0p3", ""),
        ]);
        assert_eq!(find_below(root.path(), "org.infinibay.agent"), None);
    }

    #[test]
    fn udevs_link_comes_first() {
        let root = machine_with_ports(&[("vport0p1", "org.infinibay.agent")]);
        let links = root.path().join("dev/virtio-ports");
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join("org.infinibay.agent"), "").unwrap();
        let found = find_below(root.path(), "org.infinibay.agent").unwrap();
        assert!(found.ends_with("dev/virtio-ports/org.infinibay.agent"));
    }

    #[tokio::test]
    async fn a_file_is_no_port() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Port::open(file.path()), Err(OpenError::NotAPort(_))));
        let gone = Path::new("/dev/vport99p99");
        assert!(matches!(Port::open(gone), Err(OpenError::Refused { .. })));
    }

    /// Otherwise an agent that has more to say than is taken would try again
    /// and again for as long as the host is away.
    #[tokio::test]
    async fn room_to_write_is_told_from_a_host_that_left() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let port = Port::from_socket(ours.into()).unwrap();
        assert_eq!(port.writable().await.unwrap(), Room::Free);
        while port.write(&[b'x'; 1024]).unwrap() > 0 {}
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, port.writable()).await.is_err());
        drop(theirs);
        assert_eq!(port.writable().await.unwrap(), Room::HostAway);
    }

    #[test]
    fn the_holder_of_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(holder(file.path()).contains(&format!("process {}", std::process::id())));
    }
}
