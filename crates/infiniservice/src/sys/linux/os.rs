//! The operating system: os-release(5) and uname(2).

use guest_protocol::facts::Os;

use super::procfs;
use crate::sys::{ReadError, Scratch};

/// Where distributions describe themselves, the first that exists wins.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// What os-release says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    id: String,
    pretty_name: String,
    version_id: String,
}

/// Reads os-release. Fails where there is none, as in an initramfs.
pub fn release(scratch: &mut Scratch) -> Result<Release, ReadError> {
    procfs::read(OS_RELEASE[0], scratch)
        .map(parse_release)
        .or_else(|error| procfs::read(OS_RELEASE[1], scratch).map(parse_release).map_err(|_| error))
}

/// The operating system as it is now: the host name may have changed.
pub fn describe(release: &Release) -> Os {
    let uname = rustix::system::uname();
    let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
    Os {
        family: "linux".into(),
        id: release.id.clone(),
        pretty_name: match &release.pretty_name[..] {
            "" => "Linux".into(),
            name => name.into(),
        },
        version_id: release.version_id.clone(),
        kernel_release: text(uname.release()),
        architecture: text(uname.machine()),
        hostname: text(uname.nodename()),
    }
}

fn parse_release(text: &[u8]) -> Release {
    let mut release = Release::default();
    for line in procfs::lines(text) {
        let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
        let (key, value) = (&line[..equals], unquote(&line[equals + 1..]));
        match key {
            b"ID" => release.id = value,
            b"PRETTY_NAME" => release.pretty_name = value,
            b"VERSION_ID" => release.version_id = value,
            _ => {}
        }
    }
    release
}

/// Values are quoted as a shell quotes.
fn unquote(value: &[u8]) -> String {
    let value = value.trim_ascii();
    let Some(quote @ (b'"' | b'\'')) = value.first().copied() else {
        return procfs::string(value);
    };
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value[1..].iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' if quote == b'"' => plain.extend(bytes.next()),
            _ if byte == quote => break,
            _ => plain.push(byte),
        }
    }
    procfs::string(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quoted_and_bare_values_are_read() {
        let text = b"PRETTY_NAME=\"Debian \\\"GNU\\\" 12\"\nID=debian\n# x\nVERSION_ID='12'\n";
        let release = parse_release(text);
        assert_eq!(release.pretty_name, "Debian \"GNU\" 12");
        assert_eq!((&release.id[..], &release.version_id[..]), ("debian", "12"));
    }

    #[test]
    fn a_system_without_a_name_is_linux() {
        let os = describe(&Release::default());
        assert_eq!((&os.family[..], &os.pretty_name[..]), ("linux", "Linux"));
        assert!(!os.kernel_release.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, value: Vec<u8>) {
            parse_release(&text);
            unquote(&[b"\"", &value[..]].concat());
        }
    }
}
