//! The only build scripting.
fn main() {}
