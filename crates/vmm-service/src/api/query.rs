//! Queries: everything that is wrong with one is told at once. A parameter that
//! a route does not know is a mistake, lest a slip of the pen be answered with
//! something else than was asked for.

use vmm_api::problem::FieldError;

use super::problem::{ApiError, Result};

/// How much of a wrong value an error shows.
const SHOWN_CHARS: usize = 80;

/// A route's parameters while they are read. Read every one that the route
/// knows, then [`Parameters::finish`].
pub struct Parameters {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Parameters {
    /// Those of a query, in its order.
    pub fn new(given: Vec<(String, String)>) -> Self {
        Self { given, known: Vec::new(), errors: Vec::new() }
    }

    /// A parameter that is given once at most, read by `read`; `right` says
    /// what to write when that fails.
    pub fn one<T>(
        &mut self,
        name: &'static str,
        right: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let mut all = self.all(name, right, read);
        if all.len() > 1 {
            self.wrong(name, "it is given more than once".to_owned());
        }
        all.pop()
    }

    /// A parameter that may be given several times.
    pub fn all<T>(
        &mut self,
        name: &'static str,
        right: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        self.known.push(name);
        let mut values = Vec::new();
        let mut wrong = Vec::new();
        for (_, value) in self.given.iter().filter(|(given, _)| given == name) {
            match read(value) {
                Some(value) => values.push(value),
                None => wrong.push(format!("{} is not {right}", shown(value))),
            }
        }
        for detail in wrong {
            self.wrong(name, detail);
        }
        values
    }

    /// A parameter that may be given several times, and each time with several
    /// words between commas.
    pub fn words<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Vec<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let right = format!("one or several of {}, with commas between them", known.join(", "));
        let find = |word: &str| words.iter().find(|(known, _)| *known == word).map(|(_, is)| *is);
        let lists = self.all(name, &right, |list| list.split(',').map(find).collect());
        lists.into_iter().flat_map(|list: Vec<T>| list).collect()
    }

    /// Notes a mistake that no single value shows.
    pub fn wrong(&mut self, name: &str, detail: String) {
        self.errors.push(FieldError { field: name.to_owned(), detail });
    }

    /// # Errors
    ///
    /// Everything that is wrong, unknown parameters among it.
    pub fn finish(mut self) -> Result<()> {
        let mut unknown: Vec<String> = self.given.iter().map(|(name, _)| name.clone()).collect();
        unknown.retain(|name| !self.known.contains(&name.as_str()));
        unknown.sort_unstable();
        unknown.dedup();
        let known = self.known.join(", ");
        for name in unknown {
            let name = if name.chars().all(plain) { name } else { shown(&name) };
            self.wrong(&name, format!("there is no such parameter here, only {known}"));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::bad_parameters(self.errors)) }
    }
}

fn plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_-".contains(character)
}

fn shown(value: &str) -> String {
    let cut: String = value.chars().take(SHOWN_CHARS).collect();
    if cut.len() < value.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}
