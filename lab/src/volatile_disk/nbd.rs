//! The server's half of NBD, for one client that is QEMU. `FUA` is not offered:
//! clients flush instead, and the disk has one way to make writes durable.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::{Contents, flush, lock};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) + 1;
const INFO_EXPORT: u16 = 0;

/// The flags field is there; flushes are understood.
const TRANSMISSION_FLAGS: u16 = 1 | 4;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

const EINVAL: u32 = 22;

/// The largest request that is taken, in bytes: what QEMU sends at most.
const MAX_REQUEST: usize = 32 << 20;
/// The most that comes with an option, in bytes: a name and a few numbers.
const MAX_OPTION: usize = 64 << 10;

/// Serves a client until it leaves or dies, or the disk is unplugged.
///
/// # Errors
/// `InvalidData` when the client breaks the protocol; others when it dies.
pub(super) fn serve(
    mut stream: &UnixStream,
    contents: &Mutex<Contents>,
    unplugged: &AtomicBool,
) -> io::Result<()> {
    let size = lock(contents).seen.len() as u64;
    if negotiate(&mut stream, size)? {
        while transmit(&mut stream, contents, unplugged)? {}
    }
    Ok(())
}

/// Whether the client goes on to use the disk.
fn negotiate(stream: &mut (impl Read + Write), size: u64) -> io::Result<bool> {
    stream.write_all(&MAGIC.to_be_bytes())?;
    stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
    stream.write_all(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes())?;
    let _flags = u32::from_be_bytes(array(stream)?);
    loop {
        expect(u64::from_be_bytes(array(stream)?) == OPTION_MAGIC, "no option")?;
        let option = u32::from_be_bytes(array(stream)?);
        let length = u32::from_be_bytes(array(stream)?) as usize;
        expect(length <= MAX_OPTION, "an option too long")?;
        stream.read_exact(&mut vec![0; length])?;
        match option {
            OPTION_INFO | OPTION_GO => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(size.to_be_bytes());
                info.extend(TRANSMISSION_FLAGS.to_be_bytes());
                reply(stream, option, REPLY_INFO, &info)?;
                reply(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                reply(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => reply(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn reply(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, kind, length] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(data);
    stream.write_all(&bytes)
}

/// Serves one request; whether the client stays.
fn transmit(
    stream: &mut (impl Read + Write),
    contents: &Mutex<Contents>,
    unplugged: &AtomicBool,
) -> io::Result<bool> {
    expect(u32::from_be_bytes(array(stream)?) == REQUEST_MAGIC, "no request")?;
    let _flags = u16::from_be_bytes(array(stream)?);
    let kind = u16::from_be_bytes(array(stream)?);
    let handle: [u8; 8] = array(stream)?;
    let offset = usize::try_from(u64::from_be_bytes(array(stream)?)).map_err(io::Error::other)?;
    let length = u32::from_be_bytes(array(stream)?) as usize;
    expect(length <= MAX_REQUEST, "a request too long")?;
    let done = match kind {
        READ => {
            let contents = lock(contents);
            let range = offset..offset.saturating_add(length);
            contents.read(range).map(<[u8]>::to_vec)
        }
        WRITE => {
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes)?;
            lock(contents).write(offset, bytes).map(|()| Vec::new())
        }
        FLUSH if flush(contents, unplugged) => Some(Vec::new()),
        FLUSH | DISCONNECT => return Ok(false),
        _ => None,
    };
    let error = if done.is_some() { 0 } else { EINVAL };
    let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(error.to_be_bytes());
    bytes.extend(handle);
    bytes.extend(done.unwrap_or_default());
    stream.write_all(&bytes)?;
    Ok(true)
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn expect(holds: bool, what: &'static str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, what)) }
}

#[cfg(test)]
mod tests {
    use super::super::Disk;
    use super::*;

    #[test]
    fn a_flush_that_is_cut_off_has_not_happened() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let disk = Disk::new(vec![0; 4096]);
        let plug = disk.plug(&socket).unwrap();
        let mut client = connect(&socket);
        assert_eq!(request(&mut client, WRITE, 0, 512, &[1; 512]), 0);
        send(&mut client, FLUSH, 0, 0, &[]);
        drop(plug);
        let answered = array::<16>(&mut client).is_ok();
        assert_eq!(lock(&disk.contents).unflushed.is_empty(), answered);
    }

    /// A client that has gone through the handshake.
    fn connect(socket: &std::path::Path) -> UnixStream {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(hello[..8], *b"NBDMAGIC");
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        option(&mut stream, 8, &[]);
        assert_eq!(replied(&mut stream).0, REPLY_UNSUPPORTED, "structured replies");
        option(&mut stream, OPTION_GO, &[0; 6]);
        let (kind, info) = replied(&mut stream);
        assert_eq!((kind, &info[2..10]), (REPLY_INFO, &4096_u64.to_be_bytes()[..]));
        assert_eq!(replied(&mut stream).0, REPLY_ACK);
        stream
    }

    fn option(stream: &mut UnixStream, option: u32, data: &[u8]) {
        stream.write_all(&OPTION_MAGIC.to_be_bytes()).unwrap();
        stream.write_all(&option.to_be_bytes()).unwrap();
        stream.write_all(&u32::try_from(data.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(data).unwrap();
    }

    fn replied(stream: &mut UnixStream) -> (u32, Vec<u8>) {
        let head: [u8; 20] = array(stream).unwrap();
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut data = vec![0; number(16) as usize];
        stream.read_exact(&mut data).unwrap();
        (number(12), data)
    }

    /// Sends a request and gives its error.
    fn request(stream: &mut UnixStream, kind: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
        send(stream, kind, offset, length, data);
        let head: [u8; 16] = array(stream).unwrap();
        assert_eq!(head[8..], 7_u64.to_be_bytes());
        u32::from_be_bytes(head[4..8].try_into().unwrap())
    }

    fn send(stream: &mut UnixStream, kind: u16, offset: u64, length: u32, data: &[u8]) {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
        stream.write_all(&bytes).unwrap();
    }

    #[test]
    fn a_client_that_dies_has_its_flushed_writes_kept() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let disk = Disk::new(vec![0; 4096]);
        let plug = disk.plug(&socket).unwrap();
        let mut client = connect(&socket);
        assert_eq!(request(&mut client, WRITE, 0, 512, &[1; 512]), 0);
        assert_eq!(request(&mut client, FLUSH, 0, 0, &[]), 0);
        assert_eq!(request(&mut client, WRITE, 512, 512, &[2; 512]), 0);
        assert_eq!(request(&mut client, READ, 511, 2, &[]), 0);
        assert_eq!(array(&mut client).unwrap(), [1, 2]);
        assert_eq!(request(&mut client, READ, 4095, 2, &[]), EINVAL);
        assert_eq!(request(&mut client, 4, 0, 512, &[]), EINVAL, "trimming");
        drop(client);
        drop(plug);
        let cuts = (0..40).map(|seed| disk.cut(&mut fastrand::Rng::with_seed(seed)));
        assert_eq!(cuts.map(|cut| cut.unflushed).sum::<u64>(), 1, "the first cut takes it");
        assert_eq!(lock(&disk.contents).durable[..512], [1; 512]);
    }
}
