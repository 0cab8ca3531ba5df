//! Records what the guests of hub-scale replay: reports of the lab's agent in a
//! guest with as many disks and interfaces as make a full report of 4 KiB.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Tree;
use lab::guest::Contents;
use lab::qemu::{self, Boot};
use serde_json::{Value, json};

use super::reports::{PATH, ROUND};
use crate::guest_wire::Client;

/// Disks of the guest, each with a file system.
const DISKS: usize = 6;
/// Interfaces of the guest.
const INTERFACES: usize = 6;
/// How large each disk is: mke2fs needs some room.
const DISK_BYTES: u64 = 16 << 20;
/// What is measured: full reports of 4 KiB, partial ones of 600 bytes.
const FULL_BYTES: RangeInclusive<usize> = 3_800..=4_400;
/// Their mean.
const PARTIAL_BYTES: RangeInclusive<usize> = 570..=660;
/// How long the guest may take to be as busy as it will be.
const BUSY_LIMIT: Duration = Duration::from_secs(180);

/// Makes the file systems, and then some traffic each second.
const FILES: &[(&str, u32, &str)] = &[("etc/lab/network", 0o755, include_str!("../../guest/busy"))];

/// Boots the guest and writes the file.
pub fn run(daemon: &Path, agent: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ib-bench-").tempdir_in("/tmp")?;
    let tree = Tree::locate()?;
    let kernel = lab::kernel::obtain(&tree, &|line| eprintln!("{line}"))?;
    let initrd = folder.path().join("initrd");
    let contents = Contents { kernel: &kernel, agent: Some(agent), programs: &[], files: FILES };
    lab::guest::build(&contents, &initrd)?;
    let boot = Boot {
        kernel: &kernel.image,
        initrd: &initrd,
        options: "",
        accelerator: lab::accel::find(&tree, daemon)?,
        network: false,
        disk: None,
        ports: &[],
    };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(qemu::arguments(&boot, folder.path()));
    for index in 0..DISKS {
        let disk = folder.path().join(format!("disk{index}"));
        File::create(&disk)?.set_len(DISK_BYTES)?;
        command.arg("-blockdev").arg(format!(
            "driver=raw,node-name=d{index},file.driver=file,file.filename={}",
            disk.display()
        ));
        command.arg("-device").arg(format!("virtio-blk-pci,drive=d{index}"));
    }
    for index in 0..INTERFACES {
        command.arg("-netdev").arg(format!("user,id=n{index},restrict=on"));
        command.arg("-device").arg(format!("virtio-net-pci,netdev=n{index}"));
    }
    let mut guest = qemu::Guest::spawn(command, folder.path())?;
    guest.wait_for_console("bench: busy", BUSY_LIMIT)?;
    let lines = record(&mut Client::connect(&guest.channel_path())?)?;
    std::fs::write(PATH, lines).with_context(|| format!("{PATH} could not be written"))
}

/// A full report and the partial ones after it.
fn record(agent: &mut Client) -> Result<String> {
    agent.hello()?;
    let begun = Instant::now();
    loop {
        ensure!(begun.elapsed() < BUSY_LIMIT, "no round of reports was of the wanted size");
        agent.send(&json!({"execute": "agent-report"}))?;
        let mut lines = String::new();
        let mut reports = vec![report(agent, true)?];
        while reports.len() < ROUND {
            reports.push(report(agent, false)?);
        }
        for report in &reports {
            lines.push_str(&report.to_string());
            lines.push('\n');
        }
        let sizes: Vec<usize> = lines.lines().map(str::len).collect();
        eprintln!("reports of {sizes:?} bytes");
        // The first moments after a boot are not those of a guest at work.
        let partial = sizes[1..].iter().sum::<usize>() / (ROUND - 1);
        if FULL_BYTES.contains(&sizes[0]) && PARTIAL_BYTES.contains(&partial) {
            return Ok(lines);
        }
    }
}

fn report(agent: &mut Client, full: bool) -> Result<Value> {
    agent.wait_for(|message| message["event"] == "REPORT" && message["data"]["full"] == full)
}
