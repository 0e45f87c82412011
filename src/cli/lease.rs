//! `failoverctl lease`: who holds a lease, and the pin that keeps all its candidates passive. `handover` has a file of
//! its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::Region;
use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use super::dynamodb::{Change, Changed, Lease, Seen};
use super::error::{Ended, Error};
use super::handover;
use super::screen::{Mood, Screen, paint, plain, time};
use super::session::Common;
use crate::lease::claim::{ANY, NOBODY_MAY, Record};
use crate::lease::config::Config;
use crate::program::text::Quoted;
use crate::program::variables;
use crate::remote::arn::Arn;

/// How often `--watch` reads the record.
const WATCH: Duration = Duration::from_secs(3);

/// Show who holds a lease in DynamoDB, keep all its candidates passive, or hand it over.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the record of a lease.
    #[command(
        after_help = "Examples:\n  failoverctl lease status --config lease.yaml\n  failoverctl lease status --watch \
                            --table admiral-lease --lease mylease --region eu-west-1"
    )]
    Status {
        /// Show it again every 3 seconds, with the time for which it has been unchanged, until interrupted.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Keep all candidates of a lease passive, until it is unpinned.
    #[command(
        after_help = "Example:\n  failoverctl lease pin --config lease.yaml --reason 'maintenance, INC-1234'"
    )]
    Pin(Confirmed),
    /// End a pin: the first candidate to poll takes the lease, a term later, or the longest one.
    #[command(after_help = "Example:\n  failoverctl lease unpin --config lease.yaml")]
    Unpin(Confirmed),
    Handover(handover::Arguments),
}

#[derive(Debug, Args)]
struct Confirmed {
    /// The reason; it replaces the notes in the record.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    which: Which,
}

/// Which lease: named by the file of lease-keeper, or by its table and its own name.
#[derive(Debug, Args)]
pub(super) struct Which {
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
pub(super) struct Opened {
    pub lease: Lease,
    /// The configuration's term, if there is a configuration.
    pub term: Option<Duration>,
    pub screen: Screen,
}

/// The state of a lease, from its record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Held,
    Pinned,
    Released,
    /// It has no owner, and its last one may still be active.
    Unowned,
    Missing,
}

/// A lease as `status` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    lease: String,
    table: String,
    region: String,
    state: State,
    /// Whether a candidate is active: `false` if the record shows that none is, `null` if it does not show it.
    active: Option<bool>,
    owner: Option<String>,
    writer: Option<String>,
    epoch: Option<u64>,
    term_seconds: Option<f64>,
    /// By the writer's clock.
    written_at: Option<DateTime<Utc>>,
    /// By this machine's clock; negative if the writer's is ahead.
    written_seconds_ago: Option<i64>,
    pinned: bool,
    released: bool,
    handover: Option<String>,
    notes: Option<String>,
    /// With `--watch`: for how long the record has been unchanged at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged_seconds: Option<f64>,
    #[serde(skip)]
    words: String,
    /// Whether the record has been unchanged for longer than its term.
    #[serde(skip)]
    overdue: bool,
}

/// The result of a change.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    lease: String,
    #[serde(rename = "outcome")]
    name: &'static str,
    detail: String,
    #[serde(skip)]
    ended: Ended,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    match arguments.command {
        Command::Status { watch, which } => {
            let Opened { lease, term, screen } = which.open(common).await?;
            status(&screen, &lease, term, watch).await
        }
        Command::Pin(Confirmed { reason, dry_run, yes, which }) => {
            let Opened { lease, screen, .. } = which.open(common).await?;
            pin_all(&screen, &lease, reason.as_deref(), dry_run, yes).await
        }
        Command::Unpin(Confirmed { reason, dry_run, yes, which }) => {
            let Opened { lease, screen, .. } = which.open(common).await?;
            unpin(&screen, &lease, reason.as_deref(), dry_run, yes).await
        }
        Command::Handover(arguments) => handover::run(common, arguments).await,
    }
}

async fn status(screen: &Screen, lease: &Lease, term: Option<Duration>, watch: bool) -> Result<Ended, Error> {
    let mut watched: Option<(Option<Seen>, Instant)> = None;
    let look = async || {
        let seen = lease.look().await?;
        let since = match &watched {
            Some((before, since)) if *before == seen => *since,
            _ => Instant::now(),
        };
        let status = Status::of(lease, seen.as_ref(), term, watch.then(|| since.elapsed()));
        watched = Some((seen, since));
        Ok(status)
    };
    let ended = |status: &Status| if status.mood() == Mood::Ok { Ended::Well } else { Ended::NotWell };
    let text = |status: &Status, _: Option<&_>| status.text();
    screen.watch("lease", watch.then_some(WATCH), look, text, ended).await
}

async fn pin_all(
    screen: &Screen,
    lease: &Lease,
    reason: Option<&str>,
    dry_run: bool,
    yes: bool,
) -> Result<Ended, Error> {
    let Some(seen) = lease.look().await? else { return Outcome::missing(lease).show(screen).await };
    if State::of(Some(&seen.record)) == State::Pinned {
        let said = "is pinned already; nothing was changed";
        return Outcome::well(lease, "already_pinned", said).show(screen).await;
    }
    if dry_run {
        let said = format!("would be pinned: it is {}", words(&seen.record));
        return Outcome::well(lease, "would_pin", &said).show(screen).await;
    }
    let question = format!(
        "Pin {}? It is {}. All its candidates become passive, until it is unpinned.",
        shown(lease),
        words(&seen.record)
    );
    if screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let outcome = match lease.change(&seen, Change::Pin(reason)).await? {
        Changed::Done => {
            let said = "is pinned. Each candidate is passive after its next look, within a period, or once its term \
                        is over if it cannot reach the table: its /leader answers 503. Its command may take until \
                        its term ends: wait for lease_keeper_command_running 0. To end the pin: failoverctl lease unpin";
            Outcome::well(lease, "pinned", said)
        }
        Changed::Refused { now, surely } => Outcome::changed(lease, now.as_ref(), surely),
    };
    outcome.show(screen).await
}

async fn unpin(
    screen: &Screen,
    lease: &Lease,
    reason: Option<&str>,
    dry_run: bool,
    yes: bool,
) -> Result<Ended, Error> {
    let Some(seen) = lease.look().await? else { return Outcome::missing(lease).show(screen).await };
    if State::of(Some(&seen.record)) != State::Pinned {
        let said = format!("is not pinned but {}; nothing was changed", words(&seen.record));
        return Outcome::refused(lease, "not_pinned", &said).show(screen).await;
    }
    if dry_run {
        return Outcome::well(lease, "would_unpin", "would be unpinned").show(screen).await;
    }
    let notes = seen.notes.as_deref().map(|notes| format!(" Its notes: {}.", plain(notes)));
    let question = format!(
        "Unpin {}?{} A candidate becomes active a term later, or the longest term if it has seen none.",
        shown(lease),
        notes.unwrap_or_default()
    );
    if screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let outcome = match lease.change(&seen, Change::Unpin(reason)).await? {
        Changed::Done => Outcome::well(
            lease,
            "unpinned",
            "is unpinned. The first candidate to poll takes it, a term later; one that started during the pin \
             waits for longestTermInSeconds",
        ),
        Changed::Refused { now, surely } => Outcome::changed(lease, now.as_ref(), surely),
    };
    outcome.show(screen).await
}

/// A lease in a question.
pub(super) fn shown(lease: &Lease) -> String {
    format!("lease {} in table {}, {}", plain(&lease.name), plain(&lease.table), lease.region)
}

/// The state of a record, in words that follow "it is".
pub(super) fn words(record: &Record) -> String {
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
pub(super) fn term_of(record: &Record, configured: Option<Duration>) -> Option<Duration> {
    Some(record.term).filter(|term| !term.is_zero()).or(configured)
}

fn read(file: &Path) -> Result<Config, Error> {
    let name = || file.display().to_string();
    let text = fs::read_to_string(file).map_err(|source| Error::File { file: name(), source })?;
    Config::parse(&text, &variables::environment)
        .map_err(|problems| Error::LeaseConfig { file: name(), problems })
}

// === impl Which ===

impl Which {
    /// Opens a session in the Region of the table.
    pub async fn open(self, common: &Common) -> Result<Opened, Error> {
        let Self { config, table, lease } = self;
        let config = config.map(|file| read(&file)).transpose()?;
        if let Some(config) = &config {
            for (option, variable, given, own) in [
                ("table", "LEASE_TABLE", &table, &config.table),
                ("lease", "LEASE_NAME", &lease, &config.lease),
            ] {
                if let Some(given) = given.as_ref().filter(|given| *given != own) {
                    let (given, own) = (Quoted(given), Quoted(own));
                    return Err(Error::OtherLease(format!(
                        "the file of --config names the {option} {own}, but --{option} or {variable} names {given}: \
                         leave one out"
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
        let session = match region.or_else(|| common.own_region()) {
            Some(region) => common.session_in(region).await?,
            None => common.session().await?,
        };
        let region = session.aws.region().cloned().expect("a session has a Region");
        let lease = Lease::new(&session.aws, region, table, name);
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

// === impl Status ===

impl Status {
    fn of(
        lease: &Lease,
        seen: Option<&Seen>,
        configured: Option<Duration>,
        unchanged: Option<Duration>,
    ) -> Self {
        let record = seen.map(|seen| &seen.record);
        let state = State::of(record);
        let term = record.and_then(|record| term_of(record, configured));
        let overdue = unchanged.zip(term).is_some_and(|(unchanged, term)| unchanged > term);
        // Admiral's checker may stay active.
        let is_by_keeper = record.is_some_and(|record| record.writer.is_some());
        let is_passive = state == State::Released || (overdue && is_by_keeper);
        let written_at = record.map(|record| record.updated_time);
        Self {
            lease: lease.name.clone(),
            table: lease.table.clone(),
            region: lease.region.clone(),
            state,
            active: is_passive.then_some(false),
            owner: record.map(|record| record.owner.clone()),
            writer: record.and_then(|record| record.writer.clone()),
            epoch: record.map(|record| record.epoch),
            term_seconds: term.map(|term| term.as_secs_f64()),
            written_at: written_at.and_then(|at| DateTime::from_timestamp(at, 0)),
            written_seconds_ago: written_at.map(|at| Utc::now().timestamp().saturating_sub(at)),
            pinned: state == State::Pinned,
            released: record.is_some_and(|record| record.released),
            handover: record.and_then(|record| record.handover.clone()),
            notes: seen.and_then(|seen| seen.notes.clone()),
            unchanged_seconds: unchanged.map(|unchanged| unchanged.as_secs_f64()),
            words: record.map_or_else(|| "missing: there is no record".to_owned(), words),
            overdue,
        }
    }

    fn mood(&self) -> Mood {
        match self.state {
            State::Held if !self.overdue => Mood::Ok,
            State::Held | State::Missing => Mood::Wrong,
            State::Pinned | State::Released | State::Unowned => Mood::Warn,
        }
    }

    fn text(&self) -> String {
        let mut rows = vec![
            ("lease", format!("{} in table {}, {}", plain(&self.lease), plain(&self.table), self.region)),
            ("state", paint(&self.words, self.mood())),
            ("active", self.activity()),
        ];
        if let (Some(epoch), Some(ago)) = (self.epoch, self.written_seconds_ago) {
            let by_hand = "Admiral's checker or a person".to_owned();
            rows.push(("writer", self.writer.as_deref().map_or(by_hand, plain)));
            rows.push(("epoch", if epoch == 0 { "none".to_owned() } else { epoch.to_string() }));
            rows.push(("term", self.term_seconds.map_or("unknown".to_owned(), |term| format!("{term} s"))));
            let at = self.written_at.map_or_else(|| "at an impossible time".to_owned(), time);
            let apart = if ago < 0 { "in the future" } else { "ago" };
            let apart = format!("{} s {apart} by this machine's", ago.unsigned_abs());
            rows.push(("written", format!("{at} by the writer's clock, {apart}")));
        }
        if let Some(notes) = &self.notes {
            rows.push(("notes", plain(notes)));
        }
        if let Some(unchanged) = self.unchanged_seconds {
            let overdue = if self.overdue { ", longer than its term" } else { "" };
            rows.push(("unchanged", format!("for at least {:.0} s{overdue}", unchanged.floor())));
        }
        rows.into_iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<9}  {value}\n"))
    }

    /// What the record shows about the active candidate, and what it does not.
    fn activity(&self) -> String {
        let owner = self.owner.as_deref().map(plain).unwrap_or_default();
        let look = if self.unchanged_seconds.is_some() { "the record alone" } else { "one look" };
        match self.state {
            State::Released => "none: the holder was passive before it released the lease".to_owned(),
            _ if self.active == Some(false) => {
                "none: the record has been unchanged for longer than its term".to_owned()
            }
            State::Held if self.unchanged_seconds.is_none() => format!(
                "unknown: {look} does not show whether {owner} is still active. /leader of its lease-keeper does; with \
                 --watch you see whether it renews the record"
            ),
            State::Held => format!(
                "unknown: {look} does not show whether {owner} is active. /leader of its lease-keeper does; while it is \
                 active, it renews the record every period"
            ),
            State::Pinned => format!(
                "unknown: {look} does not show whether each candidate has seen the pin, which takes up to a period. \
                 /leader of each does"
            ),
            State::Unowned | State::Missing => format!(
                "unknown: {look} does not show whether the last holder is still active, which it may be until its term \
                 ends. /leader of each candidate does"
            ),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Done, or done already. `said` is the rest of a sentence about the lease.
    pub fn well(lease: &Lease, name: &'static str, said: &str) -> Self {
        let detail = format!("{} {said}", plain(&lease.name));
        Self { lease: lease.name.clone(), name, detail, ended: Ended::Well }
    }

    /// Not done, and why.
    pub fn refused(lease: &Lease, name: &'static str, said: &str) -> Self {
        Self { ended: Ended::NotWell, ..Self::well(lease, name, said) }
    }

    pub fn missing(lease: &Lease) -> Self {
        let table = plain(&lease.table);
        let said = format!(
            "has no record in table {table}, {}; nothing was changed. Check --lease, --table and --region. A lease-keeper \
             creates the record when it starts",
            lease.region
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
