//! Several accounts in one look, each through a profile of the AWS CLI: what cannot be read of one hides nothing of the
//! others.

use futures_util::future::join_all;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::sync::OnceCell;

use super::{REDRAW, Shown};
use crate::cli::context::Context;
use crate::cli::error::{Ended, Error};
use crate::cli::guard::{Guard, Options};
use crate::cli::look;
use crate::cli::screen::{Mood, paint};
use crate::cli::seen::Status;
use crate::cli::session::Common;
use crate::cli::text::{plain, wrapped};

/// An account that is looked at.
struct Account {
    profile: String,
    /// The options, with this profile alone.
    common: Common,
    /// Once its session could be opened.
    guard: OnceCell<Guard>,
}

/// What one look shows of an account.
struct Section {
    profile: String,
    /// `None` if there are no credentials.
    context: Option<Context>,
    /// The health checks, or why they could not be read.
    shown: Result<Shown, String>,
}

/// A health check with its account.
#[derive(Serialize)]
struct Row<'a> {
    account: Option<&'a str>,
    #[serde(flatten)]
    status: &'a Status,
}

/// Shows the health checks of the accounts of these profiles.
pub(super) async fn run(
    common: &Common,
    options: &Options,
    profiles: Vec<(String, Common)>,
    watch: bool,
) -> Result<Ended, Error> {
    let accounts: Vec<_> = profiles
        .into_iter()
        .map(|(profile, common)| Account { profile, common, guard: OnceCell::new() })
        .collect();
    let look = async || Ok(join_all(accounts.iter().map(|account| account.look(options))).await);
    let text = |sections: &Vec<_>, before: Option<&Vec<_>>| text(sections, before.map(Vec::as_slice));
    common.screen().watch("accounts", watch.then_some(REDRAW), look, text, |sections| ended(sections)).await
}

fn text(sections: &[Section], before: Option<&[Section]>) -> String {
    let sections = sections.iter().enumerate().map(|(at, section)| {
        let before = before.and_then(|before| before.get(at)).and_then(|before| before.shown.as_ref().ok());
        section.text(before)
    });
    sections.collect::<Vec<_>>().join("\n")
}

fn ended(sections: &[Section]) -> Ended {
    let is_well = |section: &Section| section.shown.as_ref().is_ok_and(|shown| shown.ended() == Ended::Well);
    if sections.iter().all(is_well) { Ended::Well } else { Ended::NotWell }
}

// === impl Account ===

impl Account {
    async fn look(&self, options: &Options) -> Section {
        let guard = self.guard.get_or_try_init(|| Box::pin(options.guard(&self.common))).await;
        let context = match &guard {
            Ok(guard) => guard.session.screen.context().await,
            Err(_) => None,
        };
        let checks = match guard {
            Ok(guard) => Box::pin(look::all(guard)).await,
            Err(error) => Err(error),
        };
        let shown = checks.map(|checks| Shown { checks, are_named: false, context: context.clone() });
        let shown = shown.map_err(|error| self.common.with_next_step(error).to_string());
        Section { profile: self.profile.clone(), context, shown }
    }
}

// === impl Section ===

impl Section {
    fn text(&self, before: Option<&Shown>) -> String {
        let heading = match &self.context {
            Some(context) => context.line(),
            None => plain(&format!("account unknown, profile {}", self.profile)),
        };
        let found = match &self.shown {
            Ok(shown) => shown.text(before),
            Err(why) => wrapped(&format!("{}: {}", paint("not read", Mood::Unknown), plain(why)), 0),
        };
        wrapped(&heading, 0) + &found
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let account = self.context.as_ref().and_then(Context::account_id);
        let rows = self
            .shown
            .as_ref()
            .ok()
            .map(|shown| shown.checks.iter().map(|status| Row { account, status }).collect::<Vec<_>>());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("profile", &self.profile)?;
        map.serialize_entry("context", &self.context)?;
        map.serialize_entry("healthChecks", &rows)?;
        if let Err(why) = &self.shown {
            map.serialize_entry("why", why)?;
        }
        map.end()
    }
}
