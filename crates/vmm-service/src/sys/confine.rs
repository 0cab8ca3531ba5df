//! Starting a program that gets as little of the host as can be: its own user,
//! an empty network, no new privileges, and only the descriptors it was given.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

/// Under whom a program runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Groups besides.
    pub groups: Vec<u32>,
}

/// What a program gets of the host.
#[derive(Clone, Debug)]
pub struct Confinement<'a> {
    /// Under whom it runs. Its parent must be root, unless it is that user.
    pub user: &'a User,
    /// Whether it gets a network namespace with nothing in it, not even a
    /// loopback interface that is up.
    pub empty_network: bool,
    /// How many files it may open.
    pub open_files: u64,
    /// The descriptors that it gets, under the numbers they have.
    pub descriptors: &'a [RawFd],
}

/// Starts `program` with `arguments`. What it prints goes to `output`. Returns
/// once the program itself runs.
///
/// # Errors
///
/// When it could not be started or confined; it runs not at all then.
#[expect(unsafe_code, reason = "what a child does between fork and exec has no safe form")]
pub fn spawn(
    program: &Path,
    arguments: &[String],
    output: OwnedFd,
    confinement: &Confinement<'_>,
) -> io::Result<Child> {
    let user = confinement.user.clone();
    let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let empty_network = confinement.empty_network;
    let open_files = confinement.open_files;
    let descriptors = confinement.descriptors.to_vec();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // SAFETY: the closure only makes system calls: it allocates nothing and
    // takes no lock, so that it may run in the copy of a process with threads.
    unsafe {
        command.pre_exec(move || {
            if empty_network {
                rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
            }
            settle_signals();
            be_no_exception()?;
            limit(Resource::Core, 0)?;
            limit(Resource::Nofile, open_files)?;
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
            become_user(&user, &groups)?;
            rustix::thread::set_no_new_privs(true)?;
            for &descriptor in &descriptors {
                // SAFETY: the caller holds it open under this number until the
                // program has been started.
                let descriptor = BorrowedFd::borrow_raw(descriptor);
                rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
            }
            Ok(())
        });
    }
    command.spawn()
}

/// When memory runs out the daemon goes last, as its unit says; a machine goes as
/// any other program does, or a guest that asks for too much would take
/// everybody else's.
fn be_no_exception() -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let score = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&score, b"0")?;
    Ok(())
}

/// What the keeper ignores must be able to end its children; but a child must
/// outlive the keeper, who reads what it prints.
#[expect(unsafe_code, reason = "rustix leaves signals to libc")]
fn settle_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: the default disposition is no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: ignoring a signal is no handler either.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn limit(resource: Resource, wanted: u64) -> io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum;
    let value = hard.map_or(wanted, |hard| wanted.min(hard));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

fn become_user(user: &User, groups: &[Gid]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if rustix::process::geteuid() == uid {
        return Ok(());
    }
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
