//! Runs the tests, one after the other: machines that share two processors make
//! each other slow, and a slow machine looks like a broken one.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::scene::Scene;
use crate::stage::Stage;

/// How long one test may take. An emulated guest boots in 3 s on an idle
/// machine and in a minute on a busy one; the longest test boots a whole Debian
/// and guests within it.
const LIMIT: Duration = Duration::from_secs(900);

/// What a test function gives.
pub type Outcome = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One test.
pub struct Case {
    /// `file::function`.
    pub name: &'static str,
    /// Plays it.
    pub play: fn(Scene) -> Outcome,
}

/// Makes a list of [`Case`]s from test functions, named as they are written:
/// `cases![file::function, …]`.
#[macro_export]
macro_rules! cases {
    ($($function:path),* $(,)?) => {
        vec![$($crate::runner::Case {
            name: stringify!($function),
            play: |scene| Box::pin($function(scene)),
        }),*]
    };
}

/// What to run.
pub struct Plan {
    /// The tests.
    pub cases: Vec<Case>,
    /// How many the filter left out.
    pub left_out: usize,
    /// Until when to run them again.
    pub repeat_for: Option<Duration>,
}

/// Runs the tests and prints each with its seconds, how many guests they
/// booted, and a last line in the form of every Rust test.
pub fn run(plan: &Plan, stage: &Arc<Stage>) -> Result<ExitCode> {
    let began = Instant::now();
    let mut passed = 0;
    let mut failures = Vec::new();
    loop {
        for case in &plan.cases {
            let case_began = Instant::now();
            let outcome = play(stage, Some(LIMIT), case.play)?;
            let seconds = case_began.elapsed().as_secs_f64();
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("test {} ... ok ({seconds:.1} s)", case.name);
                }
                Err(error) => {
                    println!("test {} ... FAILED ({seconds:.1} s)", case.name);
                    println!("{error:#}\n");
                    failures.push(case.name);
                }
            }
        }
        let again = plan.repeat_for.is_some_and(|limit| began.elapsed() < limit);
        if !again || plan.cases.is_empty() || !failures.is_empty() {
            break;
        }
    }
    for name in &failures {
        println!("failed: {name}");
    }
    println!("guests booted: {}", stage.guests_booted());
    println!(
        "test result: {}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.1}s",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        plan.left_out,
        began.elapsed().as_secs_f64()
    );
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays one test in a scene and a runtime of its own, and clears the scene
/// whatever came of it. The outer error is ours, the inner one the test's.
pub fn play(
    stage: &Arc<Stage>,
    limit: Option<Duration>,
    test: impl FnOnce(Scene) -> Outcome,
) -> Result<Result<()>> {
    let scene = Scene::new(stage).context("cannot make a test's folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let played = runtime.block_on(async {
        // A task of its own, so that a panic is an outcome like others.
        let task = tokio::spawn(test(scene.clone()));
        let ending = task.abort_handle();
        let ended = match limit {
            Some(limit) => tokio::time::timeout(limit, task).await.map_err(|_| limit),
            None => Ok(task.await),
        };
        match ended {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(died)) => Err(anyhow!("it panicked: {}", panic_message(died))),
            Err(limit) => {
                ending.abort();
                Err(anyhow!("it did not end within {} s", limit.as_secs()))
            }
        }
    });
    // What hangs in a thread of the runtime is not waited for.
    runtime.shutdown_background();
    let log = scene.log_tail();
    let cleared = scene.clear();
    Ok(match (played, cleared) {
        (Ok(()), cleared) => cleared,
        (Err(error), Ok(())) => Err(with_log(error, &log)),
        (Err(error), Err(left)) => {
            Err(with_log(error, &log)).context(format!("also, after it: {left:#}"))
        }
    })
}

fn with_log(error: anyhow::Error, log: &str) -> anyhow::Error {
    if log.is_empty() { error } else { anyhow!("{error:#}\nthe daemon's log ends with:\n{log}") }
}

fn panic_message(died: tokio::task::JoinError) -> String {
    let Ok(payload) = died.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}
