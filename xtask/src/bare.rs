//! `cargo xtask bare`: the demo on a machine that has nothing of ours. A chroot
//! of Debian or Ubuntu with rustup, gcc and git stands for the machine, and a
//! fresh clone of HEAD for what a visitor would have. Separate from the
//! whole-system tests: it needs root, and takes minutes and an archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::packages::{Evidence, Need};
use lab::{Tree, packages, program};

/// The demo in a chroot of a bare Debian 12 or Ubuntu 24.04; needs root
#[derive(clap::Args)]
pub struct Args {
    /// Which system
    system: System,
}

/// The systems that the demo promises to run on.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum System {
    /// Debian 12
    Debian,
    /// Ubuntu 24.04
    Ubuntu,
}

/// What a visitor is asked to have; apt is in no minimal system of its own.
const PACKAGES: &str = "apt,ca-certificates,gcc,git,libc6-dev";
/// The keys of Ubuntu's archive, which Debian has no package of. The release
/// that carries this one is frozen, so its hash never changes.
const UBUNTU_KEYRING: &str = "http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb";
const UBUNTU_KEYRING_HASH: &str =
    "SHA256:36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8";
const MMDEBSTRAP: Need = Need {
    evidence: Evidence::Program("mmdebstrap"),
    package: "mmdebstrap",
    purpose: "makes the chroot",
};

/// Runs in its own mount and process namespaces, so that nothing outlives it:
/// no mount, no VM. Changes go to an overlay, so that the base stays bare.
/// $1 base, $2 scratch, $3 and $4 the host's folders of rustup and cargo.
const SCRIPT: &str = r#"
set -eu
root=$2/root
mount --make-rprivate /
mount -t overlay bare -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mkdir -p "$root$3" "$root/root/.cargo"
mount --bind -o ro "$3" "$root$3"
cp -a "$4/bin" "$root/root/.cargo/"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp "$2/apt.conf" "$root/etc/apt/apt.conf.d/90host"
cp -a "$2/clone" "$root/root/infinibay"
chroot "$root" env HOME=/root RUSTUP_HOME="$3" CARGO_HOME=/root/.cargo \
    PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c 'cd /root/infinibay && cargo xtask demo --once'
"#;

/// Makes the chroot unless it is there, and runs the demo in it.
pub fn run(args: &Args) -> Result<()> {
    let tree = Tree::locate()?;
    packages::ensure(&[MMDEBSTRAP], &|line| println!("{line}"))?;
    let folder = tree.target().join("bare");
    fs::create_dir_all(&folder)?;
    let base = base(args.system, &folder)?;

    let scratch = base.with_extension("scratch");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).context("cannot remove what an earlier run left")?;
    }
    for name in ["root", "upper", "work"] {
        fs::create_dir_all(scratch.join(name))?;
    }
    let clone = scratch.join("clone");
    program::run(Command::new("git").args(["clone", "--quiet"]).arg(tree.root()).arg(&clone))?;
    fs::write(scratch.join("apt.conf"), apt_settings()?)?;
    let script = scratch.join("script");
    fs::write(&script, SCRIPT)?;

    let mut inside = Command::new("unshare");
    inside
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh"])
        .arg(&script)
        .args([&base, &scratch, &home("RUSTUP_HOME", ".rustup")?, &home("CARGO_HOME", ".cargo")?])
        // What this checkout's cargo tells its children is not the visitor's.
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("RUSTUP_TOOLCHAIN");
    let ran = program::run(&mut inside);
    fs::remove_dir_all(&scratch).context("cannot remove the chroot's changes")?;
    ran
}

/// The bare system, made once.
fn base(system: System, folder: &Path) -> Result<PathBuf> {
    let (name, suite, archive) = match system {
        System::Debian => ("debian", "bookworm", "http://deb.debian.org/debian"),
        System::Ubuntu => ("ubuntu", "noble", "http://archive.ubuntu.com/ubuntu"),
    };
    let base = folder.join(name);
    if base.exists() {
        return Ok(base);
    }
    println!("making a bare {name} in {}", base.display());
    let unfinished = folder.join(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase"]).arg(format!("--include={PACKAGES}"));
    if let System::Ubuntu = system {
        // passt lies in universe, which Ubuntu's own installer switches on.
        make.arg("--components=main,universe");
        make.arg(format!("--keyring={}", ubuntu_keys(folder)?.display()));
    }
    program::run(make.arg(suite).arg(&unfinished).arg(archive))?;
    fs::rename(&unfinished, &base)?;
    Ok(base)
}

/// Fetches the keys of Ubuntu's archive, checked by their hash.
fn ubuntu_keys(folder: &Path) -> Result<PathBuf> {
    let package = folder.join("ubuntu-keyring.deb");
    program::output(
        Command::new("/usr/lib/apt/apt-helper")
            .args(["-o", "APT::Sandbox::User=root", "download-file", UBUNTU_KEYRING])
            .arg(&package)
            .arg(UBUNTU_KEYRING_HASH),
    )?;
    let unpacked = folder.join("ubuntu-keyring");
    program::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    Ok(unpacked.join("usr/share/keyrings/ubuntu-archive-keyring.gpg"))
}

/// How this host's apt reaches the network: proxies and the rules on dates.
fn apt_settings() -> Result<String> {
    let all = program::output(Command::new("apt-config").arg("dump"))?;
    Ok(String::from_utf8_lossy(&all)
        .lines()
        .filter(|line| {
            ["Acquire::http", "Acquire::https", "Acquire::Check-"]
                .iter()
                .any(|prefix| line.starts_with(prefix))
        })
        .map(|line| format!("{line}\n"))
        .collect())
}

/// A folder that rustup's tools name by a variable, or keep at home.
fn home(variable: &str, folder: &str) -> Result<PathBuf> {
    let path = match (std::env::var_os(variable), std::env::home_dir()) {
        (Some(named), _) => PathBuf::from(named),
        (None, Some(home)) => home.join(folder),
        (None, None) => bail!("neither {variable} nor HOME is set"),
    };
    path.canonicalize().with_context(|| format!("{} is not there", path.display()))
}
