//! `failoverctl lease pin` and `unpin`: keep all candidates of a lease passive, and end that.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{Opened, Outcome, State, Which, shown, words};
use crate::cli::dynamodb::{Change, Changed};
use crate::cli::error::{Ended, Error};
use crate::cli::session::Common;
use crate::cli::text::plain;

/// Keep all candidates of a lease passive, until it is unpinned.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  failoverctl lease pin --config lease.yaml --reason 'maintenance, INC-1234'"
)]
pub(super) struct Pin {
    #[command(flatten)]
    confirmed: Confirmed,
}

/// End a pin: the first candidate to poll takes the lease, a term later, or the longest one.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl lease unpin --config lease.yaml")]
pub(super) struct Unpin {
    #[command(flatten)]
    confirmed: Confirmed,
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

pub(super) async fn pin(common: &Common, Pin { confirmed }: Pin) -> Result<Ended, Error> {
    let Confirmed { reason, dry_run, yes, which } = confirmed;
    let Opened { lease, screen, .. } = which.open(common).await?;
    let (lease, screen, reason) = (&lease, &screen, reason.as_deref());
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
        Changed::Done(_) => {
            let said = "is pinned. Each candidate is passive after its next look, within two periods, or once its term \
                        is over if it cannot reach the table: its /leader answers 503. Its command may take until \
                        its term ends: wait until lease_keeper_command_running and lease_keeper_command_ending are 0. To end the pin: failoverctl lease unpin";
            Outcome::well(lease, "pinned", said)
        }
        Changed::Refused { now, surely } => Outcome::changed(lease, now.as_ref(), surely),
    };
    outcome.show(screen).await
}

pub(super) async fn unpin(common: &Common, Unpin { confirmed }: Unpin) -> Result<Ended, Error> {
    let Confirmed { reason, dry_run, yes, which } = confirmed;
    let Opened { lease, screen, .. } = which.open(common).await?;
    let (lease, screen, reason) = (&lease, &screen, reason.as_deref());
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
        Changed::Done(_) => Outcome::well(
            lease,
            "unpinned",
            "is unpinned. The first candidate to poll takes it, a term later; one that started during the pin \
             waits for longestTermInSeconds",
        ),
        Changed::Refused { now, surely } => Outcome::changed(lease, now.as_ref(), surely),
    };
    outcome.show(screen).await
}
