//! `vmmctl stop`: of the VMs that were named, or of all that run, as when the
//! host goes down.

use vmm_api::client::{Client, ListQuery};
use vmm_api::vm::State;

use super::act::{self, Action};
use crate::cli::Stop;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::text::{Style, Text};
use crate::render::units;

pub(super) async fn run(client: &Client, output: Output, stop: &Stop) -> Result<(), Failure> {
    let action = Action::Stop { force_after_s: stop.force_after, all: stop.all };
    if !stop.all {
        return act::run(client, output, action, &stop.names, stop.wait).await;
    }
    let vms = client.list_all(&ListQuery::default()).await?;
    let live = [State::Starting, State::Running, State::Paused, State::Stopping];
    let names: Vec<String> =
        vms.into_iter().filter(|vm| live.contains(&vm.state)).map(|vm| vm.spec.name).collect();
    let what = if names.is_empty() {
        "No VM runs.".to_owned()
    } else {
        format!("Stopping {}: {}", units::count(names.len() as u64, "VM", "VMs"), names.join(", "))
    };
    output.note(&[Text::styled(Style::Faint, what)]);
    act::run(client, output, action, &names, stop.wait).await
}
