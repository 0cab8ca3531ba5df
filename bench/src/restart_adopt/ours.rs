//! Our side: `vmm-service`, and how long after its start every VM answers.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::daemon::Settings;
use lab::qemu::BOOT_LIMIT;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vmm_api::client::{Client, Error, ListQuery};
use vmm_api::guest::AgentState;
use vmm_api::operation::OperationState;
use vmm_api::vm::State;

use super::world::{Inhabitant, World};
use super::{AT_ONCE, Answers, LIMIT, LOOK_AGAIN, Machine};

/// The daemon and its VMs.
pub struct Ours {
    daemon: Option<Inhabitant>,
    client: Client,
    runtime: Runtime,
    settings: Settings,
    /// Declared last: everything else ends before it.
    world: World,
}

impl Ours {
    /// Starts the daemon and all machines, and waits until they are up.
    pub fn prepare(settings: Settings, machines: &[Machine]) -> Result<Self> {
        std::fs::create_dir_all(settings.vms())?;
        let world = World::new(&[])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(settings.socket());
        let mut ours = Self { daemon: None, client, runtime, settings, world };
        ours.start()?;
        ours.until_it_listens()?;
        for some in machines.chunks(AT_ONCE) {
            ours.runtime.block_on(boot(&ours.client, some))?;
        }
        ours.runtime.block_on(until_agents_speak(&ours.client, machines))?;
        Ok(ours)
    }

    /// Ends the daemon by this signal and starts it anew.
    pub fn restart(&mut self, signal: Signal, machines: &[Machine]) -> Result<Answers> {
        self.daemon.take().context("the daemon does not run")?.end(signal)?;
        let begun = Instant::now();
        self.start()?;
        self.until_it_listens()?;
        self.runtime.block_on(async {
            ask(&self.client, machines).await?;
            let known = begun.elapsed();
            until_agents_speak(&self.client, machines).await?;
            Ok(Answers { known, reached: begun.elapsed() })
        })
    }

    /// What the questions alone take.
    pub fn ask(&self, machines: &[Machine]) -> Result<Duration> {
        let begun = Instant::now();
        self.runtime.block_on(ask(&self.client, machines))?;
        Ok(begun.elapsed())
    }

    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.settings.log())?;
        let mut command = self.world.command(&self.settings.programs.daemon);
        command.envs(self.settings.variables()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(Inhabitant::start(command)?);
        Ok(())
    }

    /// Waits until the daemon lists its VMs, which it does when it has looked
    /// for all of them.
    fn until_it_listens(&mut self) -> Result<()> {
        let daemon = self.daemon.as_mut().context("the daemon was not started")?;
        let listed: Result<()> = self.runtime.block_on(async {
            let deadline = Instant::now() + LIMIT;
            loop {
                match self.client.list(&ListQuery::default()).await {
                    Ok(_) => return Ok(()),
                    Err(Error::NotReachable { .. }) if Instant::now() < deadline => {
                        daemon.still_runs()?;
                    }
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        listed.with_context(|| format!("its log ends with:\n{}", self.settings.log_tail()))
    }
}

/// Asks for the list and for each VM: all must run.
async fn ask(client: &Client, machines: &[Machine]) -> Result<()> {
    let listed = client.list_all(&ListQuery::default()).await?;
    let running = listed.iter().filter(|vm| vm.state == State::Running).count();
    ensure!(running == machines.len(), "{running} of {} VMs run", machines.len());
    for machine in machines {
        let vm = client.vm(&machine.name).await?;
        ensure!(vm.state == State::Running && vm.state_detail.is_none(), "{vm:?}");
    }
    Ok(())
}

/// Waits until each agent has said hello to this run of the daemon.
async fn until_agents_speak(client: &Client, machines: &[Machine]) -> Result<()> {
    let speaking = async {
        for machine in machines.iter().filter(|machine| machine.initrd.is_some()) {
            while client.vm(&machine.name).await?.guest.agent != AgentState::Connected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, speaking).await.context("an agent was not heard")?
}

async fn boot(client: &Client, machines: &[Machine]) -> Result<()> {
    let mut starting = Vec::new();
    for machine in machines {
        client.create(&spec(machine)).await?;
        starting.push(client.start(&machine.name).await?);
    }
    for operation in starting {
        let ended = client.wait(operation, BOOT_LIMIT).await?;
        ensure!(ended.state == OperationState::Succeeded, "{ended:?}");
    }
    Ok(())
}

fn spec(machine: &Machine) -> Value {
    let mut spec = json!({
        "name": machine.name, "vcpus": 1, "memory_mib": machine.memory_mib,
        "kernel": machine.kernel,
    });
    if let Some(initrd) = &machine.initrd {
        spec["initrd"] = json!(initrd);
        spec["cmdline"] = json!(lab::guest::CMDLINE);
    }
    spec
}
