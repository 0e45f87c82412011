//! Reading a program's variables: all that cannot be used are told at once, each by its name.

use std::fmt::Display;

use thiserror::Error;

use crate::text::Quoted;

/// Variables that cannot be used, all of them, each with what is wrong.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the configuration cannot be used: {}", .0.join("; "))]
pub struct InvalidConfig(Vec<String>);

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// What a variable holds, or `None` and a problem more.
    pub fn take<T, E: Display>(&mut self, name: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.add(name, error)).ok()
    }

    pub fn add(&mut self, name: &str, error: impl Display) {
        self.0.push(format!("{name}: {error}"));
    }

    /// `value`, if nothing is wrong and so all of it could be read.
    pub fn unless_any<T>(self, value: Option<T>) -> Result<T, InvalidConfig> {
        value.filter(|_| self.0.is_empty()).ok_or(InvalidConfig(self.0))
    }
}

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", Quoted(text))),
    }
}
