//! The output for a person or a script.

use std::io::{self, BufRead, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::Utc;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::select;
use tokio::time::sleep;

use super::context::{Awaited, Context};
use super::error::{Ended, Error};
use super::text::{time, wrapped};

/// Clears the terminal and moves to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// The version of the JSON documents: it changes if a key is removed, renamed or changes its meaning.
const VERSION: u32 = 1;

/// How to print.
#[derive(Clone)]
pub(super) struct Screen {
    /// Whether to print JSON, for scripts; otherwise text, for people.
    json: bool,
    /// `None` for a command that calls no AWS.
    context: Option<Awaited>,
}

/// A document in JSON.
struct Document<'a, T> {
    context: Option<Context>,
    /// The key of what was found.
    key: &'static str,
    found: &'a T,
}

/// A row of a table.
pub(super) struct Row<const COLUMNS: usize> {
    pub cells: [String; COLUMNS],
    pub mood: Mood,
    /// Lines below the row, each with its line feed.
    pub below: String,
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

/// Formats columns below their headings, each as wide as its widest cell; the column STATE is in its mood's colour.
#[must_use]
pub(super) fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[Row<COLUMNS>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let line = |cells: [&str; COLUMNS], mood: Option<Mood>| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            match mood.filter(|_| headings[column] == "STATE") {
                Some(mood) => line.push_str(&paint(cell, mood)),
                None => line.push_str(cell),
            }
            if column + 1 < COLUMNS {
                let gap = width(column) - cell.chars().count() + 2;
                line.push_str(&" ".repeat(gap));
            }
        }
        line + "\n"
    };
    let mut text = line(headings, None);
    for row in rows {
        text += &line(row.cells.each_ref().map(String::as_str), Some(row.mood));
        text += &row.below;
    }
    text
}

/// Whether the reader of a pipe has closed it.
fn has_read_enough(printed: &Result<(), Error>) -> bool {
    matches!(printed, Err(Error::Terminal(error)) if error.kind() == io::ErrorKind::BrokenPipe)
}

// === impl Document ===

impl<T: Serialize> Serialize for Document<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("version", &VERSION)?;
        map.serialize_entry("at", &time(Utc::now()))?;
        map.serialize_entry("context", &self.context)?;
        map.serialize_entry(self.key, self.found)?;
        map.end()
    }
}

// === impl Screen ===

impl Screen {
    pub fn new(json: bool, context: Option<Awaited>) -> Self {
        Self { json, context }
    }

    /// The context, if the command has one.
    pub async fn context(&self) -> Option<Context> {
        match &self.context {
            Some(context) => Some(context.clone().await),
            None => None,
        }
    }

    /// Prints the result of a command: in JSON under `key` beside the context, or as text. A reader that has closed the pipe
    /// has read enough, and changes nothing of the result.
    pub async fn show(
        &self,
        key: &'static str,
        found: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let printed = self.print(key, found, text).await;
        if has_read_enough(&printed) { Ok(()) } else { printed }
    }

    async fn print(
        &self,
        key: &'static str,
        found: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let shown = if self.json { self.document(key, found).await? + "\n" } else { text() };
        write!(anstream::stdout(), "{shown}").map_err(|error| {
            // What was done is said all the same.
            if error.kind() != io::ErrorKind::BrokenPipe {
                say(shown.trim_end());
            }
            error.into()
        })
    }

    /// The result of a command in JSON.
    pub async fn document(&self, key: &'static str, found: &impl Serialize) -> Result<String, Error> {
        let document = Document { context: self.context().await, key, found };
        Ok(serde_json::to_string_pretty(&document).map_err(io::Error::from)?)
    }

    /// Prints the result with the context in a line above the text.
    pub async fn show_in_context(
        &self,
        key: &'static str,
        found: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let context = self.line().await;
        self.show(key, found, || context + &text()).await
    }

    /// The context in a line of its own.
    pub async fn line(&self) -> String {
        self.context().await.map(|context| wrapped(&context.line(), 0)).unwrap_or_default()
    }

    /// Prints what `look` returns, and with `every` prints it again after each such pause until interrupted. `text` also
    /// gets what the look before has returned. Returns how the last successful look ended, by `ended`.
    pub async fn watch<T: Serialize>(
        &self,
        key: &'static str,
        every: Option<Duration>,
        mut look: impl AsyncFnMut() -> Result<T, Error>,
        text: impl Fn(&T, Option<&T>) -> String,
        ended: impl Fn(&T) -> Ended,
    ) -> Result<Ended, Error> {
        // One for the whole time: an interrupt must also count during a call to AWS.
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut last = None;
        // What was not seen is not well.
        let mut is_seen = false;
        loop {
            let looked = select! {
                looked = look() => looked,
                _ = &mut interrupted, if every.is_some() => break,
            };
            match looked {
                Ok(found) => {
                    if let Some(every) = every.filter(|_| !self.json) {
                        let (now, seconds) = (time(Utc::now()), every.as_secs());
                        anstream::print!("{CLEAR}{now}, again every {seconds} s. Ctrl-C ends it\n");
                    }
                    let context = self.line().await;
                    let printed = self.print(key, &found, || context + &text(&found, last.as_ref())).await;
                    last = Some(found);
                    is_seen = true;
                    if has_read_enough(&printed) {
                        break;
                    }
                    printed?;
                }
                // A failed look may succeed the next time.
                Err(failed) if every.is_some() => {
                    is_seen = false;
                    say(&format!("{}  {}", time(Utc::now()), error(&failed.to_string())));
                }
                Err(failed) => return Err(failed),
            }
            let Some(every) = every else { break };
            select! {
                () = sleep(every) => {}
                _ = &mut interrupted => break,
            }
        }
        Ok(last.as_ref().filter(|_| is_seen).map_or(Ended::NotWell, ended))
    }

    /// Asks for confirmation below the context. Fails without a terminal.
    pub async fn ask(&self, question: &str, yes: bool) -> Result<Ended, Error> {
        if yes {
            say(self.line().await.trim_end());
            return Ok(Ended::Well);
        }
        let question = format!("{}{question} [y/N] ", self.line().await);
        let Some(answer) = read_line(&question)? else { return Err(Error::NoTerminal) };
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            Ok(Ended::Well)
        } else {
            say("declined, nothing was changed since the question");
            Ok(Ended::NotWell)
        }
    }
}

/// Asks for a line; `None` without a terminal.
///
/// # Errors
/// The terminal is gone.
pub(super) fn read_line(prompt: &str) -> io::Result<Option<String>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    write!(anstream::stderr(), "{prompt}")?;
    anstream::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(Some(line))
}

/// Prints a line of progress for people; a failed write is ignored.
pub(super) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}
