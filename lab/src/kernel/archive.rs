//! Debian's package archive, trusted only as far as a signature reaches:
//! InRelease is checked by gpgv against the host's keyring, the index by the
//! hash in InRelease, the package by the hash in the index. Kernels change with
//! every security update, so no hash is pinned.
//!
//! apt's own sources are not used: on Ubuntu they name another archive. Its
//! downloader is, because it is on every such system and honours apt's proxy.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::is_newer;
use crate::program::output;

/// The keys of Debian's archive, from the package `debian-archive-keyring` of
/// both Debian and Ubuntu.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// apt's downloader, without a package list of its own.
const DOWNLOADER: &str = "/usr/lib/apt/apt-helper";
/// Where bookworm's packages are: the archive and the suite. The newest
/// version of the three wins, as with apt.
const SUITES: &[(&str, &str)] = &[
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian", "bookworm-updates"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
];
/// The index of the packages that are free software, for this architecture.
const INDEX: &str = "main/binary-amd64/Packages.xz";

/// The verified package indexes of all suites.
#[derive(Debug)]
pub(super) struct Indexes {
    /// The archive and the text of its index.
    texts: Vec<(&'static str, String)>,
}

/// A package as a verified index tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    archive: &'static str,
    version: String,
    path: String,
    sha256: String,
    /// The field `Depends`, empty when there is none.
    pub(super) depends: String,
}

impl Indexes {
    /// Fetches and verifies the indexes, with `scratch` for what lies between.
    pub(super) fn fetch(scratch: &Path) -> Result<Self> {
        let mut texts = Vec::new();
        for (archive, suite) in SUITES {
            let text = fetch_index(archive, suite, scratch)
                .with_context(|| format!("Debian's archive {archive}, suite {suite}"))?;
            texts.push((*archive, text));
        }
        Ok(Self { texts })
    }

    /// The newest version of a package.
    pub(super) fn newest(&self, name: &str) -> Result<Package> {
        self.texts
            .iter()
            .flat_map(|(archive, text)| packages(archive, text, name))
            .reduce(|best, next| if is_newer(&next.version, &best.version) { next } else { best })
            .with_context(|| format!("Debian's archive has no package {name}"))
    }

    /// Downloads a package and compares its hash.
    pub(super) fn download(&self, package: &Package, scratch: &Path) -> Result<PathBuf> {
        let file = scratch.join("package.deb");
        download(&format!("{}/{}", package.archive, package.path), &file)?;
        expect_hash(&file, &package.sha256)?;
        Ok(file)
    }
}

fn fetch_index(archive: &str, suite: &str, scratch: &Path) -> Result<String> {
    let signed = scratch.join(format!("InRelease.{suite}"));
    download(&format!("{archive}/dists/{suite}/InRelease"), &signed)?;
    let release = verify(&signed)?;
    let hash = index_hash(&release, INDEX)
        .with_context(|| format!("the signed release file names no {INDEX}"))?;
    let index = scratch.join(format!("Packages.{suite}.xz"));
    download(&format!("{archive}/dists/{suite}/{INDEX}"), &index)?;
    expect_hash(&index, &hash)?;
    let text = output(Command::new(DOWNLOADER).arg("cat-file").arg(&index))?;
    String::from_utf8(text).context("the package index is not UTF-8")
}

fn download(url: &str, to: &Path) -> Result<()> {
    // As root apt drops to a user of its own, which may not write here; what
    // comes is verified by us, not by where it was written.
    output(
        Command::new(DOWNLOADER)
            .args(["-o", "APT::Sandbox::User=root", "download-file", url])
            .arg(to),
    )
    .map(drop)
    .with_context(|| format!("cannot download {url}"))
}

/// Gives the text that was signed. The file may carry signatures of keys that
/// this host does not know yet, for which gpgv fails as a whole: what counts
/// is that one known key signed and that no signature is wrong.
fn verify(signed: &Path) -> Result<String> {
    let text = signed.with_extension("verified");
    let checked = Command::new("gpgv")
        .args(["--status-fd", "1", "--keyring", KEYRING, "--output"])
        .arg(&text)
        .arg(signed)
        .output()
        .context("cannot run gpgv")?;
    let status = String::from_utf8_lossy(&checked.stdout);
    if !is_signed(&status) {
        bail!(
            "the release file is not signed by a key of {KEYRING}: {}",
            crate::program::tail(&checked.stderr)
        );
    }
    fs::read_to_string(&text).context("gpgv gave no text for the release file that it verified")
}

/// Whether gpgv's status lines tell of a good signature and of no bad one.
fn is_signed(status: &str) -> bool {
    let mut keywords =
        status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")?.split(' ').next());
    let any = |wanted: &[&str]| {
        let mut all = keywords.clone();
        all.any(|keyword| wanted.contains(&keyword))
    };
    let bad = any(&["BADSIG", "EXPSIG", "REVKEYSIG"]);
    !bad && keywords.any(|keyword| keyword == "VALIDSIG")
}

/// The SHA-256 that a release file tells for one of its files.
fn index_hash(release: &str, file: &str) -> Option<String> {
    release
        .lines()
        .skip_while(|line| *line != "SHA256:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let hash = words.next()?;
            (words.nth(1)? == file).then(|| hash.to_owned())
        })
}

/// Every version of a package that an index holds.
fn packages(archive: &'static str, index: &str, name: &str) -> Vec<Package> {
    let first = format!("Package: {name}\n");
    index
        .split("\n\n")
        .filter(|stanza| stanza.trim_start_matches('\n').starts_with(&first))
        .filter_map(|stanza| {
            let field = |key: &str| {
                stanza
                    .lines()
                    .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.to_owned()))
            };
            Some(Package {
                archive,
                version: field("Version")?,
                path: field("Filename")?,
                sha256: field("SHA256")?,
                depends: field("Depends").unwrap_or_default(),
            })
        })
        .collect()
}

fn expect_hash(file: &Path, expected: &str) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut source = fs::File::open(file)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let mut found = String::new();
    for byte in hasher.finalize() {
        found.push_str(&format!("{byte:02x}"));
    }
    if found != expected {
        bail!("{} has the SHA-256 {found}, not {expected}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "Origin: Debian\nMD5Sum:\n aa 10 main/binary-amd64/Packages.xz\n\
        SHA256:\n bb 9 contrib/binary-amd64/Packages.xz\n cc 10 main/binary-amd64/Packages.xz\n";

    #[test]
    fn takes_the_sha256_and_not_the_md5() {
        assert_eq!(index_hash(RELEASE, INDEX).unwrap(), "cc");
        assert_eq!(index_hash(RELEASE, "main/binary-arm64/Packages.xz"), None);
    }

    #[test]
    fn an_unknown_key_beside_a_known_one_is_fine_and_a_bad_signature_never() {
        let good = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG A x\n[GNUPG:] VALIDSIG A 1\n";
        assert!(is_signed(good));
        assert!(is_signed(&format!("{good}[GNUPG:] ERRSIG B 1 8 01 1 9\n[GNUPG:] NO_PUBKEY B\n")));
        assert!(!is_signed(&format!("{good}[GNUPG:] BADSIG B y\n")));
        assert!(!is_signed("[GNUPG:] NO_PUBKEY B\n"));
        assert!(!is_signed("VALIDSIG without its prefix\n"));
    }

    #[test]
    fn finds_every_version_of_one_package() {
        let index = "Package: a\nVersion: 1\nFilename: p/a1\nSHA256: aa\n\n\
            Package: ab\nVersion: 9\nFilename: p/ab\nSHA256: bb\n\n\
            Package: a\nVersion: 2\nFilename: p/a2\nSHA256: cc\nDepends: c (= 2)\n";
        let found = packages("http://x", index, "a");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].depends, "c (= 2)");
        assert_eq!(found[1].path, "p/a2");
    }

    #[test]
    fn versions_compare_as_dpkg_has_it() {
        let one = "Package: a\nVersion: 6.1.9-1\nFilename: p/9\nSHA256: aa\n";
        let two = "Package: a\nVersion: 6.1.10-1\nFilename: p/10\nSHA256: bb\n";
        let indexes = Indexes { texts: vec![("http://x", two.into()), ("http://y", one.into())] };
        assert_eq!(indexes.newest("a").unwrap().path, "p/10");
        assert!(indexes.newest("b").is_err());
    }

    #[test]
    fn a_changed_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, b"abc").unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        expect_hash(&file, hash).unwrap();
        fs::write(&file, b"abd").unwrap();
        assert!(expect_hash(&file, hash).is_err());
    }
}
