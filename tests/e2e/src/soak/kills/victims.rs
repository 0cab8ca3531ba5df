//! Who is killed.

use std::fmt;

use anyhow::Result;
use fastrand::Rng;
use uuid::Uuid;

use super::operation::Kind;
use super::processes::{Processes, kill};
use crate::scene::Scene;

/// Who is to be killed, all at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victims {
    daemon: bool,
    keeper: bool,
    machine: bool,
}

/// Who was killed. Somebody who is not there at the moment cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Their processes, but for the daemon's.
    pub pids: Vec<u32>,
    /// The daemon.
    pub daemon: bool,
    /// The keeper of the victim.
    pub keeper: bool,
    /// The QEMU of the victim.
    pub machine: bool,
}

impl Victims {
    /// Any of the seven ways to choose somebody of three; the daemon among
    /// them when its own start is what is cut.
    pub fn choose(kind: Kind, random: &mut Rng) -> Self {
        let which = random.u8(1..8);
        let daemon = which & 1 != 0 || kind == Kind::Recover;
        Self { daemon, keeper: which & 2 != 0, machine: which & 4 != 0 }
    }

    /// Kills them. When none of them is there, the daemon takes their place:
    /// no round goes by without a kill.
    pub fn strike(self, scene: &Scene, vm: Uuid) -> Result<Hit> {
        let mut hit = Hit::default();
        // Looked for before anybody is dead, killed in one go.
        let processes = self.look(scene)?;
        if self.daemon {
            scene.kill_daemon()?;
            hit.daemon = true;
        }
        self.kill_of(&processes, vm, &mut hit);
        if hit == Hit::default() {
            scene.kill_daemon()?;
            hit.daemon = true;
        }
        Ok(hit)
    }

    /// Kills all of them but the daemon.
    pub fn strike_machine(self, scene: &Scene, vm: Uuid) -> Result<Hit> {
        let mut hit = Hit::default();
        self.kill_of(&self.look(scene)?, vm, &mut hit);
        Ok(hit)
    }

    fn look(self, scene: &Scene) -> Result<Processes> {
        if self.keeper || self.machine {
            Processes::look(&scene.settings().vms())
        } else {
            Ok(Processes::default())
        }
    }

    fn kill_of(self, processes: &Processes, vm: Uuid, hit: &mut Hit) {
        let mut strike = |chosen: bool, pid: Option<u32>| {
            let struck = pid.filter(|pid| chosen && kill(*pid));
            hit.pids.extend(struck);
            struck.is_some()
        };
        let keeper = strike(self.keeper, processes.keeper(vm));
        let machine = strike(self.machine, processes.machine(vm));
        (hit.keeper, hit.machine) = (keeper, machine);
    }
}

impl fmt::Display for Victims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.daemon, "daemon"), (self.keeper, "keeper"), (self.machine, "QEMU")];
        let names: Vec<&str> =
            names.into_iter().filter(|(chosen, _)| *chosen).map(|(_, name)| name).collect();
        write!(f, "{} killed", names.join(" and "))
    }
}
