//! The output for a person or a script.

use std::io::{self, BufRead, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::select;
use tokio::time::sleep;

use super::context::{Awaited, Context};
use super::{Ended, Error};

/// Clears the terminal and moves to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// The version of the JSON documents: it changes if a key is removed, renamed or changes its meaning.
const VERSION: u32 = 1;
/// The columns of a narrow terminal.
const WIDTH: usize = 80;

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

/// Formats a time, for people and scripts.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats an age in seconds, in its two largest units from an hour on.
#[must_use]
pub fn age(seconds: u64) -> String {
    let and = |large: u64, rest: u64, unit: &str, small: &str| match rest {
        0 => format!("{large} {unit}"),
        rest => format!("{large} {unit} {rest} {small}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => and(seconds / 3600, seconds % 3600 / 60, "h", "min"),
        _ => and(seconds / 86_400, seconds % 86_400 / 3600, "d", "h"),
    }
}

/// Formats a time as its age. A time that is ahead of this machine's clock has an age of 0 s.
#[must_use]
pub fn ago(at: DateTime<Utc>) -> String {
    let since = (Utc::now() - at).max(TimeDelta::zero());
    format!("{} ago", age(since.num_seconds().unsigned_abs()))
}

/// Breaks a text into lines that fit the screen behind this indentation, at spaces where there are some.
#[must_use]
pub fn wrapped(text: &str, indent: usize) -> String {
    let (room, margin) = (WIDTH - indent, " ".repeat(indent));
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        for (part, piece) in word.chunks(room).enumerate() {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line) if part == 0 && line.chars().count() + 1 + piece.chars().count() <= room => {
                    *line += " ";
                    *line += &piece;
                }
                _ => lines.push(piece),
            }
        }
    }
    lines.into_iter().fold(String::new(), |text, line| text + &margin + &line + "\n")
}

/// Cuts a text that is longer than this.
#[must_use]
pub fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
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

    /// Prints the result of a command: in JSON under `key` beside the context, or as text.
    pub async fn show(
        &self,
        key: &'static str,
        found: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if self.json {
            let document = Document { context: self.context().await, key, found };
            let json = serde_json::to_string_pretty(&document).map_err(io::Error::from)?;
            writeln!(anstream::stdout(), "{json}")?;
        } else {
            write!(anstream::stdout(), "{}", text())?;
        }
        Ok(())
    }

    /// The same, with the context in a line above the text.
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
    async fn line(&self) -> String {
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
                    self.show_in_context(key, &found, || text(&found, last.as_ref())).await?;
                    last = Some(found);
                    is_seen = true;
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
            return Ok(Ended::Well);
        }
        if !io::stdin().is_terminal() {
            return Err(Error::NoTerminal);
        }
        write!(anstream::stderr(), "{}{question} [y/N] ", self.line().await)?;
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
}

/// Prints a line of progress for people; a failed write is ignored.
pub(super) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Returns a text from outside without characters that a terminal would interpret, or that would show it in another order
/// or not at all.
#[must_use]
pub fn plain(text: &str) -> String {
    let is_hidden = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.replace(|c: char| c.is_control() || is_hidden(c), "\u{fffd}")
}

/// Returns a text from outside as a word of a shell's command.
#[must_use]
pub fn quoted(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
    if !text.is_empty() && text.chars().all(is_safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d"),
            (1_036_800 + 5 * 3600, "12 d 5 h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_foreign_text_is_shown_as_it_is_and_is_one_word_of_a_command() {
        assert_eq!(plain("a\u{9b}2Jb\n\u{202e}c\u{200b}é"), "a\u{fffd}2Jb\u{fffd}\u{fffd}c\u{fffd}é");
        assert_eq!(quoted("/lb-check_1.html"), "/lb-check_1.html");
        assert_eq!(quoted("/a;b`c`'d"), r"'/a;b`c`'\''d'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_text_is_broken_at_spaces_and_a_long_word_where_it_must_be() {
        let long = "x".repeat(100);
        let text = wrapped(&format!("{} {long} end", "word ".repeat(20)), 4);
        assert!(text.lines().all(|line| line.starts_with("    ") && line.chars().count() <= WIDTH), "{text}");
        let words = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(words(&text), format!("{}{long}end", "word".repeat(20)));
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }
}
