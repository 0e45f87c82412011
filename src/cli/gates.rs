//! What has to be before traffic moves: commands of the user's own.

use std::process::Stdio;

use clap::Args;
use tokio::process::Command;

use super::error::{Ended, Error};
use super::screen::Screen;
use super::session::Common;
use super::text::plain;
use super::timeline::{Source, Timeline};

/// The commands.
#[derive(Debug, Args)]
pub(super) struct Gates {
    /// Go on only if this command ends with status 0: for example a check of the replication. It is run by sh, before and
    /// after the question. May be repeated.
    #[arg(long = "require-command", value_name = "COMMAND")]
    commands: Vec<String>,
}

// === impl Gates ===

impl Gates {
    /// Whether there are none, so that no time goes by.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Runs the commands, asks the question unless it `is_answered`, and then runs them again: it may have been open for
    /// hours.
    ///
    /// # Errors
    /// One did not end with status 0; there is no terminal to ask.
    pub async fn ask(
        &self,
        common: &Common,
        screen: &Screen,
        question: &str,
        is_answered: bool,
        timeline: &mut Timeline,
    ) -> Result<Ended, Error> {
        self.pass(common, timeline).await?;
        let ended = screen.ask(question, is_answered).await?;
        if ended == Ended::NotWell {
            timeline.add(Source::Person, "declined".to_owned());
        } else if !is_answered {
            timeline.add(Source::Person, format!("agreed: {question}"));
            self.pass(common, timeline).await?;
        }
        Ok(ended)
    }

    /// Runs the commands one after the other, with the last line that each prints as what was seen.
    ///
    /// # Errors
    /// One did not end with status 0.
    async fn pass(&self, common: &Common, timeline: &mut Timeline) -> Result<(), Error> {
        for command in &self.commands {
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true);
            common.hand_on(&mut shell);
            let output = shell.output().await?;
            let last = |printed: &[u8]| {
                let printed = String::from_utf8_lossy(printed);
                printed.lines().rfind(|line| !line.trim().is_empty()).map(plain)
            };
            let said = if output.status.success() { None } else { last(&output.stderr) };
            let said = said.or_else(|| last(&output.stdout));
            let what = format!(
                "{} ended with {}{}",
                plain(command),
                output.status,
                said.map(|line| format!(": {line}")).unwrap_or_default()
            );
            if !output.status.success() {
                return Err(Error::Gate(what));
            }
            timeline.now(Source::Command, what);
        }
        Ok(())
    }
}
