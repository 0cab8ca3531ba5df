//! `vmmctl events`.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;
use vmm_api::client::{Client, ListQuery, Next, Received};
use vmm_api::event::EventKind;

use crate::cli::{Events, Format};
use crate::failure::{Failure, chain};
use crate::output::Output;
use crate::render::clock::Clock;
use crate::render::event;
use crate::render::text::{Style, Text};

pub(super) async fn run(client: &Client, output: Output, events: Events) -> Result<(), Failure> {
    let vm = match &events.name {
        None => None,
        Some(name) => {
            let vm = client.vm(name).await.map_err(|error| Failure::about(name, error))?;
            Some(vm.id.to_string())
        }
    };
    let kinds: Vec<&str> = events.kind.iter().map(String::as_str).collect();
    let since = events.since.map(|id| id.to_string());
    let mut stream = client.events_of_kinds(&kinds, vm.as_deref(), since).await?;
    let mut names = names(client).await?;
    loop {
        match stream.next().await? {
            Next::Event(received) if output.format == Format::Json => {
                output.json_line(&with_id(&received))?;
            }
            Next::Event(received) => {
                let event = &received.event;
                if let (EventKind::Created { name }, Some(id)) = (&event.kind, event.vm) {
                    names.insert(id, name.clone());
                }
                let name = event.vm.map(|id| names.get(&id).cloned().unwrap_or(id.to_string()));
                output.lines(&[event::line(event, name.as_deref(), &Clock::now())])?;
            }
            Next::Unknown { kind } => {
                let what = format!("an event of the kind {kind:?}, which is newer than vmmctl");
                output.note(&[Text::styled(Style::Faint, what)]);
            }
            Next::Disconnected(error) => {
                let what = format!("{}; trying again", chain(&error));
                output.note(&[Text::styled(Style::Warning, what)]);
            }
            Next::Reconnected => {
                output.note(&[Text::styled(Style::Good, "vmm-service is back")]);
            }
        }
    }
}

async fn names(client: &Client) -> Result<HashMap<Uuid, String>, Failure> {
    let vms = client.list_all(&ListQuery::default()).await?;
    Ok(vms.into_iter().map(|vm| (vm.id, vm.spec.name)).collect())
}

/// The event as the daemon wrote it, with the id that `--since` takes.
fn with_id(received: &Received) -> Value {
    let mut value: Value = serde_json::from_str(&received.json).unwrap_or_default();
    if let (Value::Object(fields), Some(id)) = (&mut value, &received.id) {
        fields.insert("id".to_owned(), Value::String(id.clone()));
    }
    value
}
