//! Boots the Debian guest by hand and runs commands in it: `cargo run -p lab
//! --example debian -- 'COMMAND' …`. For work on units and on the guest itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::accel::Accelerator;
use lab::debian::{self, Boot, Debian};

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// How long a shutdown may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(180);

fn main() -> Result<()> {
    let say = |line: &str| println!("{line}");
    let tree = lab::Tree::locate()?;
    lab::packages::ensure(lab::packages::TO_BOOT_GUESTS, &say)?;
    lab::packages::ensure(lab::packages::TO_MAKE_DEBIAN, &say)?;
    let kernel = lab::kernel::obtain(&tree, &say)?;
    let image = debian::obtain(&tree, &say)?;
    let folder = tree.cache().join("debian-by-hand");
    std::fs::create_dir_all(&folder)?;
    let (disk, initrd) = (folder.join("disk.raw"), folder.join("initrd"));
    debian::disk(&image, &disk)?;
    debian::initrd(&kernel, &[], &initrd)?;

    let begun = Instant::now();
    let after = |what: &str| println!("{what} after {:.1} s", begun.elapsed().as_secs_f64());
    let boot =
        Boot { kernel: &kernel, initrd: &initrd, disk: &disk, accelerator: Accelerator::Tcg };
    let mut guest = Debian::boot(&boot, &folder)?;
    after("running");
    for command in std::env::args().skip(1) {
        let ran = guest.run(&command, COMMAND_LIMIT)?;
        print!("$ {command}\n{}{}", ran.output, ran.errors);
        after(&format!("status {:?}", ran.status));
    }
    guest.power_off(SHUTDOWN_LIMIT)?;
    after("off");
    Ok(())
}
