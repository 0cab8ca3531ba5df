//! `vmmctl set`.

use vmm_api::client::{Client, Error};
use vmm_api::vm::VmPatch;

use crate::cli::{Format, Set, Switch};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::text::{Style, Text};

pub(super) async fn run(client: &Client, output: Output, set: &Set) -> Result<(), Failure> {
    let patch = VmPatch { autostart: set.autostart.map(|switch| switch == Switch::On) };
    let mut failed = None;
    for name in &set.names {
        match client.change(name, &patch).await {
            Ok(vm) if output.format == Format::Json => output.json_line(&vm)?,
            Ok(vm) => {
                let autostart = if vm.spec.autostart { "on" } else { "off" };
                let line = Text::styled(Style::Strong, name)
                    .and(Style::Plain, format!(" autostart {autostart}"));
                output.lines(&[line])?;
            }
            // Without the daemon every other name would say the same.
            Err(error @ Error::NotReachable { .. }) => return Err(error.into()),
            Err(error) => {
                let failure = Failure::about(name, error);
                output.failure(&failure);
                failed = failed.or(failure.exit());
            }
        }
    }
    failed.map_or(Ok(()), |exit| Err(Failure::Shown(exit)))
}
