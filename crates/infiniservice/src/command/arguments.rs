//! A command's arguments, taken by name, so that every error names the
//! argument that is wrong.

use guest_protocol::message::ErrorBody;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{failed, quoted};

/// What came with a request.
#[derive(Debug)]
pub(super) struct Arguments {
    command: &'static str,
    members: Map<String, Value>,
}

impl Arguments {
    /// The arguments of `command`; absent ones are none.
    pub(super) fn new(command: &'static str, given: Option<Value>) -> Result<Self, ErrorBody> {
        match given {
            None => Ok(Self { command, members: Map::new() }),
            Some(Value::Object(members)) => Ok(Self { command, members }),
            Some(_) => Err(failed(format!("The arguments of {command} must be an object"))),
        }
    }

    /// A whole number that must be there.
    pub(super) fn integer(&mut self, name: &str) -> Result<i64, ErrorBody> {
        let command = self.command;
        let Some(value) = self.members.remove(name) else {
            return Err(failed(format!("The argument \"{name}\" of {command} is missing")));
        };
        value.as_i64().ok_or_else(|| {
            failed(format!("The argument \"{name}\" of {command} must be a 64-bit integer"))
        })
    }

    /// One of some words, which may be absent.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ErrorBody> {
        let Some(value) = self.members.remove(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| value == *word);
        found.map(|&(_, meaning)| Some(meaning)).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|&(word, _)| word).collect();
            failed(format!(
                "The argument \"{name}\" of {} must be one of {}",
                self.command,
                words.join(", ")
            ))
        })
    }

    /// Nothing else may have been given.
    pub(super) fn finish(self) -> Result<(), ErrorBody> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(failed(format!("{} takes no argument {}", self.command, quoted(name))))
            }
        }
    }

    /// All arguments as one message of the protocol, which may grow members.
    pub(super) fn message<T: DeserializeOwned>(self) -> Result<T, ErrorBody> {
        serde_json::from_value(Value::Object(self.members)).map_err(|error| {
            failed(format!("The arguments of {}: {}", self.command, quoted(&error.to_string())))
        })
    }
}
