//! A disk with a write cache that a power cut empties, for QEMU to use over NBD.
//!
//! A file would not do: what a killed QEMU wrote stays in the host's page cache,
//! flushed by the guest or not. nbdkit's cache filter loses all that was not
//! flushed or nothing of it; a real disk writes its cache in any order, and that
//! is what finds a flush that is missing between two writes.
//!
//! The protocol is NBD's fixed newstyle with simple replies, as in
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

mod nbd;

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a disk writes wholly or not at all, in bytes.
const SECTOR: usize = 512;
/// How long a flush takes, as on a disk that turns. With none the power would
/// hardly ever go between a write and its flush.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// A disk. It outlives the machines that use it.
#[derive(Debug)]
pub struct Disk {
    contents: Arc<Mutex<Contents>>,
}

/// What a power cut did to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Writes that were in the cache, not flushed.
    pub unflushed: u64,
    /// How many of them never reached the disk.
    pub lost: u64,
    /// How many of them reached it in part.
    pub torn: u64,
}

#[derive(Debug)]
struct Contents {
    /// What survives.
    durable: Vec<u8>,
    /// What the machine reads: with what it has not flushed.
    seen: Vec<u8>,
    /// What it has not flushed, in the order in which it was written.
    unflushed: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    /// A disk that holds `contents`.
    #[must_use]
    pub fn new(contents: Vec<u8>) -> Self {
        let contents =
            Contents { seen: contents.clone(), durable: contents, unflushed: Vec::new() };
        Self { contents: Arc::new(Mutex::new(contents)) }
    }

    /// Lets a machine use the disk through `socket`, which is made.
    ///
    /// # Errors
    /// When the socket or its thread cannot be made.
    pub fn plug(&self, socket: &Path) -> Result<Plug> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let line = Arc::new(Line::default());
        let (contents, served) = (Arc::clone(&self.contents), Arc::clone(&line));
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || serve(&listener, &contents, &served))
            .context("cannot start the disk's thread")?;
        Ok(Plug { socket: socket.to_owned(), line, thread: Some(thread) })
    }

    /// Cuts the power, once nobody is plugged in: of what was not flushed the
    /// disk keeps nothing, or what came first, or whatever it happened to have
    /// written, each as likely.
    pub fn cut(&self, random: &mut fastrand::Rng) -> Cut {
        let mut contents = lock(&self.contents);
        let unflushed = std::mem::take(&mut contents.unflushed);
        let mut cut = Cut { unflushed: unflushed.len() as u64, ..Cut::default() };
        let way = random.u8(0..3);
        let first = random.usize(0..=unflushed.len());
        for (index, (offset, bytes)) in unflushed.into_iter().enumerate() {
            let kept = match way {
                1 if index < first => bytes.len(),
                0 | 1 => 0,
                _ => written(bytes.len(), random),
            };
            contents.durable[offset..offset + kept].copy_from_slice(&bytes[..kept]);
            cut.lost += u64::from(kept == 0);
            cut.torn += u64::from(kept > 0 && kept < bytes.len());
        }
        contents.seen = contents.durable.clone();
        cut
    }
}

/// How much of a write of so many bytes was on the disk when the power went:
/// all, nothing, or the first sectors.
fn written(size: usize, random: &mut fastrand::Rng) -> usize {
    match random.u8(0..8) {
        0 => random.usize(0..=size / SECTOR) * SECTOR,
        1..4 => 0,
        _ => size,
    }
}

impl Contents {
    fn read(&self, range: Range<usize>) -> Option<&[u8]> {
        self.seen.get(range)
    }

    /// Fails when the disk ends before the bytes do.
    fn write(&mut self, offset: usize, bytes: Vec<u8>) -> Option<()> {
        let end = offset.checked_add(bytes.len())?;
        self.seen.get_mut(offset..end)?.copy_from_slice(&bytes);
        self.unflushed.push((offset, bytes));
        Some(())
    }

    fn flush(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.unflushed) {
            self.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

/// A disk that a machine can use, for as long as this value lives.
#[derive(Debug)]
pub struct Plug {
    socket: PathBuf,
    line: Arc<Line>,
    thread: Option<JoinHandle<()>>,
}

/// Between a plug and its thread.
#[derive(Debug, Default)]
struct Line {
    unplugged: AtomicBool,
    /// The machine that is served.
    client: Mutex<Option<UnixStream>>,
}

impl Line {
    fn client(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Plug {
    /// A flush that goes on ends, undone. A machine that still runs loses its
    /// disk.
    fn drop(&mut self) {
        self.line.unplugged.store(true, Ordering::Release);
        if let Some(client) = self.line.client().take() {
            // It may be gone already.
            let _ = client.shutdown(Shutdown::Both);
        }
        // Wakes the thread when it waits for a machine.
        let _ = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                eprintln!("the disk's thread had panicked");
            }
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(listener: &UnixListener, contents: &Mutex<Contents>, line: &Line) {
    for stream in listener.incoming() {
        let served = stream.and_then(|stream| {
            *line.client() = Some(stream.try_clone()?);
            // Looked at after that: whoever unplugs does it the other way round.
            if line.unplugged.load(Ordering::Acquire) {
                return Ok(());
            }
            nbd::serve(&stream, contents, &line.unplugged)
        });
        // A machine that is killed breaks off anywhere.
        if let Err(error) = served
            && error.kind() == io::ErrorKind::InvalidData
        {
            eprintln!("the disk's client does not speak NBD: {error}");
        }
        if line.unplugged.load(Ordering::Acquire) {
            return;
        }
    }
}

/// Makes what was written durable; whether there was the time to.
fn flush(contents: &Mutex<Contents>, unplugged: &AtomicBool) -> bool {
    let end = Instant::now() + FLUSH_TIME;
    while Instant::now() < end {
        if unplugged.load(Ordering::Acquire) {
            return false;
        }
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
    lock(contents).flush();
    true
}

fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 16 * SECTOR;

    /// What is on a disk after `cut`s of a power that went when the second of
    /// two sectors was not flushed.
    fn after_a_cut(seed: u64) -> (Vec<u8>, Cut) {
        let disk = Disk::new(vec![0; SIZE]);
        let mut contents = lock(&disk.contents);
        contents.write(0, vec![1; SECTOR]).unwrap();
        contents.flush();
        contents.write(SECTOR, vec![2; 2 * SECTOR]).unwrap();
        assert_eq!(contents.read(SECTOR..SECTOR + 1).unwrap(), [2], "it is seen before");
        drop(contents);
        let cut = disk.cut(&mut fastrand::Rng::with_seed(seed));
        let contents = lock(&disk.contents);
        assert_eq!(contents.seen, contents.durable, "nothing is left in the cache");
        (contents.seen.clone(), cut)
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_be_lost_kept_or_torn() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let (bytes, cut) = after_a_cut(seed);
            assert_eq!(bytes[..SECTOR], [1; SECTOR], "it was flushed");
            let there = bytes[SECTOR..3 * SECTOR].iter().filter(|byte| **byte == 2).count();
            assert_eq!(there % SECTOR, 0, "a sector is whole or not there");
            assert_eq!(cut.unflushed, 1);
            assert_eq!((cut.lost, cut.torn), (u64::from(there == 0), u64::from(there == SECTOR)));
            lost += u64::from(there == 0);
            torn += u64::from(there == SECTOR);
            kept += u64::from(there == 2 * SECTOR);
        }
        assert!(lost > 50 && kept > 20 && torn > 0, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn a_write_beyond_the_end_changes_nothing() {
        let disk = Disk::new(vec![0; SIZE]);
        let mut contents = lock(&disk.contents);
        assert!(contents.write(SIZE - 1, vec![1; 2]).is_none());
        assert!(contents.write(usize::MAX, vec![1; 2]).is_none());
        assert!(contents.unflushed.is_empty());
    }
}
