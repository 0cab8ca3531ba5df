//! `vmmctl list`.

use std::cmp::Reverse;

use vmm_api::client::{Client, ListQuery};
use vmm_api::vm::{Vm, VmList};

use crate::cli::{Format, List, SortBy};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::text::{Style, Text};
use crate::render::{units, vm};

pub(super) async fn run(client: &Client, output: Output, list: &List) -> Result<(), Failure> {
    let query = ListQuery {
        state: list.state.map(|state| format!("{state:?}").to_lowercase()),
        label: list.label.clone(),
        ..ListQuery::default()
    };
    let mut vms = client.list_all(&query).await?;
    sort(&mut vms, list.sort);
    if list.reverse {
        vms.reverse();
    }
    if output.format == Format::Json {
        return output.document(&VmList { vms, next_cursor: None });
    }
    if vms.is_empty() {
        output.note(&[Text::styled(Style::Faint, empty(&query))]);
        return Ok(());
    }
    let mut lines = vm::list(&vms, &Clock::now(), output.width());
    if output.terminal {
        let count = units::count(vms.len(), "VM", "VMs");
        lines.extend([Text::default(), Text::styled(Style::Faint, count)]);
    }
    output.lines(&lines)
}

fn empty(query: &ListQuery) -> &'static str {
    if query.state.is_some() || query.label.is_some() {
        "No VM fits."
    } else {
        "There are no VMs yet; `vmmctl create -f spec.toml` makes one."
    }
}

fn sort(vms: &mut [Vm], by: SortBy) {
    vms.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    match by {
        SortBy::Name => {}
        SortBy::State => vms.sort_by_key(|each| vm::word(&each.state)),
        SortBy::Created => vms.sort_by_key(|vm| Reverse(vm.created_at)),
        SortBy::Memory => vms.sort_by_key(|vm| Reverse(vm.spec.memory_mib)),
    }
}
