//! `cargo xtask check`: what a developer runs before every commit: everything
//! that can be said about the code without booting a machine.

use anyhow::Result;

use crate::steps::{Steps, Tally, run_tests};
use crate::{deny, promtool, tidy, workspace};

/// Formatting, lints, house rules, licences, unit and contract tests
#[derive(clap::Args)]
pub struct Args {}

/// Does all steps, even after one that failed.
pub fn run(_args: &Args) -> Result<()> {
    let mut steps = Steps::new();
    run_steps(&mut steps);
    steps.finish()
}

/// The steps, for `test` to put others behind them.
pub fn run_steps(steps: &mut Steps) {
    steps.run("formatting", || cargo(&["fmt", "--all", "--check"]));
    steps.run("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])
    });
    // Built into no program that is shipped, so the lints above do not see it.
    steps.run("lints of simulated machines", || {
        let simulated = ["--package", "vmm-service", "--features", "simulated"];
        cargo(&[&["clippy", "--quiet"][..], &simulated, &["--", "--deny", "warnings"]].concat())
    });
    steps.run("house rules", || tidy::run(&tidy::Args {}).map(|()| Tally::default()));
    steps.run("licences, bans, sources", deny::run);
    // Those two crates are for real machines: `e2e` and `bench` run them.
    steps.run("unit and contract tests", || {
        let mut command = workspace::cargo(&["test", "--workspace", "--no-fail-fast"]);
        command.args(["--exclude", "e2e", "--exclude", "bench"]);
        command.env(promtool::VARIABLE, promtool::obtain()?);
        if lab::program::privileged("true", &[]).get_program() == "sudo" {
            // Those of the daemon need root, as the daemon does.
            command.args(["--config", "target.'cfg(unix)'.runner = 'sudo --preserve-env'"]);
        }
        run_tests(&mut command)
    });
}

fn cargo(args: &[&str]) -> Result<Tally> {
    workspace::run(&mut workspace::cargo(args))?;
    Ok(Tally::default())
}
