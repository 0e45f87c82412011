//! A program's variables. Every invalid one is reported at once, each by its name.

use std::env;
use std::fmt::Display;

use thiserror::Error;

use super::text::Quoted;

/// A lookup of configuration, from a variable's name to its value. Tests pass a map.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Every invalid variable, each with its problem.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the configuration is invalid: {}", .0.join("; "))]
pub struct InvalidConfig(Vec<String>);

/// The problems found so far.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Returns the value of the variable `name`, or records a problem and returns `None`.
    pub fn take<T, E: Display>(&mut self, name: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.add(name, error)).ok()
    }

    /// Records a problem with the variable `name`.
    pub fn add(&mut self, name: &str, error: impl Display) {
        self.0.push(format!("{name}: {error}"));
    }

    /// Returns `value` if there are no problems.
    ///
    /// # Errors
    /// Names every variable that is invalid.
    pub fn unless_any<T>(self, value: Option<T>) -> Result<T, InvalidConfig> {
        value.filter(|_| self.0.is_empty()).ok_or(InvalidConfig(self.0))
    }
}

/// Returns a variable of the process's environment. Bytes that are not UTF-8 become U+FFFD, which no variable
/// allows.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Returns one of the SDKs' own variables; an empty one counts as unset.
pub fn given(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).filter(|text| !text.is_empty())
}

/// Reads a boolean: `true`, `1`, `false` or `0`, in any capitalisation.
///
/// # Errors
/// The text is none of these.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", Quoted(text))),
    }
}
