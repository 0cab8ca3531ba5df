//! Steps with their seconds and their test counts: what `check` and `test` share,
//! so that both print the same table and fail for the same reasons.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// How many tests ran, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and held.
    pub passed: u32,
    /// Ran and did not hold, or were left out: a test that does not run proves
    /// nothing.
    pub failed: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// One step that was done.
struct Step {
    name: &'static str,
    took: Duration,
    tally: Tally,
    failure: Option<String>,
}

/// The steps of one command, in the order in which they were done.
pub struct Steps {
    started: Instant,
    done: Vec<Step>,
}

impl Steps {
    /// None yet; the clock runs from here.
    pub fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Does one step and says how long it took. A failure is printed and kept:
    /// the steps after it still run, so that one run shows every mistake.
    /// True when the step succeeded.
    pub fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<Tally>) -> bool {
        println!("== {name} (after {:.0} s)", self.started.elapsed().as_secs_f64());
        let began = Instant::now();
        let outcome = work();
        let took = began.elapsed();
        let (tally, failure) = match outcome {
            Ok(tally) if tally.failed > 0 => (tally, Some(format!("{} failed", tally.failed))),
            Ok(tally) => (tally, None),
            // What failed without naming a test counts as one.
            Err(error) => (Tally { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        };
        if let Some(failure) = &failure {
            println!("== {name} FAILED: {failure}");
        }
        let succeeded = failure.is_none();
        self.done.push(Step { name, took, tally, failure });
        succeeded
    }

    /// All tests of all steps.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for step in &self.done {
            sum += step.tally;
        }
        sum
    }

    /// The table of all steps with their seconds.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for step in &self.done {
            let end = if step.failure.is_some() { "FAILED" } else { "ok" };
            table.push_str(&row(step.name, step.took, end));
        }
        table.push_str(&row("total", self.started.elapsed(), ""));
        table
    }

    /// Prints the table. Fails with the names of the steps that failed.
    pub fn finish(self) -> Result<()> {
        println!("\n{}", self.table());
        let failed: Vec<&str> =
            self.done.iter().filter(|step| step.failure.is_some()).map(|step| step.name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

/// Runs a test command with its output passed on as it comes, and counts the
/// tests in it. Fails when the command failed although every test that it told
/// of passed: then something did not compile, or died.
pub fn run_tests(command: &mut Command) -> Result<Tally> {
    let shown = workspace::shown(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let output = child.stdout.take().expect("standard output was asked for as a pipe");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("cannot read what `{shown}` prints"))?;
        println!("{line}");
        if let Some(counted) = counted(&line) {
            tally += counted;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() && tally.failed == 0 {
        bail!("`{shown}` failed ({status})");
    }
    Ok(tally)
}

/// The counts in a harness's last line, `test result: ok. 3 passed; 0 failed;
/// 0 ignored; …`.
fn counted(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut tally = Tally::default();
    for part in counts.split("; ") {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u32>().ok()) else { continue };
        match words.next() {
            Some("passed") => tally.passed += number,
            Some("failed" | "ignored") => tally.failed += number,
            _ => {}
        }
    }
    Some(tally)
}

fn row(name: &str, took: Duration, end: &str) -> String {
    format!("{name:<28}{:>8.1} s  {end}", took.as_secs_f64()).trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_harness_is_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; \
                    4 filtered out; finished in 0.01s";
        assert_eq!(counted(line), Some(Tally { passed: 12, failed: 3 }));
        assert_eq!(counted("test tidy ... ok"), None);
    }

    #[test]
    fn a_command_that_fails_without_a_failed_test_is_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit 3"]);
        assert!(run_tests(&mut command).is_err());
    }

    #[test]
    fn tests_are_counted_from_what_a_command_prints() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: FAILED. 5 passed; 2 failed; 0 ignored'; exit 101"]);
        assert_eq!(run_tests(&mut command).unwrap(), Tally { passed: 5, failed: 2 });
    }

    #[test]
    fn a_failed_step_fails_the_whole_and_the_next_still_runs() {
        let mut steps = Steps::new();
        assert!(!steps.run("first", || bail!("broken")));
        assert!(steps.run("second", || Ok(Tally { passed: 3, failed: 0 })));
        assert_eq!(steps.tally(), Tally { passed: 3, failed: 1 });
        assert_eq!(steps.tally().to_string(), "3 passed, 1 failed");
        let error = steps.finish().unwrap_err().to_string();
        assert_eq!(error, "failed: first");
    }

    #[test]
    fn a_step_with_a_failed_test_is_a_failed_step() {
        let mut steps = Steps::new();
        assert!(!steps.run("only", || Ok(Tally { passed: 3, failed: 1 })));
        assert!(steps.table().contains("FAILED"));
    }
}
