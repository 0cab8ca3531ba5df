//! The long tests: random faults by the thousand. Each says its seed first and
//! its counts last, and has a short form among the cases that calls the same
//! function. A soak is an `async fn(Scene, Plan) -> Result<()>` and a line here.

pub mod host_faults;
pub mod hostile_guests;
pub mod kills;
mod plan;
pub mod power_cuts;
pub mod state_damage;
pub mod subscribers;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use lab::results::{self, Table};

use crate::runner::{self, Outcome};
use crate::scene::Scene;
use crate::stage::Stage;

pub use plan::Plan;

/// One long test.
pub struct Soak {
    /// What `cargo xtask soak` calls it.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// How many rounds a full run has.
    pub rounds: u64,
    /// Plays it.
    pub play: fn(Scene, Plan) -> Outcome,
}

/// Every soak.
fn all() -> Vec<Soak> {
    vec![
        Soak {
            name: "kills",
            about: "kill -9 of daemon, keeper and QEMU at random moments of every operation",
            rounds: kills::ROUNDS,
            play: |scene, plan| Box::pin(kills::run(scene, plan)),
        },
        Soak {
            name: "host-faults",
            about: "full and read-only disks, no descriptors, a clock set back and on",
            rounds: host_faults::ROUNDS,
            play: |scene, plan| Box::pin(host_faults::run(scene, plan)),
        },
        Soak {
            name: "state-damage",
            about: "flipped bytes and cuts in the state's files, after clean ends and kills",
            rounds: state_damage::ROUNDS,
            play: |scene, plan| Box::pin(state_damage::run(scene, plan)),
        },
        Soak {
            name: "power-cuts",
            about: "a host that loses its power and what its disk had not written",
            rounds: power_cuts::ROUNDS,
            play: |scene, plan| Box::pin(power_cuts::run(scene, plan)),
        },
        Soak {
            name: "hostile-guests",
            about: "guests that flood, grow, lie and never read, beside one that must be heard",
            rounds: hostile_guests::ROUNDS,
            play: |scene, plan| Box::pin(hostile_guests::run(scene, plan)),
        },
        Soak {
            name: "subscribers",
            about: "clients that connect without end and never read, beside ones that must be answered",
            rounds: subscribers::ROUNDS,
            play: |scene, plan| Box::pin(subscribers::run(scene, plan)),
        },
    ]
}

/// Which soak, and how much of it.
#[derive(clap::Args)]
pub struct Args {
    /// Which one; without it, they are listed.
    name: Option<String>,
    /// How many rounds, instead of a full run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// What to choose by, as an earlier run printed it; random without.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// The first round.
    #[arg(long, value_name = "ROUND", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
}

/// The soak that is asked for; without a name, prints them all.
pub fn chosen(args: &Args) -> Result<Option<Soak>> {
    let soaks = all();
    let Some(name) = &args.name else {
        for soak in &soaks {
            println!("{:<15} {:>6} rounds  {}", soak.name, soak.rounds, soak.about);
        }
        return Ok(None);
    };
    let soak = soaks.into_iter().find(|soak| soak.name == name);
    let why = || format!("there is no soak {name:?}: `cargo xtask soak` lists them");
    soak.map(Some).with_context(why)
}

/// Plays a soak, prints its verdict, and writes a full run down.
pub fn run(soak: &Soak, args: &Args, stage: &Arc<Stage>) -> Result<ExitCode> {
    let seed = stage.seed.unwrap_or_else(|| fastrand::u64(..));
    let plan = Plan::new(seed, args.from, args.rounds.unwrap_or(soak.rounds));
    let rounds = plan.rounds.end - plan.rounds.start;
    println!("{}: seed {seed}, {rounds} rounds", soak.name);
    let played = runner::play(stage, None, |scene| (soak.play)(scene, plan.clone()))?;
    let minutes = plan.elapsed().as_secs_f64() / 60.0;
    let verdict = match &played {
        Ok(()) => format!("passed, {rounds} rounds"),
        Err(_) => format!("FAILED in round {}", plan.round()),
    };
    println!("{}: {}", soak.name, plan::told(&plan.counts()));
    println!("{}: {verdict}, seed {seed}, {minutes:.1} minutes", soak.name);
    if let Err(error) = &played {
        println!("{error:#}");
        println!(
            "the same again: cargo xtask soak {} --seed {seed} --rounds {rounds} --from {}",
            soak.name, args.from
        );
    }
    if rounds >= soak.rounds {
        publish(soak, &plan, &verdict, minutes)?;
    } else {
        println!("not written to bench/RESULTS.md: a full run has {} rounds", soak.rounds);
    }
    Ok(if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The short form of a soak, as a case plays it. The seed is the one that the
/// whole run of cases was given, or a random one.
pub async fn short<F>(scene: Scene, rounds: u64, play: fn(Scene, Plan) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let seed = scene.stage().seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let plan = Plan::new(seed, 1, rounds);
    play(scene, plan.clone()).await.with_context(|| {
        format!("in round {}; the same again: --seed {seed} after the filter", plan.round())
    })
}

fn publish(soak: &Soak, plan: &Plan, verdict: &str, minutes: f64) -> Result<()> {
    let row = |(what, number): (&str, u64)| vec![what.to_owned(), number.to_string()];
    let table = Table {
        head: vec![soak.name, "number"],
        rows: plan.counts().into_iter().map(row).collect(),
        notes: vec![format!(
            "{verdict}, in {minutes:.0} minutes. Seed {}: `cargo xtask soak {} --seed {0}`.",
            plan.seed, soak.name
        )],
    };
    results::publish(&format!("soak-{}", soak.name), &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else an hour's run ends with nowhere to write its result.
    #[test]
    fn every_soak_has_its_place_among_the_results() {
        let page = include_str!("../../../../bench/RESULTS.md");
        for soak in all() {
            for marker in ["<!-- soak-", "<!-- /soak-"] {
                let marker = format!("{marker}{} -->", soak.name);
                assert!(page.contains(&marker), "{marker}");
            }
        }
    }
}
