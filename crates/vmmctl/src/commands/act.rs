//! `vmmctl start`, `restart`, `pause`, `resume`, `kill` and the end of `stop` and
//! `delete`: asks for all, then waits for all at once.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use vmm_api::client::{Client, Error};
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::{RestartRequest, StopRequest};

use crate::cli::{Format, Wait};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::render::text::{Style, Text};
use crate::render::units;

/// How often the progress line is drawn anew.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What to do with a VM.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Start,
    /// With `all`, one that has stopped meanwhile is as good as stopped.
    Stop {
        force_after_s: Option<u32>,
        all: bool,
    },
    Restart {
        cold: bool,
        force_after_s: Option<u32>,
    },
    Pause,
    Resume,
    Kill,
    Delete,
}

impl Action {
    async fn begin(self, client: &Client, vm: &str) -> Result<Operation, Error> {
        match self {
            Self::Start => client.start(vm).await,
            Self::Stop { force_after_s, .. } => {
                client.stop(vm, &StopRequest { force_after_s }).await
            }
            Self::Restart { cold, force_after_s } => {
                client.restart(vm, &RestartRequest { cold, force_after_s }).await
            }
            Self::Pause => client.pause(vm).await,
            Self::Resume => client.resume(vm).await,
            Self::Kill => client.kill(vm).await,
            Self::Delete => client.delete(vm).await,
        }
    }

    /// Whether it was refused only because it is done already, which nobody
    /// minds who named no VM.
    async fn was_done(self, client: &Client, vm: &str, refused: &Error) -> bool {
        if !matches!(self, Self::Stop { all: true, .. }) {
            return false;
        }
        match refused.status() {
            Some(404) => true,
            Some(409) => client.vm(vm).await.is_ok_and(|vm| vm.pid.is_none()),
            _ => false,
        }
    }

    /// What goes on, and what has been done then.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("starting", "started"),
            Self::Stop { .. } => ("stopping", "stopped"),
            Self::Restart { .. } => ("restarting", "restarted"),
            Self::Pause => ("pausing", "paused"),
            Self::Resume => ("resuming", "resumed"),
            Self::Kill => ("killing", "killed"),
            Self::Delete => ("deleting", "deleted"),
        }
    }
}

pub(super) async fn run(
    client: &Client,
    output: Output,
    action: Action,
    names: &[String],
    patience: Wait,
) -> Result<(), Failure> {
    let mut failed = None;
    let mut begun = Vec::new();
    for name in names {
        match action.begin(client, name).await {
            Ok(operation) => begun.push((name.as_str(), operation)),
            // Without the daemon every other name would say the same.
            Err(error @ Error::NotReachable { .. }) => return Err(error.into()),
            Err(error) if action.was_done(client, name, &error).await => {}
            Err(error) => tell(output, &Failure::about(name, error), &mut failed),
        }
    }
    if patience.no_wait {
        for (name, operation) in &begun {
            accepted(output, action, name, operation)?;
        }
    } else {
        wait(client, output, action, begun, patience.timeout, &mut failed).await?;
    }
    failed.map_or(Ok(()), |exit| Err(Failure::Shown(exit)))
}

/// Tells one VM's failure; the first decides the exit code.
fn tell(output: Output, failure: &Failure, failed: &mut Option<Exit>) {
    output.failure(failure);
    *failed = failed.or(failure.exit());
}

fn accepted(
    output: Output,
    action: Action,
    name: &str,
    operation: &Operation,
) -> Result<(), Failure> {
    if output.format == Format::Json {
        return output.json_line(operation);
    }
    if output.format == Format::Name {
        return output.lines(&[Text::new(name)]);
    }
    let text =
        Text::styled(Style::Strong, name).and(Style::Plain, format!(" {}", action.words().0));
    output.lines(&[text.and(Style::Faint, format!("  operation {}", operation.id))])
}

async fn wait(
    client: &Client,
    output: Output,
    action: Action,
    begun: Vec<(&str, Operation)>,
    timeout: u64,
    failed: &mut Option<Exit>,
) -> Result<(), Failure> {
    let total = begun.len();
    let start = Instant::now();
    let mut waiting: Vec<&str> = begun.iter().map(|(name, _)| *name).collect();
    let mut ends: FuturesUnordered<_> = begun
        .into_iter()
        .map(|(name, operation)| async move {
            (name, client.wait(operation, Duration::from_secs(timeout)).await)
        })
        .collect();
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            end = ends.next() => {
                let Some((name, outcome)) = end else { return Ok(()) };
                waiting.retain(|other| *other != name);
                output.progress(&Text::default());
                match outcome {
                    Ok(operation) => ended(output, action, name, &operation, failed)?,
                    Err(error) => tell(output, &unknown(action, name, error), failed),
                }
            }
            _ = tick.tick() => {
                output.progress(&progress(action, &waiting, total, start.elapsed()));
            }
        }
    }
}

fn progress(action: Action, waiting: &[&str], total: usize, elapsed: Duration) -> Text {
    let mut text = Text::styled(Style::Moving, action.words().0);
    text = text.and(Style::Plain, format!(" {}", waiting.join(", ")));
    let mut about = format!("  {}", units::duration(elapsed.as_secs_f64()));
    if total > 1 {
        about = format!("{about}, {} of {total} done", total - waiting.len());
    }
    text.and(Style::Faint, about)
}

fn ended(
    output: Output,
    action: Action,
    name: &str,
    operation: &Operation,
    failed: &mut Option<Exit>,
) -> Result<(), Failure> {
    if output.format == Format::Json {
        output.json_line(operation)?;
    }
    if operation.state == OperationState::Failed {
        let why = operation.error.as_deref().unwrap_or("the daemon gave no reason");
        let failure = Failure::new(
            Exit::Failed,
            format!("{name} was not {}: {why}", action.words().1),
            format!("`vmmctl info {name}` and `vmmctl log {name}` show what there is to know"),
        );
        tell(output, &failure, failed);
    } else if output.format == Format::Name {
        output.lines(&[Text::new(name)])?;
    } else if output.format != Format::Json {
        let took = operation
            .ended_at
            .map(|end| end.duration_since(operation.created_at).as_secs_f64())
            .map(|seconds| format!(" in {}", units::duration(seconds)));
        let line = Text::styled(Style::Strong, name)
            .and(Style::Good, format!(" {}", action.words().1))
            .and(Style::Faint, took.unwrap_or_default());
        output.lines(&[line])?;
    }
    Ok(())
}

/// Waiting failed, which says nothing about the work itself.
fn unknown(action: Action, name: &str, error: Error) -> Failure {
    if let Error::TimedOut(after) = error {
        return Failure::new(
            Exit::Failed,
            format!("{name} was not {} within {} s", action.words().1, after.as_secs()),
            format!("it goes on: `vmmctl info {name}` shows how it stands"),
        );
    }
    Failure::from(error)
}
