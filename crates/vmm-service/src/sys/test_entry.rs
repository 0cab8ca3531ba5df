//! Lets the test program stand in for `vmm-service keep`.
//!
//! The daemon starts its keepers by starting itself again. In a unit test the
//! daemon is the test program, whose own main function knows only tests: so the
//! word `keep` is looked for before that function runs.

#![expect(
    unsafe_code,
    reason = "a function that runs before main is registered in a section of the binary"
)]

use std::path::Path;

#[used]
// SAFETY: the section holds pointers to functions that the C library calls
// before main; this is one, and glibc has set the arguments up by then.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = keep_if_asked;

#[expect(clippy::disallowed_methods, reason = "it stands in for main, whose exit code this is")]
extern "C" fn keep_if_asked() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let Some((word, rest)) = arguments.split_first() else { return };
    if word != "keep" {
        return;
    }
    let resume = rest.first().is_some_and(|flag| flag == "--resume");
    let Some(dir) = rest.last() else { return };
    std::process::exit(crate::keeper::run(Path::new(dir), resume).into());
}
