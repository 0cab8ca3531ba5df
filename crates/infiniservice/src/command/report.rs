//! `agent-report`: the host missed something and wants all facts again.

use guest_protocol::message::ErrorBody;

use super::arguments::Arguments;
use super::{Action, Answer, Command, Commands};

pub(super) const REPORT: Command =
    Command { name: "agent-report", changes_state: false, success_response: true, run: report };

fn report(arguments: Arguments, _: &Commands) -> Result<Answer, ErrorBody> {
    arguments.finish()?;
    Ok(Answer::Do(Action::ReportEverything))
}
