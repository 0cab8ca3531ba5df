//! `guest-info`: what the agent is and what it may do, as in QEMU's agent.

use guest_protocol::message::ErrorBody;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::policy::Verdict;
use super::{Answer, Command, Commands, TABLE};

pub(super) const INFO: Command =
    Command { name: "guest-info", changes_state: false, success_response: true, run: info };

fn info(arguments: Arguments, commands: &Commands) -> Result<Answer, ErrorBody> {
    arguments.finish()?;
    let supported: Vec<Value> = TABLE
        .iter()
        .map(|command| {
            json!({
                "name": command.name,
                "enabled": commands.policy.verdict(command) == Verdict::Allowed,
                "success-response": command.success_response,
            })
        })
        .collect();
    Ok(Answer::Return(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "supported_commands": supported,
    })))
}
