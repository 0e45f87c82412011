//! The report of an operation: what was seen, asked and done, and when. As JSON, as Markdown, and as a page of its own with
//! the timeline drawn.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::Args;
use serde::Serialize;

use super::error::{Ended, Error};
use super::screen::{Screen, error, say};
use super::text::{plain, time};
use super::timeline::{Source, Step, Timeline};

/// The key in JSON.
const KEY: &str = "report";
/// Of the drawing: where the time begins and ends, the height of a row, and how far apart two circles have to be.
const LEFT: f64 = 110.0;
const RIGHT: f64 = 780.0;
const ROW: f64 = 36.0;
const APART: f64 = 22.0;

/// Where to write it.
#[derive(Debug, Default, Args)]
pub(super) struct Options {
    /// Write a report into this folder: as JSON, as Markdown, and as a page with the timeline drawn.
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

/// An operation that has ended.
pub(super) struct Operation<'a> {
    /// The command.
    pub command: &'static str,
    /// What it is about: a health check with its name, a latch, or a site.
    pub subject: &'a str,
    /// Whether nothing was to be changed.
    pub is_dry_run: bool,
    /// Its steps.
    pub timeline: &'a Timeline,
}

/// What an operation was about, and how it ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    command: &'static str,
    /// What it was about: a health check with its name, a latch, or a site.
    subject: &'a str,
    /// Whether nothing was to be changed.
    is_dry_run: bool,
    /// Whether it was done.
    is_done: bool,
    /// Whether it has, or may have, changed something.
    is_changed: bool,
    /// Why it was not.
    cause: Option<String>,
    steps: Vec<Step>,
}

// === impl Options ===

impl Options {
    /// Makes the folder, before anything is changed.
    ///
    /// # Errors
    /// It cannot be made, or not be written to.
    pub fn prepare(&self) -> Result<(), Error> {
        let Some(folder) = &self.report else { return Ok(()) };
        let probe = folder.join(format!(".failoverctl-{:016x}", fastrand::u64(..)));
        let tried = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&probe, ""))
            .and_then(|()| fs::remove_file(&probe));
        tried.map_err(|source| cannot_write(folder, source))
    }

    /// Shows the steps, writes the report, if one was asked for, and returns how the operation ended.
    ///
    /// # Errors
    /// The operation's; or standard output or a file cannot be written.
    pub async fn show(
        &self,
        screen: &Screen,
        operation: Operation<'_>,
        ended: Result<Ended, Error>,
    ) -> Result<Ended, Error> {
        let steps = operation.timeline.steps();
        let shown = screen.show("steps", &steps, || steps.iter().map(Step::line).collect()).await;
        self.end(screen, operation, ended, shown).await
    }

    /// Does an operation about this subject, writes the report, if one was asked for, and returns how it ended. Its `steps` record
    /// what they see and do, and whether its outcome was shown.
    ///
    /// # Errors
    /// The operation's; or the folder cannot be written to, of which it is not begun; or standard output or a file cannot.
    pub async fn of(
        &self,
        screen: &Screen,
        (command, subject, is_dry_run): (&'static str, &str, bool),
        steps: impl AsyncFnOnce(&mut Timeline, &mut Result<(), Error>) -> Result<Ended, Error>,
    ) -> Result<Ended, Error> {
        self.prepare()?;
        let (mut timeline, mut shown) = (Timeline::default(), Ok(()));
        let ended = steps(&mut timeline, &mut shown).await;
        let operation = Operation { command, subject, is_dry_run, timeline: &timeline };
        self.end(screen, operation, ended, shown).await
    }

    /// Writes the report, if one was asked for, and returns how the operation ended; its outcome has been `shown`.
    ///
    /// # Errors
    /// The operation's; or standard output or a file cannot be written.
    async fn end(
        &self,
        screen: &Screen,
        operation: Operation<'_>,
        ended: Result<Ended, Error>,
        shown: Result<(), Error>,
    ) -> Result<Ended, Error> {
        let written = self.write(screen, operation, &ended).await;
        if let (Err(_), Err(unwritten)) = (&ended, &written) {
            say(&error(&unwritten.to_string()));
        }
        ended.and_then(|ended| written.and(shown).map(|()| ended))
    }

    async fn write(
        &self,
        screen: &Screen,
        Operation { command, subject, is_dry_run, timeline }: Operation<'_>,
        ended: &Result<Ended, Error>,
    ) -> Result<(), Error> {
        let Some(folder) = &self.report else { return Ok(()) };
        let report = Report {
            command,
            subject,
            is_dry_run,
            is_done: !is_dry_run && matches!(ended, Ok(Ended::Well)),
            is_changed: timeline.changed,
            cause: ended.as_ref().err().map(ToString::to_string),
            steps: timeline.steps(),
        };
        report.write(screen, folder).await
    }
}

// === impl Report ===

impl Report<'_> {
    async fn write(&self, screen: &Screen, folder: &Path) -> Result<(), Error> {
        let context = screen.context().await.map(|context| context.line()).unwrap_or_default();
        let json = screen.document(KEY, self).await?;
        let name = format!("{}-{}", self.command.replace(' ', "-"), Utc::now().format("%Y%m%dT%H%M%S%3fZ"));
        for (extension, text) in
            [("json", json + "\n"), ("md", self.markdown(&context)), ("html", self.page(&context))]
        {
            let file = folder.join(format!("{name}.{extension}"));
            fs::write(&file, text).map_err(|source| cannot_write(&file, source))?;
        }
        say(&format!("the report: {}", folder.join(name + ".html").display()));
        Ok(())
    }

    fn title(&self) -> String {
        format!("{} of {}", self.command, self.subject)
    }

    fn result(&self) -> String {
        match (&self.cause, self.is_done) {
            (Some(cause), _) if self.is_changed => {
                format!("not ended, after something was, or may have been, changed: {}", plain(cause))
            }
            (Some(cause), _) => format!("not done: {}", plain(cause)),
            (None, _) if self.is_dry_run => "a dry run, nothing was changed".to_owned(),
            (None, true) => "done".to_owned(),
            (None, false) if self.is_changed => {
                "not ended, after something was, or may have been, changed".to_owned()
            }
            (None, false) => "not done".to_owned(),
        }
    }

    /// The rows of a table: number, time in this format, seconds since the step before, source, and what.
    fn rows(&self, format: &str) -> impl Iterator<Item = [String; 5]> {
        self.steps.iter().zip(1..).map(move |(step, number)| {
            [
                number.to_string(),
                step.at.format(format).to_string(),
                format!("{:+.1}", step.seconds),
                step.source.name().to_owned(),
                plain(&step.what),
            ]
        })
    }

    fn markdown(&self, context: &str) -> String {
        let mut text = format!(
            "# {}\n\n{}\n\nResult: {}\n\n| | time | seconds | source | step |\n|---|---|---|---|---|\n",
            in_markdown(&self.title()),
            in_markdown(&plain(context)),
            in_markdown(&self.result())
        );
        for row in self.rows("%FT%TZ") {
            let _ = writeln!(text, "| {} |", row.map(|cell| in_markdown(&cell)).join(" | "));
        }
        text
    }

    fn page(&self, context: &str) -> String {
        let mut rows = String::new();
        for row in self.rows("%TZ") {
            let _ = writeln!(rows, "<tr><td>{}</td></tr>", row.map(|cell| escaped(&cell)).join("</td><td>"));
        }
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n{STYLE}\
             <h1>{title}</h1>\n<p>{}</p>\n<p>Result: <strong>{}</strong></p>\n{}\
             <table>\n<tr><th></th><th>time</th><th>seconds</th><th>source</th><th>step</th></tr>\n{rows}</table>\n</html>\n",
            escaped(context),
            escaped(&self.result()),
            self.drawing(),
            title = escaped(&self.title()),
        )
    }

    /// The timeline: a row for each source, a numbered circle for each step.
    fn drawing(&self) -> String {
        let (Some(first), Some(last)) = (self.steps.first(), self.steps.last()) else { return String::new() };
        let seconds = |step: &Step| (step.at - first.at).as_seconds_f64();
        let length = seconds(last);
        let is_used = |source: &Source| self.steps.iter().any(|step| step.source == *source);
        let mut rows = BTreeMap::new();
        let mut y = ROW;
        let mut drawn = String::new();
        for source in Source::ALL.into_iter().filter(is_used) {
            rows.insert(source, (y, LEFT - APART));
            let _ = writeln!(drawn, "<text x=\"0\" y=\"{}\">{}</text>", y + 4.0, source.name());
            let _ = writeln!(drawn, "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\"/>");
            y += ROW;
        }
        let mut right: f64 = RIGHT;
        for (step, number) in self.steps.iter().zip(1..) {
            let Some((y, before)) = rows.get_mut(&step.source) else { continue };
            let share = if length > 0.0 { seconds(step) / length } else { 0.0 };
            let x = (LEFT + share * (RIGHT - LEFT)).max(*before + APART);
            (*before, right) = (x, right.max(x));
            let _ = writeln!(
                drawn,
                "<g><title>{}</title><circle cx=\"{x:.0}\" cy=\"{y}\" r=\"10\"/><text class=\"number\" x=\"{x:.0}\" y=\"{}\">{number}</text></g>",
                escaped(&plain(&step.what)),
                *y + 4.0,
            );
        }
        format!(
            "<svg viewBox=\"0 0 {:.0} {y:.0}\" role=\"img\" aria-label=\"the steps in {length:.0} s\">\n\
             <text x=\"{LEFT}\" y=\"12\">{}</text>\n<text class=\"end\" x=\"{RIGHT}\" y=\"12\">+{length:.0} s</text>\n{drawn}</svg>\n",
            right + APART,
            time(first.at),
        )
    }
}

const STYLE: &str = "<style>\n\
    :root { color-scheme: light dark; }\n\
    body { font: 16px/1.4 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }\n\
    h1 { font-size: 1.4rem; overflow-wrap: anywhere; }\n\
    td:not(:last-child) { white-space: nowrap; }\n\
    td:last-child { overflow-wrap: anywhere; }\n\
    table { border-collapse: collapse; }\n\
    td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; }\n\
    svg { width: 100%; font-size: 13px; fill: currentColor; }\n\
    line { stroke: currentColor; opacity: .4; }\n\
    circle { fill: #1a66b3; }\n\
    .number { fill: #fff; text-anchor: middle; }\n\
    .end { text-anchor: end; }\n\
    </style>\n";

/// Escapes a text for Markdown: what has a meaning there, and HTML with it.
fn in_markdown(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if r"\`*_[]<>&|#!~".contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

/// Escapes a text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    Error::Folder { folder: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn a_report_shows_each_step_and_interprets_nothing_of_it() {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let mut timeline = Timeline::default();
        timeline.step(at(30), Source::Dns, "a | b".to_owned());
        timeline.step(at(0), Source::Lock, "<script>\"&\u{1b}".to_owned());
        timeline.step(at(30), Source::Dns, "c".to_owned());
        let mut report = Report {
            command: "drill",
            subject: "shop <primary>",
            is_dry_run: false,
            is_done: false,
            is_changed: false,
            cause: Some("too late".to_owned()),
            steps: timeline.steps(),
        };
        let markdown = report.markdown("account 1");
        assert!(markdown.contains("| 2 | 1970-01-01T00:00:30Z | +30.0 | DNS | a \\| b |"), "{markdown}");
        assert!(markdown.contains("Result: not done: too late"), "{markdown}");
        assert!(
            markdown.contains("\\<script\\>") && markdown.contains("# drill of shop \\<primary\\>"),
            "{markdown}"
        );
        let page = report.page("account 1");
        assert!(!page.contains("<script>") && !page.contains('\u{1b}'), "{page}");
        assert!(page.contains("<td>&lt;script&gt;&quot;&amp;\u{fffd}</td>"), "{page}");
        assert_eq!(page.matches("<circle").count(), 3, "{page}");
        // Two at one time do not cover each other.
        assert!(page.contains("cx=\"780\"") && page.contains("cx=\"802\""), "{page}");
        // "not done" would be read as "nothing was changed".
        report.is_changed = true;
        let changed = "Result: not ended, after something was, or may have been, changed: too late";
        assert!(report.markdown("").contains(changed), "{}", report.markdown(""));
    }
}
