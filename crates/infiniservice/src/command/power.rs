//! `guest-shutdown`, as in QEMU's agent: no answer when it succeeds, because
//! nobody may be left to give it.

use guest_protocol::message::ErrorBody;

use super::arguments::Arguments;
use super::{Action, Answer, Command, Commands, PowerMode};

pub(super) const SHUTDOWN: Command =
    Command { name: "guest-shutdown", changes_state: true, success_response: false, run: shutdown };

const MODES: [(&str, PowerMode); 3] =
    [("powerdown", PowerMode::PowerDown), ("reboot", PowerMode::Reboot), ("halt", PowerMode::Halt)];

fn shutdown(mut arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    let mode = arguments.word("mode", &MODES)?.unwrap_or(PowerMode::PowerDown);
    arguments.finish()?;
    Ok(Answer::Do(Action::TurnOff(mode)))
}
