//! The keeper's loop: copies what comes until QEMU has ended, then says how.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;

use super::Kept;
use super::log::BoundedLog;
use super::records::{self, ExitRecord};
use crate::sys::cgroup;
use crate::sys::descriptor::wait_readable;

/// How much is copied at a time.
const CHUNK: usize = 16 << 10;

/// How much is still taken out of a stream after QEMU's end, at most: more than
/// a pipe and a socket hold, and an end to what a companion might still write.
const LAST_WORDS: usize = 1 << 20;

/// How long a companion may have ended before QEMU and count as ended with it:
/// it sees QEMU's descriptors close a moment before the process is gone.
const TOGETHER_MS: i64 = 200;

/// Watches until QEMU has ended and that is written down.
pub(super) fn until_the_end(mut kept: Kept) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let ready = kept.wait()?;
        if ready.contains(&Ready::Qemu) {
            return finish(kept, &mut buffer);
        }
        // Backwards, so that those that go move none that is still to come.
        for what in ready.into_iter().rev() {
            match what {
                Ready::Qemu => {}
                Ready::Stream(stream) => {
                    kept.copy(stream, &mut buffer);
                }
                Ready::Companion(at) => {
                    if wait_readable(&[&kept.pidfd], Some(TOGETHER_MS))?.is_empty() {
                        kept.bury(at);
                    } else {
                        return finish(kept, &mut buffer);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Qemu,
    Stream(Stream),
    Companion(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Console,
    Output,
}

impl Kept {
    /// What has ended, or has something to say; waits until something has.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut all: Vec<(Ready, BorrowedFd<'_>)> = vec![(Ready::Qemu, self.pidfd.as_fd())];
        for stream in [Stream::Console, Stream::Output] {
            all.extend(self.file(stream).map(|file| (Ready::Stream(stream), file.as_fd())));
        }
        let companions = self.companions.iter().enumerate();
        all.extend(companions.map(|(at, beside)| (Ready::Companion(at), beside.pidfd.as_fd())));
        let (what, fds): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(wait_readable(&fds, None)?.into_iter().map(|at| what[at]).collect())
    }

    /// Says that a companion ended while the machine runs on.
    fn bury(&mut self, at: usize) {
        let mut beside = self.companions.remove(at);
        let how = match beside.child.as_mut().map(std::process::Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(_)) | None => "nobody saw how".to_owned(),
        };
        let line = format!(
            "{} ended before the machine ({how}); its network interface is silent until the \
             machine is stopped and started\n",
            beside.program
        );
        // A full disk costs the log, never the machine.
        let _ = self.logs.qemu.append(line.as_bytes());
    }

    fn file(&self, stream: Stream) -> Option<&File> {
        match stream {
            Stream::Console => self.console.as_ref(),
            Stream::Output => self.output.as_ref(),
        }
    }

    /// Copies once. `false` when there is nothing more for now, or for ever.
    fn copy(&mut self, stream: Stream, buffer: &mut [u8]) -> bool {
        let (source, log): (&mut Option<File>, &mut BoundedLog) = match stream {
            Stream::Console => (&mut self.console, &mut self.logs.console),
            Stream::Output => (&mut self.output, &mut self.logs.qemu),
        };
        let Some(file) = source else { return false };
        match file.read(buffer) {
            Ok(0) => *source = None,
            // A full disk costs the log, never the machine: a guest whose
            // console is not read would stop at its next line.
            Ok(count) => {
                let _ = log.append(&buffer[..count]);
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => *source = None,
        }
        false
    }
}

fn finish(mut kept: Kept, buffer: &mut [u8]) -> io::Result<()> {
    for beside in &mut kept.companions {
        // Most end by themselves; one that a guest has taken over may not.
        let _ = beside.pidfd.kill();
        if let Some(child) = &mut beside.child {
            let _ = child.wait();
        }
    }
    for stream in [Stream::Console, Stream::Output] {
        for _ in 0..LAST_WORDS / CHUNK {
            if !kept.copy(stream, buffer) {
                break;
            }
        }
    }
    let exit = match kept.child.as_mut().map(std::process::Child::wait).transpose()? {
        Some(status) => ExitRecord { status: status.code(), signal: status.signal() },
        // Not this keeper's child: the kernel tells its status to nobody here.
        None => ExitRecord::default(),
    };
    records::write(&kept.logs.folder, records::EXIT, &exit)?;
    cgroup::leave(&kept.group);
    drop(kept.folder);
    Ok(())
}
