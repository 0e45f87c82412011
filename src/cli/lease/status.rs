//! `failoverctl lease status`: who holds a lease, as far as its record shows it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::{Opened, State, Which, term_of, words};
use crate::cli::dynamodb::{Lease, Seen};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::{Mood, paint};
use crate::cli::session::Common;
use crate::cli::text::{plain, time};

/// How often `--watch` reads the record.
const WATCH: Duration = Duration::from_secs(3);

/// Show the record of a lease.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl lease status --config lease.yaml\n  failoverctl lease status --watch \
                        --table admiral-lease --lease mylease --region eu-west-1"
)]
pub(super) struct Arguments {
    /// Show it again every 3 seconds, with the time for which it has been unchanged, until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    which: Which,
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
    /// The configuration's term, if the record has none.
    #[serde(skip)]
    assumed: Option<Duration>,
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

pub(super) async fn run(common: &Common, Arguments { watch, which }: Arguments) -> Result<Ended, Error> {
    let Opened { lease, term, screen } = which.open(common).await?;
    let mut watched: Option<(Option<Seen>, Instant)> = None;
    let look = async || {
        let seen = lease.look().await?;
        let since = match &watched {
            Some((before, since)) if *before == seen => *since,
            _ => Instant::now(),
        };
        let status = Status::of(&lease, seen.as_ref(), term, watch.then(|| since.elapsed()));
        watched = Some((seen, since));
        Ok(status)
    };
    let ended = |status: &Status| if status.mood() == Mood::Ok { Ended::Well } else { Ended::NotWell };
    let text = |status: &Status, _: Option<&_>| status.text();
    screen.watch("lease", watch.then_some(WATCH), look, text, ended).await
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
        // Of a record without a term the file's is only an assumption.
        let term = record.and_then(|record| term_of(record, None));
        let assumed = configured.filter(|_| term.is_none() && record.is_some());
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
            assumed,
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
            let unknown = || {
                let assumed = self
                    .assumed
                    .map(|term| format!(": the record has no term; the file's is {} s", term.as_secs_f64()));
                format!("unknown{}", assumed.unwrap_or_default())
            };
            rows.push(("term", self.term_seconds.map_or_else(unknown, |term| format!("{term} s"))));
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
                "unknown: {look} does not show whether each candidate has seen the pin, which takes up to two periods. \
                 /leader of each does"
            ),
            State::Unowned | State::Missing => format!(
                "unknown: {look} does not show whether the last holder is still active, which it may be until its term \
                 ends. /leader of each candidate does"
            ),
        }
    }
}
