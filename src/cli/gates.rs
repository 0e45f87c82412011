//! What has to be before traffic moves: commands of the user's own, a person's agreement, and a second person's approval.

use std::process::Stdio;

use clap::Args;
use tokio::process::Command;

use super::approval;
use super::error::{Ended, Error};
use super::session::{Common, Session};
use super::text::plain;
use super::timeline::{Source, Timeline};

/// The gates.
#[derive(Debug, Default, Args)]
pub(super) struct Gates {
    /// Go on only if this command ends with status 0: for example a check of the replication. It is run by sh, before and
    /// after the question. May be repeated.
    #[arg(long = "require-command", value_name = "COMMAND")]
    commands: Vec<String>,
    #[command(flatten)]
    approval: approval::Options,
}

/// What a person is asked.
pub(super) struct Ask<'a> {
    pub question: &'a str,
    /// Whether the person has agreed already.
    pub yes: bool,
    /// Whether nothing is to be changed: then no one is asked.
    pub dry_run: bool,
    /// What a second person approves: the operation with its options, and its reason.
    pub what: String,
}

/// All gates are passed.
pub(super) struct Passed {
    /// The name of the second person, if one had to approve.
    approved_by: Option<String>,
}

// === impl Gates ===

impl Gates {
    /// Whether there are none, so that no time goes by.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && !self.approval.is_required()
    }

    /// Runs the commands, asks the question and for the approval, and then runs the commands again: it may have taken hours.
    /// Returns `None` if the person has declined.
    ///
    /// # Errors
    /// A command did not end with status 0; there is no terminal to ask; it is not approved.
    pub async fn ask(
        &self,
        common: &Common,
        session: &Session,
        asked: &Ask<'_>,
        timeline: &mut Timeline,
    ) -> Result<Option<Passed>, Error> {
        let Ask { question, yes, dry_run, what } = asked;
        self.pass(common, timeline).await?;
        let is_answered = *yes || *dry_run;
        if timeline.ask(&session.screen, question, is_answered).await? == Ended::NotWell {
            return Ok(None);
        }
        let is_required = self.approval.is_required();
        let approved_by = if is_required && *dry_run {
            timeline.now(Source::Person, "a second person would have to approve".to_owned());
            None
        } else if is_required {
            Some(self.approval.get(session, what, timeline).await?)
        } else {
            None
        };
        if !is_answered || approved_by.is_some() {
            self.pass(common, timeline).await?;
        }
        Ok(Some(Passed { approved_by }))
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

// === impl Passed ===

impl Passed {
    /// The reason to record. The approval is its beginning: a long reason may be cut.
    pub fn reason(&self, given: Option<&str>) -> Option<String> {
        match (&self.approved_by, given) {
            (None, given) => given.map(str::to_owned),
            (Some(by), None) => Some(format!("approved by {by}")),
            (Some(by), Some(given)) => Some(format!("approved by {by}: {given}")),
        }
    }
}
