//! All tests, one file for each part of the system that a user would name. A
//! test is an `async fn(Scene) -> Result<()>` and a line here.

mod lab_guest;
mod life;
mod recovery;

use crate::runner::Case;

/// Every test, in the order in which they run.
pub fn all() -> Vec<Case> {
    crate::cases![
        lab_guest::boots_to_its_own_programs,
        life::boots_reports_and_stops,
        recovery::a_killed_daemon_finds_its_vms_again,
    ]
}
