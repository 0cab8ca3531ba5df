//! `vmm-service`: runs virtual machines on this host and shows what happens
//! inside them. Flags, then configuration, then logging, then the program.

mod events;
mod guest;
mod hypervisor;
mod keeper;
mod store;
mod sys;
mod vm;

fn main() -> std::process::ExitCode {
    // Before everything else: a keeper has no runtime and no configuration.
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == keeper::SUBCOMMAND
        && let Some(dir) = rest.last()
    {
        let resume = rest.iter().any(|argument| argument == keeper::RESUME);
        return keeper::run(std::path::Path::new(dir), resume).into();
    }
    std::process::ExitCode::SUCCESS
}
