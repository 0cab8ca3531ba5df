//! One file per command: asks the daemon and hands the answer to `render`.

mod act;
mod completions;
mod create;
mod delete;
mod events;
mod guest;
mod info;
mod list;
mod log;
mod man;
mod set;
mod stop;
mod watch;

use vmm_api::client::Client;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::output::Output;
use act::Action;

/// Runs the command that was asked for.
pub(crate) async fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let client = Client::new(cli.global.socket);
    match cli.command {
        Command::List(arguments) => list::run(&client, output, &arguments).await,
        Command::Create(arguments) => create::run(&client, output, &arguments).await,
        Command::Start(begin) => {
            act::run(&client, output, Action::Start, &begin.names, begin.wait).await
        }
        Command::Stop(arguments) => stop::run(&client, output, &arguments).await,
        Command::Restart(arguments) => {
            let action =
                Action::Restart { cold: arguments.cold, force_after_s: arguments.force_after };
            let begin = &arguments.begin;
            act::run(&client, output, action, &begin.names, begin.wait).await
        }
        Command::Pause(begin) => {
            act::run(&client, output, Action::Pause, &begin.names, begin.wait).await
        }
        Command::Resume(begin) => {
            act::run(&client, output, Action::Resume, &begin.names, begin.wait).await
        }
        Command::Kill(begin) => {
            act::run(&client, output, Action::Kill, &begin.names, begin.wait).await
        }
        Command::Delete(arguments) => delete::run(&client, output, &arguments).await,
        Command::Set(arguments) => set::run(&client, output, &arguments).await,
        Command::Info(one) => info::run(&client, output, &one).await,
        Command::Guest(one) => guest::run(&client, output, &one).await,
        Command::Log(arguments) => log::run(&client, output, &arguments).await,
        Command::Watch(arguments) => watch::run(&client, output, arguments).await,
        Command::Events(arguments) => events::run(&client, output, arguments).await,
        Command::Completions { shell } => completions::run(output, shell),
        Command::Man { folder } => man::run(output, folder.as_deref()),
    }
}
