//! Boots a guest by hand and shows its console: `cargo run -p lab --example
//! boot -- [AGENT|-] [KERNEL OPTIONS]`. For work on the guest's scripts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::accel::Accelerator;
use lab::qemu::{BOOT_LIMIT, Boot, Guest};

/// How long the guest runs after its programs are up.
const WATCHED: Duration = Duration::from_secs(6);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let agent = arguments.next().filter(|path| path != "-").map(PathBuf::from);
    let options = arguments.collect::<Vec<_>>().join(" ");

    let say = |line: &str| println!("{line}");
    let tree = lab::Tree::locate()?;
    lab::packages::ensure(lab::packages::TO_BOOT_GUESTS, &say)?;
    let kernel = lab::kernel::obtain(&tree, &say)?;
    let folder = tree.cache().join("by-hand");
    std::fs::create_dir_all(&folder)?;
    let initrd = folder.join("initrd");
    let contents = lab::guest::Contents {
        kernel: &kernel,
        agent: agent.as_deref(),
        programs: &[],
        files: &[],
    };
    lab::guest::build(&contents, &initrd)?;
    let disk = folder.join("disk.raw");
    std::fs::File::create(&disk)?.set_len(64 << 20)?;

    let begun = Instant::now();
    let boot = Boot {
        kernel: &kernel.image,
        initrd: &initrd,
        options: &options,
        accelerator: Accelerator::Tcg,
        network: true,
        disk: Some(&disk),
        ports: &[],
    };
    let mut guest = Guest::start(&boot, &folder)?;
    guest.wait_for_console(lab::guest::USERSPACE_IS_UP, BOOT_LIMIT)?;
    println!("userspace after {:.1} s", begun.elapsed().as_secs_f64());
    let ended = guest.wait_for_exit(WATCHED);
    println!("{}", guest.console());
    match ended {
        Ok(status) => println!("QEMU ended: {status}"),
        Err(error) => println!("still running: {}", error.root_cause()),
    }
    Ok(())
}
