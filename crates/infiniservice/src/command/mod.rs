//! What the host may ask. Each family of commands has a file; the table here is
//! all there is, and the policy of the guest's owner stands before it.

mod arguments;
mod hello;
mod info;
pub mod policy;
mod power;
mod report;
mod sync;

use guest_protocol::message::{AgentHello, ErrorBody, ErrorClass, Heartbeat, Request};
use serde_json::Value;

use arguments::Arguments;
use policy::{Policy, Verdict};

pub use crate::sys::power::Mode as PowerMode;

/// What a command came to when it did not fail.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The result.
    Return(Value),
    /// The result, with the reset byte before it.
    Delimited(Value),
    /// The session has to do something first.
    Do(Action),
}

/// What only the session, or the agent as a whole, can do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Take the host's hello.
    Hello(AgentHello),
    /// Take the host's heartbeat.
    Heartbeat(Heartbeat),
    /// Collect, and report everything.
    ReportEverything,
    /// Turn the machine off.
    TurnOff(PowerMode),
}

/// A command of the table.
#[derive(Debug)]
pub struct Command {
    /// Its name on the wire.
    pub name: &'static str,
    /// Whether it changes the guest, so that each call of it is logged.
    pub changes_state: bool,
    /// Whether a call that succeeds is answered.
    pub success_response: bool,
    run: fn(Arguments, &Commands) -> Result<Answer, ErrorBody>,
}

/// Every command that this agent knows, sorted by name.
pub static TABLE: [Command; 8] = [
    hello::HEARTBEAT,
    hello::HELLO,
    report::REPORT,
    info::INFO,
    sync::PING,
    power::SHUTDOWN,
    sync::SYNC,
    sync::SYNC_DELIMITED,
];

/// The command of that name.
pub fn find(name: &str) -> Option<&'static Command> {
    TABLE.iter().find(|command| command.name == name)
}

/// The table behind a policy.
#[derive(Debug)]
pub struct Commands {
    policy: Policy,
}

impl Commands {
    /// All commands, as far as `policy` allows them.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// The names of what is allowed, sorted.
    pub fn allowed(&self) -> Vec<String> {
        TABLE
            .iter()
            .filter(|command| self.policy.verdict(command) == Verdict::Allowed)
            .map(|command| command.name.to_owned())
            .collect()
    }

    /// Runs a request, or says why not.
    pub fn run(&self, request: Request) -> Result<Answer, ErrorBody> {
        let Some(command) = find(&request.execute) else {
            return Err(not_found(format!(
                "The command {} is not known to infiniservice {}",
                quoted(&request.execute),
                env!("CARGO_PKG_VERSION"),
            )));
        };
        if self.policy.verdict(command) == Verdict::Refused {
            if command.changes_state {
                tracing::warn!(command = command.name, "A command was refused by the policy.");
            }
            return Err(not_found(self.policy.refusal(command)));
        }
        if command.changes_state {
            tracing::info!(command = command.name, "A command of the host is executed.");
        }
        let arguments = Arguments::new(command.name, request.arguments)?;
        (command.run)(arguments, self)
    }
}

/// An error that a program need not tell apart.
pub fn failed(desc: impl Into<String>) -> ErrorBody {
    ErrorBody { class: ErrorClass::GenericError, desc: desc.into() }
}

fn not_found(desc: String) -> ErrorBody {
    ErrorBody { class: ErrorClass::CommandNotFound, desc }
}

/// A peer's text, escaped and cut, fit to be shown.
fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 64;
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests;
