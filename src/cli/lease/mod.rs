//! `failoverctl lease`: who holds a lease, the pin that keeps all its candidates passive, and its hand-over.

mod handover;
mod pin;
mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::Region;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::dynamodb::{Lease, Seen};
use super::error::{Ended, Error};
use super::screen::{Screen, say};
use super::session::Common;
use super::text::plain;
use crate::lease::claim::{ANY, NOBODY_MAY, Record};
use crate::lease::config::Config;
use crate::program::text::Quoted;
use crate::program::variables;
use crate::remote::arn::Arn;

/// Show who holds a lease in DynamoDB, keep all its candidates passive, or hand it over.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Handover(handover::Arguments),
}

/// Which lease: named by the file of lease-keeper, or by its table and its own name.
#[derive(Debug, Args)]
struct Which {
    /// The configuration file of lease-keeper: it names the lease, its table and Region. Its role is not assumed.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The table, by its name or ARN.
    #[arg(long, value_name = "NAME", env = "LEASE_TABLE", required_unless_present = "config")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    table: Option<String>,
    /// The lease.
    #[arg(long, value_name = "NAME", env = "LEASE_NAME", required_unless_present = "config")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    lease: Option<String>,
}

/// A lease, and the account in which it is.
struct Opened {
    pub lease: Lease,
    /// The configuration's term, if there is a configuration.
    pub term: Option<Duration>,
    pub screen: Screen,
}

/// The state of a lease, from its record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Held,
    Pinned,
    Released,
    /// It has no owner, and its last one may still be active.
    Unowned,
    Missing,
}

/// The result of a change.
#[derive(Debug, Serialize)]
struct Outcome {
    lease: String,
    region: String,
    #[serde(rename = "outcome")]
    name: &'static str,
    detail: String,
    #[serde(skip)]
    ended: Ended,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    match arguments.command {
        Command::Status(arguments) => status::run(common, arguments).await,
        Command::Pin(arguments) => pin::pin(common, arguments).await,
        Command::Unpin(arguments) => pin::unpin(common, arguments).await,
        Command::Handover(arguments) => handover::run(common, arguments).await,
    }
}

/// A lease in a question.
fn shown(lease: &Lease) -> String {
    format!("lease {} in table {}, {}", plain(&lease.name), plain(&lease.table), lease.region)
}

/// The state of a record, in words that follow "it is".
fn words(record: &Record) -> String {
    let to = record.handover.as_deref().map(|to| match to {
        "" | ANY => "another candidate".to_owned(),
        to => plain(to),
    });
    match State::of(Some(record)) {
        State::Held => {
            let asked = to.map(|to| format!(", and asked to hand it over to {to}"));
            format!("held by {}{}", plain(&record.owner), asked.unwrap_or_default())
        }
        State::Pinned => format!("pinned ({NOBODY_MAY})"),
        State::Released => format!("released{}", to.map(|to| format!(" for {to}")).unwrap_or_default()),
        State::Unowned | State::Missing => "without an owner".to_owned(),
    }
}

/// The term of a record, or else of the configuration.
fn term_of(record: &Record, configured: Option<Duration>) -> Option<Duration> {
    Some(record.term).filter(|term| !term.is_zero()).or(configured)
}

fn read(file: &Path) -> Result<Config, Error> {
    let name = || file.display().to_string();
    let text = fs::read_to_string(file).map_err(|source| Error::File { file: name(), source })?;
    // Whose lease-keeper's file it is does not matter here.
    let candidate = |name: &str| (name == "LEASE_IDENTITY").then(|| "failoverctl".to_owned());
    let lookup = |name: &str| variables::environment(name).or_else(|| candidate(name));
    Config::parse(&text, &lookup).map_err(|problems| Error::LeaseConfig { file: name(), problems })
}

// === impl Which ===

impl Which {
    /// Opens a session in the Region of the table.
    pub async fn open(self, common: &Common) -> Result<Opened, Error> {
        let Self { config, table, lease } = self;
        let config = config.map(|file| read(&file)).transpose()?;
        if let Some(config) = &config {
            for (what, options, given, own) in [
                ("table", "--table or LEASE_TABLE", &table, &config.table),
                ("lease", "--lease or LEASE_NAME", &lease, &config.lease),
                ("Region", "--region", &common.region, &config.region),
            ] {
                if let Some(given) = given.as_ref().filter(|given| *given != own) {
                    let (given, own) = (Quoted(given), Quoted(own));
                    return Err(Error::OtherLease(format!(
                        "the file of --config names the {what} {own}, but {options} names {given}: leave one out"
                    )));
                }
            }
        }
        let (table, name, region, term) = match config {
            Some(config) => (config.table, config.lease, Some(config.region), Some(config.terms.term())),
            None => (table.expect("clap requires it"), lease.expect("clap requires it"), None, None),
        };
        let of_arn = Arn::parse(&table).map(|arn| arn.region.to_owned());
        let region = common.region.clone().or(region).or(of_arn).map(Region::new);
        let session = common.session_in(region.or_else(|| common.own_region())).await?;
        let region = session.aws.region().cloned().expect("a session has a Region");
        let lease = Lease::new(&session.aws, region, table, name);
        let others = lease.eventual_replicas().await;
        if !others.is_empty() {
            say(&format!(
                "warning: the table has replicas in {} as well, which take a write of {region} seconds later, and may undo it: \
                 {region} is right only if it is the Region of every candidate, in its configuration",
                others.join(", "),
                region = lease.region
            ));
        }
        Ok(Opened { lease, term, screen: session.screen })
    }
}

// === impl State ===

impl State {
    pub fn of(record: Option<&Record>) -> Self {
        match record {
            None => Self::Missing,
            Some(record) if record.owner == NOBODY_MAY => Self::Pinned,
            Some(record) if !record.owner.is_empty() => Self::Held,
            Some(record) if record.released => Self::Released,
            Some(_) => Self::Unowned,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Done, or done already. `said` is the rest of a sentence about the lease.
    pub fn well(lease: &Lease, name: &'static str, said: &str) -> Self {
        let detail = format!("{} in {} {said}", plain(&lease.name), lease.region);
        let (lease, region) = (lease.name.clone(), lease.region.clone());
        Self { lease, region, name, detail, ended: Ended::Well }
    }

    /// Not done, and why.
    pub fn refused(lease: &Lease, name: &'static str, said: &str) -> Self {
        Self { ended: Ended::NotWell, ..Self::well(lease, name, said) }
    }

    pub fn missing(lease: &Lease) -> Self {
        let table = plain(&lease.table);
        let said = format!(
            "has no record in table {table}; nothing was changed. Check --lease, --table and --region. A lease-keeper \
             creates the record when it starts"
        );
        Self::refused(lease, "missing", &said)
    }

    /// The record was no longer the one that the person saw.
    pub fn changed(lease: &Lease, now: Option<&Seen>, surely: bool) -> Self {
        let now = now.map_or_else(|| "deleted".to_owned(), |now| words(&now.record));
        let done = if surely {
            "nothing was changed. Repeat the command if the change is still right"
        } else {
            "a first try of the change gave no answer, and may have been made before that. Look at the lease, and repeat \
             the command if the change is still right"
        };
        Self::refused(lease, "changed", &format!("was changed after it was read, and is {now} now: {done}"))
    }

    pub async fn show(&self, screen: &Screen) -> Result<Ended, Error> {
        screen.show("outcomes", &[self], || format!("{}\n", self.detail)).await?;
        Ok(self.ended)
    }
}
