//! The steps of an operation: what was seen, asked and done, in the order of their times.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::error::{Ended, Error};
use super::screen::{Screen, say};
use super::text::time;

/// The steps so far.
#[derive(Default)]
pub(super) struct Timeline {
    steps: Vec<(DateTime<Utc>, Source, String)>,
    /// Whether the operation has, or may have, changed something.
    pub changed: bool,
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// A person.
    Person,
    /// A command that has to succeed before.
    Command,
    /// A lock: a health check's path, or a latch's objects and holds.
    Lock,
    /// An alarm.
    Alarm,
    /// A function.
    Function,
    /// Route 53's checkers.
    Checkers,
    /// What name servers answer.
    Dns,
}

/// One step, and its time.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub at: DateTime<Utc>,
    /// The seconds since the step before.
    pub seconds: f64,
    pub source: Source,
    pub what: String,
}

// === impl Source ===

impl Source {
    /// Every one, in the order of a drawing.
    pub const ALL: [Self; 7] =
        [Self::Person, Self::Command, Self::Lock, Self::Alarm, Self::Function, Self::Checkers, Self::Dns];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Command => "command",
            Self::Lock => "lock",
            Self::Alarm => "alarm",
            Self::Function => "function",
            Self::Checkers => "checkers",
            Self::Dns => "DNS",
        }
    }
}

// === impl Timeline ===

impl Timeline {
    /// Adds what happens now, and is said already.
    pub fn add(&mut self, source: Source, what: String) {
        self.steps.push((Utc::now(), source, what));
    }

    /// Adds what happens now, and says it.
    pub fn now(&mut self, source: Source, what: String) {
        self.step(Utc::now(), source, what);
    }

    /// Adds what happened then, and says it.
    pub fn step(&mut self, at: DateTime<Utc>, source: Source, what: String) {
        say(&format!("{what} …"));
        self.steps.push((at, source, what));
    }

    /// Asks a question, unless it `is_answered`, and adds the person's answer.
    ///
    /// # Errors
    /// There is no terminal to ask.
    pub async fn ask(&mut self, screen: &Screen, question: &str, is_answered: bool) -> Result<Ended, Error> {
        let ended = screen.ask(question, is_answered).await?;
        if ended == Ended::NotWell {
            self.add(Source::Person, "declined".to_owned());
        } else if !is_answered {
            self.add(Source::Person, format!("agreed: {question}"));
        }
        Ok(ended)
    }

    /// The steps in the order of their times. The times of steps that AWS reports are on its clock.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<_> = self.steps.iter().collect();
        steps.sort_by_key(|(at, ..)| *at);
        let mut before = None;
        let steps = steps.into_iter().map(|(at, source, what)| {
            let seconds = (*at - before.replace(*at).unwrap_or(*at)).as_seconds_f64();
            Step { at: *at, seconds, source: *source, what: what.clone() }
        });
        steps.collect()
    }
}

// === impl Step ===

impl Step {
    /// The step in a line.
    pub fn line(&self) -> String {
        format!("{}  {:>+7.1} s  {}\n", time(self.at), self.seconds, self.what)
    }
}
