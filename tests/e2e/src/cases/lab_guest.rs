//! The ground under the other tests: a guest of the lab, without anything of
//! ours in it, boots under a plain QEMU.

use anyhow::Result;
use lab::accel;
use lab::guest::Contents;
use lab::qemu::{BOOT_LIMIT, Boot, Guest};

use crate::scene::Scene;

/// A guest without an agent comes up to its own programs.
pub async fn boots_to_its_own_programs(scene: Scene) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let stage = scene.stage();
        let initrd = scene.folder().join("initrd");
        let contents = Contents { agent: None, ..stage.contents() };
        lab::guest::build(&contents, &initrd)?;
        let boot = Boot {
            kernel: &stage.kernel.image,
            initrd: &initrd,
            options: "",
            accelerator: accel::find(&lab::Tree::locate()?, &stage.programs.daemon)?,
            network: false,
            disk: None,
            ports: &[],
        };
        let mut guest = Guest::start(&boot, &scene.folder().join("vm"))?;
        stage.count_guest();
        guest.wait_for_console(lab::guest::USERSPACE_IS_UP, BOOT_LIMIT)
    })
    .await?
}
