//! Bytes of the state that flip, and files that are cut short. Whatever it is, the
//! daemon refuses with what to do or finds exactly what was written; and the
//! machines run on.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vmm_api::client::ListQuery;
use vmm_api::vm::{State, Vm, VmSpec};

use super::Plan;
use crate::scene::Scene;

/// How many wounds a full run inflicts.
pub const ROUNDS: u64 = 5000;

/// Every so many rounds the daemon itself is started on the wounded state; in
/// the others it only checks the file, with the same code in far less time.
const START_EVERY: u64 = 20;
/// How many VMs the state knows, beside the one that runs.
const VMS: usize = 12;
/// The longest that VMs are being made before the daemon is killed.
const BUSY: Duration = Duration::from_millis(150);
/// What a refusal has to speak of.
const ADVICE: &str = "restore";

/// The files of a state by name.
type Files = Vec<(String, Vec<u8>)>;

/// A state, and what may be read from it when it is wounded.
struct Image {
    files: Files,
    /// What `--check-state` says. Two, when the kill hit a commit: with its
    /// journal the state is the one before, without it may be the one after.
    contents: Vec<String>,
}

/// Wounds the state after a clean end, after a kill, and after a kill while it
/// was being written.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let client = scene.start_daemon().await?;
    let running = scene.boot(&client, &scene.spec("web")).await?;
    for n in 0..VMS {
        client.create(&idle(&scene, &format!("vm{n}"))).await?;
    }
    let known = client.list_all(&ListQuery::default()).await?;
    scene.stop_daemon().await?;
    let mut images = vec![Image::take(&scene)?];
    scene.start_daemon().await?;
    scene.kill_daemon()?;
    images.push(Image::take(&scene)?);
    images.push(killed_while_busy(&scene, &plan).await?);
    for round in plan.rounds.clone() {
        let mut random = plan.begin(round);
        let image = &images[random.usize(..images.len())];
        let (what, files) = image.wound(&mut random);
        let checked = check(&scene, &plan, image, &files).with_context(|| what.clone())?;
        if round.is_multiple_of(START_EVERY) {
            put(&scene.settings().folder, &files)?;
            start(&scene, &plan, checked, &known).await.with_context(|| what.clone())?;
            runs_on(&running).with_context(|| what)?;
        }
    }
    put(&scene.settings().folder, &images[0].files)?;
    let client = scene.start_daemon().await?;
    let web = client.vm("web").await?;
    ensure!(web.state == State::Running && web.pid == running.pid, "{web:?}");
    Ok(())
}

impl Image {
    fn take(scene: &Scene) -> Result<Self> {
        let files = state_files(&scene.settings().folder)?;
        let mut image = Self { files, contents: Vec::new() };
        image.contents.push(contents(&ask(scene, &image.files)?)?);
        let alone: Files =
            image.files.iter().filter(|(name, _)| name == "state.db").cloned().collect();
        image.contents.extend(contents(&ask(scene, &alone)?).ok());
        Ok(image)
    }

    fn wound(&self, random: &mut fastrand::Rng) -> (String, Files) {
        let mut files = self.files.clone();
        let whole: Vec<usize> = (0..files.len()).filter(|n| !files[*n].1.is_empty()).collect();
        let (name, bytes) = &mut files[whole[random.usize(..whole.len())]];
        let at = random.usize(..bytes.len());
        let what = if random.u8(..4) == 0 {
            bytes.truncate(at);
            format!("{name} cut to {at} bytes")
        } else {
            let mask = random.u8(1..);
            bytes[at] ^= mask;
            format!("byte {at} of {name} flipped by {mask:#04x}")
        };
        (what, files)
    }
}

/// Kills the daemon while it makes VMs, if possible within a commit.
async fn killed_while_busy(scene: &Scene, plan: &Plan) -> Result<Image> {
    /// About every third kill hits a commit.
    const TRIES: usize = 20;
    let mut random = fastrand::Rng::with_seed(plan.seed);
    for n in 0..TRIES {
        let client = scene.start_daemon().await?;
        let making = tokio::spawn({
            let (client, scene) = (client.clone(), scene.clone());
            async move {
                // Ends with the daemon.
                for m in 0.. {
                    client.create(&idle(&scene, &format!("busy{n}-{m}"))).await?;
                }
                anyhow::Ok(())
            }
        });
        tokio::time::sleep(BUSY.mul_f64(random.f64())).await;
        scene.kill_daemon()?;
        ensure!(making.await?.is_err(), "a daemon that was killed went on");
        let image = Image::take(scene)?;
        if image.files.iter().all(|(_, bytes)| !bytes.is_empty()) {
            plan.count("states with a journal to play back");
            return Ok(image);
        }
    }
    Image::take(scene)
}

/// Has the wounded state checked; whether it was found whole.
fn check(scene: &Scene, plan: &Plan, image: &Image, files: &Files) -> Result<bool> {
    let output = ask(scene, files)?;
    if output.status.success() {
        let read = contents(&output)?;
        ensure!(image.contents.contains(&read), "it reads otherwise: {read}");
        plan.count("read as written");
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains(ADVICE), "no word of what to do: {said}");
    plan.count("refused");
    Ok(false)
}

/// Starts the daemon itself, which must see it as the check did.
async fn start(scene: &Scene, plan: &Plan, whole: bool, known: &[Vm]) -> Result<()> {
    plan.count("starts of the daemon");
    // What is in it was said by earlier ones.
    std::fs::write(scene.settings().log(), "")?;
    match scene.start_daemon().await {
        Ok(client) => {
            ensure!(whole, "the daemon took what its check refuses");
            for vm in known {
                let now = client.vm(&vm.id.to_string()).await?;
                ensure!(now.spec == vm.spec && now.pid == vm.pid, "{now:?} was {vm:?}");
            }
            scene.stop_daemon().await
        }
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(!whole, "the daemon refuses what its check takes: {said}");
            ensure!(said.contains(ADVICE), "no word of what to do: {said}");
            Ok(())
        }
    }
}

/// Runs `vmm-service --check-state` on files in a folder of their own.
fn ask(scene: &Scene, files: &Files) -> Result<Output> {
    let folder = tempfile::tempdir_in(scene.folder())?;
    put(folder.path(), files)?;
    let url = format!("sqlite://{}", folder.path().join("state.db").display());
    let mut command = Command::new(&scene.stage().programs.daemon);
    command.arg("--check-state").env("VMM_STATE_URL", url);
    command.output().context("cannot run vmm-service")
}

/// What the check said of each table.
fn contents(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tables: Vec<&str> = said.lines().filter(|line| line.contains(" rows, ")).collect();
    ensure!(!tables.is_empty(), "no table in {said}");
    Ok(tables.join("\n"))
}

/// The state file and what SQLite keeps beside it.
fn state_files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("state.db") {
            files.push((name, std::fs::read(entry.path())?));
        }
    }
    files.sort();
    Ok(files)
}

/// Puts these files in the place of all of the state.
fn put(folder: &Path, files: &Files) -> Result<()> {
    for (name, _) in state_files(folder)? {
        std::fs::remove_file(folder.join(name))?;
    }
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// QEMU is a process like any other: whoever looks away does not end it.
fn runs_on(vm: &Vm) -> Result<()> {
    let pid = vm.pid.context("it had no process")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    if status.is_empty() || status.contains(") Z ") {
        bail!("{} does not run any more", vm.spec.name);
    }
    Ok(())
}

/// A VM that nobody starts.
fn idle(scene: &Scene, name: &str) -> VmSpec {
    VmSpec { initrd: None, cmdline: Some("x".repeat(name.len() * 40)), ..scene.spec(name) }
}
