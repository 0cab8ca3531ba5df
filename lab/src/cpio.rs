//! The `newc` cpio format, which the kernel unpacks as its initial RAM file
//! system. Written here so that the lab needs no `cpio` and no root to make a
//! device node, and so that the same contents give the same bytes.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive. Everything belongs to root and has the time 0.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    inode: u32,
    written: usize,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// Adds a directory; its parent must have been added before.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), b"")
    }

    /// Adds a file with the given permissions.
    ///
    /// # Errors
    /// When the archive cannot be written, or for contents of 4 GiB and more.
    pub fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, (0, 0), contents)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn symlink(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), to.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER | 0o600, (major, minor), b"")
    }

    /// Ends the archive and gives the writer back.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, (0, 0), b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(contents.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned()))?;
        let name_size = u32::try_from(name.len() + 1)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidFilename, name.to_owned()))?;
        self.inode += 1;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(b"\0")?;
        self.pad()?;
        self.put(contents)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        Ok(())
    }

    /// Headers and contents begin at multiples of four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_fields_of_the_format() {
        let mut writer = Writer::new(Vec::new());
        writer.file("init", 0o755, b"hello").unwrap();
        let archive = writer.finish().unwrap();
        let header = std::str::from_utf8(&archive[..110]).unwrap();
        assert_eq!(&header[..6], "070701");
        assert_eq!(&header[14..22], "000081ed", "a regular file, 0755");
        assert_eq!(&header[54..62], "00000005", "five bytes");
        assert_eq!(&header[94..102], "00000005", "four letters and a zero");
        assert_eq!(&archive[110..115], b"init\0");
        assert_eq!(&archive[116..121], b"hello", "contents begin at a multiple of four");
    }

    #[test]
    fn everything_is_aligned_and_ended() {
        for length in 0..9 {
            let mut writer = Writer::new(Vec::new());
            writer.file(&"n".repeat(length + 1), 0o644, &vec![b'x'; length]).unwrap();
            writer.character_device("dev/console", 5, 1).unwrap();
            let archive = writer.finish().unwrap();
            assert_eq!(archive.len() % 4, 0);
            let text = String::from_utf8_lossy(&archive);
            assert_eq!(text.matches("070701").count(), 3);
            assert!(text.contains(TRAILER));
        }
    }
}
