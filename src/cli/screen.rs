//! The output for a person or a script.

use std::io::{self, BufRead, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::select;
use tokio::time::sleep;

use super::{Ended, Error};

/// Clears the terminal and moves to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Whether to print JSON, for scripts; otherwise text, for people.
    pub json: bool,
}

/// The rating of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// Correct.
    Ok,
    /// May be intended; look at it.
    Warn,
    /// A fault to repair.
    Wrong,
    /// Could not be read.
    Unknown,
}

/// Formats an error.
#[must_use]
pub fn error(text: &str) -> String {
    format!("{}: {text}", paint("error", Mood::Wrong))
}

/// Returns `text` in the colour of a mood; without a terminal the colour codes are removed when it is printed.
#[must_use]
pub fn paint(text: &str, mood: Mood) -> String {
    let style = match mood {
        Mood::Ok => Style::new().fg_color(Some(AnsiColor::Green.into())),
        Mood::Warn | Mood::Unknown => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
        Mood::Wrong => Style::new().fg_color(Some(AnsiColor::Red.into())).bold(),
    };
    format!("{style}{text}{style:#}")
}

/// Formats a time, for people and scripts.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats an age in seconds, in its largest unit.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Formats columns below their headings, each as wide as its widest cell, the last one in its mood's colour.
#[must_use]
pub fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[([String; COLUMNS], Mood)]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let line = |cells: [&str; COLUMNS], mood: Option<Mood>| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            match mood {
                _ if column + 1 < COLUMNS => {
                    let gap = width(column) - cell.chars().count() + 2;
                    line.push_str(cell);
                    line.push_str(&" ".repeat(gap));
                }
                Some(mood) => line.push_str(&paint(cell, mood)),
                None => line.push_str(cell),
            }
        }
        line + "\n"
    };
    let mut text = line(headings, None);
    for (cells, mood) in rows {
        text += &line(cells.each_ref().map(String::as_str), Some(*mood));
    }
    text
}

// === impl Screen ===

impl Screen {
    /// Prints the result of a command, as JSON or as text.
    pub fn show(self, found: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json {
            let json = serde_json::to_string_pretty(found).map_err(io::Error::from)?;
            writeln!(anstream::stdout(), "{json}")?;
        } else {
            write!(anstream::stdout(), "{}", text())?;
        }
        Ok(())
    }

    /// Prints what `look` returns, and with `every` prints it again after each such pause until interrupted. Returns how
    /// the last successful look ended, by `ended`.
    pub async fn watch<T: Serialize>(
        self,
        every: Option<Duration>,
        mut look: impl AsyncFnMut() -> Result<T, Error>,
        text: impl Fn(&T) -> String,
        ended: impl Fn(&T) -> Ended,
    ) -> Result<Ended, Error> {
        // One for the whole time: an interrupt must also count during a call to AWS.
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut last = Ended::Well;
        loop {
            let looked = select! {
                looked = look() => looked,
                _ = &mut interrupted, if every.is_some() => return Ok(last),
            };
            match looked {
                Ok(found) => {
                    if every.is_some() && !self.json {
                        anstream::print!("{CLEAR}");
                    }
                    self.show(&found, || text(&found))?;
                    last = ended(&found);
                }
                // A failed look may succeed the next time.
                Err(failed) if every.is_some() => say(&error(&failed.to_string())),
                Err(failed) => return Err(failed),
            }
            let Some(every) = every else { return Ok(last) };
            select! {
                () = sleep(every) => {}
                _ = &mut interrupted => return Ok(last),
            }
        }
    }
}

/// Prints a line of progress for people; a failed write is ignored.
pub(super) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Returns a text from outside without characters that a terminal would interpret.
#[must_use]
pub fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Asks for confirmation. Fails without a terminal.
pub(super) fn ask(question: &str, yes: bool) -> Result<Ended, Error> {
    if yes {
        return Ok(Ended::Well);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    write!(anstream::stderr(), "{question} [y/N] ")?;
    anstream::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(Ended::Well)
    } else {
        say("declined, nothing was changed");
        Ok(Ended::NotWell)
    }
}
