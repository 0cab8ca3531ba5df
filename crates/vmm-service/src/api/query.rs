//! Queries: a parameter that a route does not know is a mistake, lest a slip of
//! the pen be answered with something else than was asked for.

use std::collections::HashMap;

use super::problem::{ApiError, Result};

/// Refuses every parameter but these.
pub fn only(query: &HashMap<String, String>, known: &[&str]) -> Result<()> {
    let mut unknown: Vec<&str> =
        query.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    let (unknown, known) = (unknown.join(", "), known.join(", "));
    Err(ApiError::bad_parameter(format!("There is no parameter {unknown:?} here, only {known}.")))
}
