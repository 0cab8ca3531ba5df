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

/// Watches until QEMU has ended and that is written down.
pub(super) fn until_the_end(mut kept: Kept) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let ready = {
            let mut fds: Vec<BorrowedFd<'_>> = vec![kept.pidfd.as_fd()];
            let mut streams = Vec::new();
            for stream in [Stream::Console, Stream::Output] {
                if let Some(file) = kept.file(stream) {
                    fds.push(file.as_fd());
                    streams.push(stream);
                }
            }
            let ready = wait_readable(&fds, None)?;
            let ended = ready.contains(&0);
            let streams: Vec<_> = streams
                .into_iter()
                .enumerate()
                .filter(|(at, _)| ready.contains(&(at + 1)))
                .map(|(_, s)| s)
                .collect();
            (ended, streams)
        };
        let (ended, streams) = ready;
        if ended {
            return finish(kept, &mut buffer);
        }
        for stream in streams {
            kept.copy(stream, &mut buffer);
        }
        // A companion that died is of no use as a zombie either.
        kept.companions.retain_mut(|companion| !matches!(companion.try_wait(), Ok(Some(_))));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Console,
    Output,
}

impl Kept {
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
