//! The contract, and what is special about simulated machines.

use super::*;
use crate::hypervisor::contract::{Subject, contract};

struct Simulated {
    dir: tempfile::TempDir,
    hypervisor: SimulatedHypervisor,
}

impl Subject for Simulated {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hypervisor = SimulatedHypervisor::new(dir.path());
        Self { dir, hypervisor }
    }

    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.hypervisor
    }

    fn machine_type(&self) -> String {
        "pc-q35-7.2".into()
    }

    async fn restart_daemon(&mut self) {
        self.hypervisor = SimulatedHypervisor::new(self.dir.path());
    }
}

contract!(Simulated);

#[tokio::test]
async fn a_test_can_do_to_a_machine_what_guests_and_hosts_do() {
    let subject = Simulated::new().await;
    let launch = subject.launch();
    let mut running = subject.hypervisor.start(&launch).await.unwrap();
    let control = subject.hypervisor.control(launch.id);
    control.port(true).await;
    control.silence(true).await;
    assert!(matches!(running.machine.status().await, Err(MachineError::Silent(_))));
    control.silence(false).await;
    running.machine.press_power_button().await.unwrap();
    control.obey_power_button(true);
    running.machine.press_power_button().await.unwrap();
    let mut heard = Vec::new();
    while let Some(event) = running.events.recv().await {
        heard.push(event);
    }
    let lost = MachineEvent::MonitorLost("a test silenced it".into());
    let expected = [
        MachineEvent::AgentPort(true),
        lost,
        MachineEvent::MonitorBack,
        MachineEvent::PoweringOff,
        MachineEvent::Exited(Exit::Status(0)),
    ];
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn a_machine_that_cannot_be_identified_is_unknown() {
    let subject = Simulated::new().await;
    let launch = subject.launch();
    let _running = subject.hypervisor.start(&launch).await.unwrap();
    subject.hypervisor.control(launch.id).lose_track();
    assert!(matches!(subject.hypervisor.adopt(launch.id).await, Adoption::Unknown(_)));
    let control = subject.hypervisor.control(launch.id);
    control.panic().await;
    control.reboot().await;
    control.replace_keeper().await;
    control.exit(Exit::Unseen).await;
    assert!(matches!(
        subject.hypervisor.adopt(launch.id).await,
        Adoption::Gone(Some(Exit::Unseen))
    ));
    control.power_off().await;
}

#[tokio::test]
async fn a_file_that_says_nothing_known_is_a_machine_that_may_be_alive() {
    let subject = Simulated::new().await;
    let id = Uuid::new_v4();
    std::fs::write(subject.dir.path().join(format!("{id}.run")), "perhaps").unwrap();
    assert!(matches!(subject.hypervisor.adopt(id).await, Adoption::Unknown(_)));
    assert_eq!(subject.hypervisor.inventory().await.unwrap(), [id]);
}
