//! Machines under a real QEMU, and what can go wrong with them. They need root,
//! as the daemon does, and the packages qemu-system-x86 and passt.

use std::io::Write as _;
use std::process::Command;

use tempfile::TempDir;
use vmm_api::vm::{Network, NicSpec};

use super::super::contract::{SOON, Subject, adopted, contract, kill, until};
use super::super::{MachineEvent, contract::launch};
use super::*;
use crate::keeper::records::LaunchRecord;
use crate::sys::confine::User;
use crate::sys::descriptor::wait_readable;

/// Where Debian's and Ubuntu's package puts it.
pub(super) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A user for what is started without a pool.
pub(super) fn own_user() -> User {
    User { uid: 1_900_009_998, gid: 1_900_009_998, groups: vec![] }
}

struct Lab {
    dir: TempDir,
    hypervisor: QemuHypervisor,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    config: QemuConfig,
}

impl Lab {
    async fn with(configure: impl FnOnce(&mut QemuConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = QemuConfig {
            vm_dir: dir.path().join("vms"),
            accel: config::AccelChoice::Tcg,
            ..QemuConfig::default()
        };
        configure(&mut config);
        let (hypervisor, tasks, shutdown) = open(&config).await;
        Self { dir, hypervisor, tasks, shutdown, config }
    }

    /// A machine that runs this from its first sector, in 16-bit mode.
    fn boots(&self, code: &[u8]) -> Launch {
        let path = self.dir.path().join("boot.raw");
        let mut sector = code.to_vec();
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        let mut disk = std::fs::File::create(&path).unwrap();
        disk.write_all(&sector).unwrap();
        disk.set_len(1 << 20).unwrap();
        launch(&path, self.machine_type())
    }

    fn record(&self, id: Uuid) -> RunRecord {
        records::read(&self.hypervisor.host.dirs.of(id), records::RUN).unwrap().unwrap()
    }

    fn launch_record(&self, id: Uuid) -> LaunchRecord {
        records::read(&self.hypervisor.host.dirs.of(id), records::LAUNCH).unwrap().unwrap()
    }
}

impl Drop for Lab {
    /// A test that failed leaves no machine behind.
    fn drop(&mut self) {
        for id in self.hypervisor.host.dirs.all().unwrap_or_default() {
            let dir = self.hypervisor.host.dirs.of(id);
            let keeper = keeper_of(&dir);
            if let Ok((_, pidfd)) = found(&dir) {
                let _ = pidfd.kill();
            }
            if let Some(keeper) = keeper {
                let _ = wait_readable(&[keeper], Some(10_000));
            }
            let _ = self.hypervisor.host.dirs.purge(id);
        }
    }
}

impl Subject for Lab {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.hypervisor
    }

    fn machine_type(&self) -> String {
        self.hypervisor.default_machine_type()
    }

    async fn restart_daemon(&mut self) {
        self.shutdown.cancel();
        self.tasks.close();
        timeout(SOON, self.tasks.wait()).await.expect("the tasks end with the daemon");
        (self.hypervisor, self.tasks, self.shutdown) = open(&self.config).await;
    }
}

async fn open(config: &QemuConfig) -> (QemuHypervisor, TaskTracker, CancellationToken) {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let opened = QemuHypervisor::open(config, tasks.clone(), shutdown.clone()).await;
    let mut hypervisor =
        opened.unwrap_or_else(|error| panic!("these tests run real machines: {error}"));
    hypervisor.timing = Timing {
        ping: Duration::from_millis(100),
        silence: Duration::from_millis(500),
        handshake: SOON,
    };
    (hypervisor, tasks, shutdown)
}

fn signal(name: &str, pid: u32) {
    assert!(
        Command::new("kill")
            .args([format!("-{name}"), pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

fn status_of(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_once('\t').unwrap().1.to_owned()
}

async fn ended(pid: u32) {
    if let Some(pidfd) = Pidfd::open(pid).unwrap() {
        timeout(SOON, pidfd.watch().unwrap().ended()).await.expect("the process ends");
    }
}

async fn grows(log: &Path, before: u64) {
    let grown = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while std::fs::metadata(log).unwrap().len() == before {
            looks.tick().await;
        }
    };
    timeout(SOON, grown).await.unwrap();
}

contract!(Lab);

#[tokio::test]
async fn a_machine_has_little_of_the_host() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let pid = running.machine.pid().unwrap();
    let uid = lab.config.first_uid.to_string();
    assert_eq!(status_of(pid, "Uid"), [uid.as_str(); 4].join("\t"));
    assert_eq!(status_of(pid, "Gid"), [uid.as_str(); 4].join("\t"));
    assert_eq!(status_of(pid, "Groups").trim(), "");
    assert_eq!(status_of(pid, "CapEff"), "0000000000000000");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    assert_eq!(status_of(pid, "Seccomp"), "2");
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&pid.to_string()), network("self"));
    let interfaces = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(
        interfaces.lines().count(),
        3,
        "two lines of heading and the loopback: {interfaces}"
    );
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["4096", "4096"]);
    assert_eq!(status_of(pid, "Umask"), "0077");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{}", environment.escape_ascii());
    // Of its folder it holds the sockets it was handed, and can enter nothing.
    for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(target) = std::fs::read_link(descriptor.unwrap().path()) else { continue };
        assert!(!target.starts_with(lab.hypervisor.host.dirs.root()), "{}", target.display());
    }
    let dir = std::fs::metadata(lab.hypervisor.host.dirs.of(launch.id)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&dir.permissions()) & 0o777, 0o700);
    kill(&mut running).await;
}

#[tokio::test]
async fn the_console_is_kept_from_its_first_byte() {
    let lab = Lab::new().await;
    let launch = lab.boots(&POWER_OFF);
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let before = until(&mut running, &MachineEvent::Exited(Exit::Status(0))).await;
    assert!(before.contains(&MachineEvent::PoweringOff), "{before:?}");
    let log = std::fs::read(&lab.hypervisor.console_log(launch.id)[0]).unwrap();
    // The firmware begins by resetting the terminal, and names itself.
    assert!(log.starts_with(b"\x1bc"), "{}", log.escape_ascii());
    assert!(log.windows(7).any(|word| word == b"SeaBIOS"), "{}", log.escape_ascii());
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Status(0)))));
}

#[tokio::test]
async fn a_guest_that_floods_its_console_fills_two_files_and_no_more() {
    let lab = Lab::with(|config| config.console_log_bytes = 4096).await;
    let launch = lab.boots(&FLOOD_CONSOLE);
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let turned_over = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while lab.hypervisor.console_log(launch.id).len() < 2 {
            looks.tick().await;
        }
    };
    timeout(SOON, turned_over).await.unwrap();
    kill(&mut running).await;
    for file in lab.hypervisor.console_log(launch.id) {
        assert!(std::fs::metadata(file).unwrap().len() <= 4096);
    }
    assert!(!lab.hypervisor.console_log(launch.id).is_empty());
}

#[tokio::test]
async fn a_silent_monitor_is_lost_and_comes_back() {
    let lab = Lab::new().await;
    let mut running = lab.hypervisor.start(&lab.launch()).await.unwrap();
    let pid = running.machine.pid().unwrap();
    signal("STOP", pid);
    let lost = async {
        while !matches!(running.events.recv().await, Some(MachineEvent::MonitorLost(_))) {}
    };
    timeout(SOON, lost).await.unwrap();
    assert_eq!(running.machine.pid(), Some(pid), "silence is no death");
    signal("CONT", pid);
    until(&mut running, &MachineEvent::MonitorBack).await;
    running.machine.pause().await.unwrap();
    signal("STOP", pid);
    kill(&mut running).await;
}

#[tokio::test]
async fn a_keeper_that_dies_is_replaced() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let first = lab.record(launch.id).keeper.pid;
    let log = lab.hypervisor.console_log(launch.id).remove(0);
    // A reset in the firmware's first milliseconds stops it for good.
    grows(&log, 0).await;
    signal("KILL", first);
    until(&mut running, &MachineEvent::KeeperLost).await;
    until(&mut running, &MachineEvent::KeeperBack).await;
    let second = lab.record(launch.id).keeper.pid;
    assert_ne!(first, second);
    // The new one goes on with the console: the firmware speaks again.
    let before = std::fs::metadata(&log).unwrap().len();
    running.machine.reset().await.unwrap();
    grows(&log, before).await;
    running.machine.kill().await.unwrap();
    // The new keeper is not QEMU's parent, and cannot see how it ended.
    until(&mut running, &MachineEvent::Exited(Exit::Unseen)).await;
    ended(second).await;
}

#[tokio::test]
async fn keeper_and_machine_that_die_together_are_gone() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    signal("KILL", lab.record(launch.id).keeper.pid);
    signal("KILL", running.machine.pid().unwrap());
    until(&mut running, &MachineEvent::Exited(Exit::Unseen)).await;
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Unseen))));
    lab.hypervisor.purge(launch.id).await.unwrap();
}

#[tokio::test]
async fn a_machine_outlives_its_keeper_and_the_daemon_together() {
    let mut lab = Lab::new().await;
    let launch = lab.launch();
    let running = lab.hypervisor.start(&launch).await.unwrap();
    let (pid, keeper) = (running.machine.pid(), lab.record(launch.id).keeper.pid);
    drop(running);
    lab.restart_daemon().await;
    signal("KILL", keeper);
    ended(keeper).await;
    let (mut running, _) = adopted(&lab.hypervisor, launch.id).await;
    assert_eq!(running.machine.pid(), pid);
    until(&mut running, &MachineEvent::KeeperLost).await;
    until(&mut running, &MachineEvent::KeeperBack).await;
    running.machine.kill().await.unwrap();
    until(&mut running, &MachineEvent::Exited(Exit::Unseen)).await;
}

#[tokio::test]
async fn another_process_with_the_machines_number_is_left_alone() {
    let mut lab = Lab::new().await;
    let launch = lab.launch();
    let running = lab.hypervisor.start(&launch).await.unwrap();
    let pid = running.machine.pid().unwrap();
    drop(running);
    lab.restart_daemon().await;
    let dir = lab.hypervisor.host.dirs.of(launch.id);
    let true_record = lab.record(launch.id);
    let mut record = true_record.clone();
    record.qemu.start_time += 1;
    records::write(&dir, records::RUN, &record).unwrap();
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Unseen))));
    record = true_record.clone();
    record.token = "another".into();
    records::write(&dir, records::RUN, &record).unwrap();
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Unseen))));
    std::fs::remove_file(dir.join(records::RUN)).unwrap();
    signal("KILL", true_record.keeper.pid);
    ended(true_record.keeper.pid).await;
    // A keeper that died before it could write is no loss: the token tells.
    let (again, _) = adopted(&lab.hypervisor, launch.id).await;
    assert_eq!(again.machine.pid(), Some(pid));
    drop(again);
    assert_eq!(lab.record(launch.id).qemu, true_record.qemu);
    assert!(lab.hypervisor.purge(launch.id).await.is_err());
    let qemu = Pidfd::open(pid).unwrap().unwrap();
    assert!(!qemu.has_ended().unwrap());
    qemu.kill().unwrap();
    ended(pid).await;
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(Some(Exit::Unseen))));
}

// host-vmm.md 1.5: "a pidfile's PID may be recycled".
#[tokio::test]
async fn a_process_that_got_the_number_of_a_dead_machine_is_not_killed() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let mut record = lab.record(launch.id);
    kill(&mut running).await;
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    record.qemu = crate::sys::process::Fingerprint::of(stranger.id()).unwrap();
    let dir = lab.hypervisor.host.dirs.of(launch.id);
    records::write(&dir, records::RUN, &record).unwrap();
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Gone(_)));
    lab.hypervisor.purge(launch.id).await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "it was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

// host-vmm.md 1.5: "Partial failure in start cleaned up things it had not made."
#[tokio::test]
async fn a_start_that_fails_takes_away_only_what_it_made() {
    let lab = Lab::new().await;
    let mut launch = lab.boots(&POWER_OFF);
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    until(&mut running, &MachineEvent::Exited(Exit::Status(0))).await;
    let dir = lab.hypervisor.host.dirs.of(launch.id);
    let notes = dir.join("notes");
    std::fs::write(&notes, "an operator's").unwrap();
    let said = std::fs::read(&lab.hypervisor.console_log(launch.id)[0]).unwrap();
    launch.spec.memory_mib = 1 << 40;
    assert!(lab.hypervisor.start(&launch).await.is_err());
    let disk = std::fs::metadata(&launch.spec.disks[0].path).unwrap();
    assert_eq!(disk.len(), 1 << 20);
    assert_eq!(std::fs::read(&notes).unwrap(), b"an operator's");
    let logs = lab.hypervisor.console_log(launch.id);
    assert_eq!(std::fs::read(&logs[0]).unwrap(), said, "the last run's console is lost");
    let left = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(left, logs.len() + 1, "the failed start left something");
}

#[tokio::test]
async fn a_start_that_fails_and_may_have_left_a_process_says_so() {
    let lab = Lab::new().await;
    let launch = lab.launch();
    let dir = lab.hypervisor.host.dirs.of(launch.id);
    crate::sys::files::private_dir(&dir).unwrap();
    // As a keeper holds it that a killed daemon had just started.
    let lock = crate::sys::files::lock_dir(&dir).unwrap().unwrap();
    match lab.hypervisor.start(&launch).await {
        Err(StartError::Refused(why)) => assert!(why.contains("a keeper is starting"), "{why}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    }
    assert!(matches!(lab.hypervisor.adopt(launch.id).await, Adoption::Unknown(_)));
    let purged = lab.hypervisor.purge(launch.id).await;
    assert!(matches!(purged, Err(MachineError::Unidentified(_))), "{purged:?}");
    assert!(matches!(lab.hypervisor.remains(&dir).await, Trace::Unknown { .. }));
    drop(lock);
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    kill(&mut running).await;
}

#[tokio::test]
async fn passt_lives_and_dies_with_its_machine() {
    let lab = Lab::new().await;
    let mut launch = lab.launch();
    launch.spec.nics =
        [Network::Isolated, Network::Passt].map(|network| NicSpec { network, mac: None }).to_vec();
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let keeper = lab.record(launch.id).keeper.pid;
    let children =
        std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    let passt: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let passt = *passt.iter().find(|&&pid| Some(pid) != running.machine.pid()).unwrap();
    assert!(
        status_of(passt, "Uid")
            .starts_with(&lab.launch_record(launch.id).companions[0].user.uid.to_string())
    );
    signal("KILL", keeper);
    until(&mut running, &MachineEvent::KeeperBack).await;
    assert!(!Pidfd::open(passt).unwrap().unwrap().has_ended().unwrap(), "it outlives the keeper");
    running.machine.kill().await.unwrap();
    until(&mut running, &MachineEvent::Exited(Exit::Unseen)).await;
    ended(passt).await;
}

/// Stands in for a passt whose guest sends packets to every address that means
/// the host itself, and that ignores the end of its connection.
const CURIOUS: &str = r#"#!/bin/bash
for host in 127.0.0.1 127.1.2.3 0.0.0.0 ::1 :: ::ffff:127.0.0.1; do
    if (exec 3<>/dev/tcp/$host/PORT) 2>/dev/null; then echo "tcp $host reached"; fi
    if (echo >/dev/udp/$host/PORT) 2>/dev/null; then echo "udp $host reached"; fi
done
echo all tried
exec sleep 600
"#;

#[tokio::test]
async fn a_companion_reaches_no_loopback_and_does_not_outlive_its_machine() {
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "[::1]"] {
        std::net::TcpStream::connect(format!("{host}:{port}")).expect("others reach it");
    }
    let programs = tempfile::tempdir().unwrap();
    let passt = programs.path().join("passt");
    std::fs::write(&passt, CURIOUS.replace("PORT", &port.to_string())).unwrap();
    for path in [programs.path(), &passt] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let lab = Lab::with(|config| config.passt.clone_from(&passt)).await;
    let mut launch = lab.launch();
    launch.spec.nics = vec![NicSpec { network: Network::Passt, mac: None }];
    let mut running = lab.hypervisor.start(&launch).await.unwrap();
    let words = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let words = lab.hypervisor.host.dirs.last_words(launch.id);
            if words.contains("all tried") {
                return words;
            }
        }
    };
    let words = timeout(SOON, words).await.unwrap();
    assert!(!words.contains("reached"), "{words}");
    let companion = lab.record(launch.id).companions.remove(0).pid;
    kill(&mut running).await;
    ended(companion).await;
}

#[tokio::test]
async fn a_start_that_qemu_refuses_says_so_and_leaves_nothing() {
    let lab = Lab::new().await;
    let mut launch = lab.launch();
    launch.spec.memory_mib = 1 << 40;
    let why = match lab.hypervisor.start(&launch).await {
        Err(error @ StartError::Failed { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it started"),
    };
    assert!(why.contains("QEMU ended with status 1") && why.contains("memory"), "{why}");
    assert!(lab.hypervisor.inventory().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_disk_is_written_by_one_machine_at_a_time() {
    let lab = Lab::new().await;
    let mut first = lab.boots(&[0xf4]);
    first.spec.disks[0].read_only = false;
    let mut running = lab.hypervisor.start(&first).await.unwrap();
    let second = Launch { id: Uuid::new_v4(), ..first };
    match lab.hypervisor.start(&second).await {
        Err(error) => assert!(error.to_string().contains("lock"), "{error}"),
        Ok(_) => panic!("two machines write to one disk"),
    }
    kill(&mut running).await;
    let mut running = lab.hypervisor.start(&second).await.unwrap();
    kill(&mut running).await;
}

#[tokio::test]
async fn a_folder_of_any_depth_will_do() {
    let lab =
        Lab::with(|config| config.vm_dir = config.vm_dir.join("d".repeat(90)).join("e".repeat(90)))
            .await;
    let mut running = lab.hypervisor.start(&lab.launch()).await.unwrap();
    let channel = running.machine.guest_channel().unwrap();
    tokio::net::UnixStream::connect(channel).await.unwrap();
    kill(&mut running).await;
}

#[tokio::test]
async fn a_host_without_qemu_is_told_what_to_install() {
    let config = QemuConfig { binary: "no-such-qemu".into(), ..QemuConfig::default() };
    let opened = QemuHypervisor::open(&config, TaskTracker::new(), CancellationToken::new()).await;
    let Err(error) = opened else { panic!("it opened") };
    assert!(error.to_string().contains("qemu-system-x86"), "{error}");
}

/// Writes to q35's power management register: soft off.
/// `mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt`
const POWER_OFF: [u8; 8] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// Writes every byte there is to the serial port, again and again, escapes too.
/// `mov dx, 0x3f8; again: out dx, al; inc al; jmp again`
const FLOOD_CONSOLE: [u8; 8] = [0xba, 0xf8, 0x03, 0xee, 0xfe, 0xc0, 0xeb, 0xfb];
