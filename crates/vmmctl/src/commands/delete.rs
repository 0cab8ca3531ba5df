//! `vmmctl delete`: asks the operator before it asks the daemon.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use vmm_api::client::Client;

use super::act::{self, Action};
use crate::cli::Delete;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::render::text::{Style, Text};
use crate::render::units;

pub(super) async fn run(client: &Client, output: Output, delete: &Delete) -> Result<(), Failure> {
    let somebody = io::stdin().is_terminal() && output.error_terminal;
    if somebody && !delete.yes && !confirmed(&delete.begin.names)? {
        return Err(Failure::new(
            Exit::Failed,
            "nothing was deleted",
            "answer y, or say --yes, to delete",
        ));
    }
    act::run(client, output, Action::Delete, &delete.begin.names, delete.begin.wait).await
}

fn confirmed(names: &[String]) -> io::Result<bool> {
    let question = Text::new("Delete ")
        .and(Style::Plain, units::count(names.len() as u64, "VM", "VMs"))
        .and(Style::Plain, format!(" ({}) for good? [y/N] ", names.join(", ")));
    write!(io::stderr(), "{}", question.to_line(false))?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
