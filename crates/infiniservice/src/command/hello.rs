//! `agent-hello` and `agent-heartbeat`: the host's half of a session. They are
//! commands in form only; without them there is no channel, so no policy
//! forbids them.

use guest_protocol::message::ErrorBody;

use super::arguments::Arguments;
use super::{Action, Answer, Command, Commands};

/// The one command that is heard before the hello.
pub(super) const HELLO: Command =
    Command { name: "agent-hello", changes_state: false, success_response: true, run: hello };

pub(super) const HEARTBEAT: Command = Command {
    name: "agent-heartbeat",
    changes_state: false,
    success_response: true,
    run: heartbeat,
};

fn hello(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    Ok(Answer::Do(Action::Hello(arguments.message()?)))
}

fn heartbeat(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    Ok(Answer::Do(Action::Heartbeat(arguments.message()?)))
}
