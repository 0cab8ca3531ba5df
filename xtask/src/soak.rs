//! `cargo xtask soak`: a whole-system test again and again, with the programs as
//! they are shipped. What leaks or races shows after an hour, not after a run.

use anyhow::{Result, bail};
use lab::build::Profile;

use crate::e2e::{self, Built};

/// Repeat whole-system tests for a time; without a name, list them
#[derive(clap::Args)]
pub struct Args {
    /// The test, or a part of the names of several
    name: Option<String>,
    /// How long
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

/// Builds, repeats, and fails with the first test that fails.
pub fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        println!("cargo xtask soak NAME [--minutes N] repeats one of:");
        return e2e::list();
    };
    e2e::install()?;
    let built = Built::new(Profile::Release)?;
    let repeat = ["--repeat-for".into(), args.minutes.to_string().into()];
    let tally = e2e::play(&built, Some(name), &repeat)?;
    if tally.failed > 0 {
        bail!("failed after {} that passed", tally.passed);
    }
    Ok(())
}
