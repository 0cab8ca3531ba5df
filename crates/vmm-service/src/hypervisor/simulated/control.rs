//! What unit tests do to simulated machines.

use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::{Run, SimulatedHypervisor, exit, lock, power_off, tell};
use crate::hypervisor::{Exit, MachineEvent};

impl SimulatedHypervisor {
    /// What a test does to a machine.
    ///
    /// # Panics
    ///
    /// When the machine has never run.
    pub fn control(&self, id: Uuid) -> Control {
        let run = self.run(id).expect("the machine has run");
        Control { run }
    }
}

/// What a test does to a machine.
pub struct Control {
    run: Arc<Mutex<Run>>,
}

impl Control {
    /// The guest powers itself off.
    pub async fn power_off(&self) {
        power_off(&self.run).await.unwrap();
    }

    /// The guest obeys the power button from now on, or not; at first it does
    /// not.
    pub fn obey_power_button(&self, obeys: bool) {
        lock(&self.run).obeys_power_button = obeys;
    }

    /// The process ends.
    pub async fn exit(&self, how: Exit) {
        exit(&self.run, how).await.unwrap();
    }

    /// The guest opens or closes the agent's port.
    pub async fn port(&self, open: bool) {
        tell(&self.run, MachineEvent::AgentPort(open)).await;
    }

    /// The guest's kernel panics.
    pub async fn panic(&self) {
        tell(&self.run, MachineEvent::Panicked).await;
    }

    /// The guest reboots by itself.
    pub async fn reboot(&self) {
        tell(&self.run, MachineEvent::Reset).await;
    }

    /// The monitor falls silent, or answers again.
    pub async fn silence(&self, silent: bool) {
        lock(&self.run).is_silent = silent;
        let event = match silent {
            true => MachineEvent::MonitorLost("a test silenced it".into()),
            false => MachineEvent::MonitorBack,
        };
        tell(&self.run, event).await;
    }

    /// The keeper dies, and a new one takes over.
    pub async fn replace_keeper(&self) {
        tell(&self.run, MachineEvent::KeeperLost).await;
        tell(&self.run, MachineEvent::KeeperBack).await;
    }

    /// The machine's events end without a word, though it runs on.
    pub fn lose_events(&self) {
        lock(&self.run).events = None;
    }

    /// From now on nobody can tell whether the process is the machine.
    pub fn lose_track(&self) {
        lock(&self.run).is_unidentified = true;
    }
}
