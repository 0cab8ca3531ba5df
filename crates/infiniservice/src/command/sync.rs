//! `guest-sync`, `guest-sync-delimited`, `guest-ping`: is the agent there, and
//! is what it says an answer to me? As in QEMU's agent.

use guest_protocol::message::ErrorBody;
use serde_json::{Map, Value};

use super::arguments::Arguments;
use super::{Answer, Command, Commands};

pub(super) const PING: Command =
    Command { name: "guest-ping", changes_state: false, success_response: true, run: ping };

pub(super) const SYNC: Command =
    Command { name: "guest-sync", changes_state: false, success_response: true, run: sync };

pub(super) const SYNC_DELIMITED: Command = Command {
    name: "guest-sync-delimited",
    changes_state: false,
    success_response: true,
    run: sync_delimited,
};

fn ping(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    arguments.finish()?;
    Ok(Answer::Return(Value::Object(Map::new())))
}

fn sync(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    Ok(Answer::Return(id(arguments)?))
}

fn sync_delimited(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    Ok(Answer::Delimited(id(arguments)?))
}

fn id(mut arguments: Arguments) -> Result<Value, ErrorBody> {
    let id = arguments.integer("id")?;
    arguments.finish()?;
    Ok(id.into())
}
