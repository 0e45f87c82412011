//! What a `doctor` has found, each fault with its repair.

use std::ops::Not;

use serde::Serialize;

use super::error::{Ended, Error};
use super::screen::{Mood, Screen, paint};
use super::text::plain;

/// The finding about one link of a chain.
#[derive(Clone, Debug, Serialize)]
struct Link {
    name: &'static str,
    #[serde(rename = "result")]
    mood: Mood,
    found: String,
    /// The repair: a command, or another step.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Whether that is a command as it stands, which moves no traffic.
    #[serde(skip_serializing_if = "Not::not")]
    fixable: bool,
}

/// The link of what is never looked at, which counts for nothing.
const BEYOND: &str = "not looked at";

/// The findings, in the chain's order.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Link>);

/// What repairs the faults: each with its finding.
pub(super) struct Plan {
    /// By a command.
    pub commands: Vec<(String, String)>,
    /// In another way.
    pub by_hand: Vec<(String, String)>,
}

// === impl Findings ===

impl Findings {
    pub fn ok(&mut self, name: &'static str, found: String) {
        self.add(name, Mood::Ok, found, None);
    }

    pub fn warn(&mut self, name: &'static str, found: String) {
        self.add(name, Mood::Warn, found, None);
    }

    pub fn wrong(&mut self, name: &'static str, found: String, remedy: String) {
        self.add(name, Mood::Wrong, found, Some(remedy));
    }

    /// A fault that this command repairs, without moving traffic.
    pub fn fixable(&mut self, name: &'static str, found: String, command: String) {
        let remedy = Some(command);
        self.0.push(Link { name, mood: Mood::Wrong, found, remedy, fixable: true });
    }

    /// A fault that this command repairs; `--fix` runs it only if it `may`.
    pub fn repair(&mut self, may: bool, name: &'static str, found: String, command: String) {
        if may { self.fixable(name, found, command) } else { self.wrong(name, found, command) }
    }

    /// What was found wrong, with the command that repairs each; and what has no such command, with its remedy.
    pub fn plan(&self) -> Plan {
        // What is to be done about the state depends on the sites.
        let wrong = self.0.iter().filter(|link| link.mood == Mood::Wrong && link.name != "state");
        let (commands, by_hand): (Vec<_>, Vec<_>) = wrong.partition(|link| link.fixable);
        let step = |link: &Link| (plain(&link.found), link.remedy.clone().unwrap_or_default());
        let mut plan = Plan { commands: Vec::new(), by_hand: by_hand.into_iter().map(step).collect() };
        // Several links of a chain may have the same fault.
        for step in commands.into_iter().map(step) {
            if plan.commands.iter().all(|(_, command)| *command != step.1) {
                plan.commands.push(step);
            }
        }
        plan
    }

    pub fn unknown(&mut self, name: &'static str, cause: &impl ToString) {
        self.add(name, Mood::Unknown, cause.to_string(), None);
    }

    /// What this command never looks at: no fault, and no proof that all is well.
    pub fn beyond(&mut self, what: &str) {
        self.add(BEYOND, Mood::Unknown, what.to_owned(), None);
    }

    pub fn add(&mut self, name: &'static str, mood: Mood, found: String, remedy: Option<String>) {
        self.0.push(Link { name, mood, found, remedy, fixable: false });
    }

    /// The rating of each.
    pub fn moods(&self) -> impl Iterator<Item = Mood> {
        self.0.iter().map(|link| link.mood)
    }

    /// Prints them all. All is well if nothing is wrong, and nothing unseen.
    pub async fn show(&self, screen: &Screen) -> Result<Ended, Error> {
        // The commands name no profile.
        let named = self.0.iter().any(|link| link.remedy.is_some());
        let profile = screen.context().await.filter(|_| named).and_then(|context| context.for_commands());
        let profile = profile.map(|export| format!("before these commands: {export}\n")).unwrap_or_default();
        screen
            .show_in_context("findings", &self.0, || self.0.iter().map(text).collect::<String>() + &profile)
            .await?;
        let is_well = |link: &Link| link.name == BEYOND || !matches!(link.mood, Mood::Wrong | Mood::Unknown);
        let is_well = self.0.iter().all(is_well);
        Ok(if is_well { Ended::Well } else { Ended::NotWell })
    }
}

fn text(link: &Link) -> String {
    let mood = match link.mood {
        Mood::Ok => "ok",
        Mood::Warn => "look",
        Mood::Wrong => "WRONG",
        Mood::Unknown => "unseen",
    };
    let remedy = link.remedy.as_ref().map(|remedy| format!("{:22}→ {}\n", "", plain(remedy)));
    // The colour codes do not count in the width.
    let pad = " ".repeat(8 - mood.len());
    let found = plain(&link.found);
    format!("{}{pad}{:14}{found}\n{}", paint(mood, link.mood), link.name, remedy.unwrap_or_default())
}
