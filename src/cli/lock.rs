//! `failoverctl lock`: the function's own code, run by an operator.

use chrono::{SecondsFormat, TimeDelta};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures_util::future::join;
use serde_json::json;

use super::clock;
use super::error::{Ended, Error};
use super::guard::{Guard, Options};
use super::locks;
use super::name::{self, Named, Tags};
use super::screen::say;
use super::seen;
use super::session::{Common, Interrupts, patience, shortly};
use super::state::text;
use crate::failover_lock::Handler;
use crate::failover_lock::alarm::{DIMENSION, METRICS, NAMESPACE};
use crate::failover_lock::decide::{self, Health};
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::outcome::{Outcome, Verdict};
use crate::failover_lock::record::{BY_HAND, Record};

/// Lock a health check: its site goes out of service and stays out.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl lock primary --reason 'data centre on fire'\n  failoverctl lock \
    233e180f-f023-45a3-954e-415303f21eab --reason 'data centre on fire' --dry-run"
)]
pub(super) struct Arguments {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// The reason, for those who find the lock.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { check, reason, dry_run, yes, options } = arguments;
    let mut guard = options.guard(common).await?;
    guard.config.dry_run = dry_run;
    let id = check.find(&guard).await?;
    let (check, tags) = lockable(&guard, &id).await?;
    let asks = check.endpoint.as_ref().map(seen::watches).unwrap_or_default();
    let path = check.path().unwrap_or_default();
    let title = name::title(&id, tags.as_ref());
    let question =
        format!("Lock {title}, {asks}{path}? Its site goes out of service until a person restores it.");
    let screen = &guard.session.screen;
    if screen.ask(&question, yes || dry_run).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let (outcome, _interrupts) = by_hand(&guard, &id, &reason).await?;
    screen.show("outcomes", &[&outcome], || text(&outcome)).await?;
    if outcome.outcome == Verdict::AlreadyLocked && guard.health(&id).await == Health::Healthy {
        say(&format!(
            "Route 53's checkers find it healthy. If they still do five minutes after its lock, that does not hold: \
             failoverctl doctor {id}"
        ));
    }
    Ok(match outcome.outcome {
        Verdict::Locked | Verdict::WouldLock | Verdict::AlreadyLocked => Ended::Well,
        _ => Ended::NotWell,
    })
}

/// Locks a check for a person: after any restore and any alarm, whatever the clock says that recorded it.
/// From its first call on that may change something, an interrupt is held off.
pub(super) async fn by_hand(
    guard: &Guard,
    id: &HealthCheckId,
    reason: &str,
) -> Result<(Outcome, Interrupts), Error> {
    // Also after those that came while a question was open.
    let (check, tags) = read(guard, id).await?;
    let tags = tags.unwrap_or_default();
    let path = check.path().unwrap_or_default();
    let locked_path = guard.config.locked_path.as_str();
    guard.session.screen.context().await;
    let now = clock::now();
    let (record, _) = Record::read_without_invalid(&tags, path, check.version, locked_path, now);
    let restored_at = record.restore.map(|restore| restore.seen);
    let newest = restored_at.max(record.lock.and_then(|lock| lock.alarm));
    let at = newest.map_or(now, |at| now.max(at + TimeDelta::seconds(1)));
    let message = json!({
        "AlarmName": format!("{BY_HAND}{reason}"),
        "NewStateValue": "ALARM",
        "StateChangeTime": at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "Trigger": { "Namespace": NAMESPACE, "MetricName": METRICS[0], "Dimensions": [{ "name": DIMENSION, "value": id }] },
    });
    let mut interrupts = Interrupts::new()?;
    let locked = guard.handle(Some(&mut interrupts), Handler::Lock, &message.to_string()).await?;
    Ok((locked, interrupts))
}

/// Reads a check that is to be locked, and its tags if they can be read.
///
/// # Errors
/// No lock holds on it, or the function that guards it locks by another path.
pub(super) async fn lockable(
    guard: &Guard,
    id: &HealthCheckId,
) -> Result<(HealthCheck, Option<Tags>), Error> {
    let (read, same_path) = join(read(guard, id), Box::pin(locks::same_path(guard, id))).await;
    let (check, tags) = read?;
    decide::can_hold(&check).map_err(|cannot| Error::CannotHold(id.clone(), cannot))?;
    same_path?;
    Ok((check, tags))
}

/// Reads a check, and its tags if they can be read.
pub(super) async fn read(guard: &Guard, id: &HealthCheckId) -> Result<(HealthCheck, Option<Tags>), Error> {
    let tags = guard.route53.tags(id, shortly());
    let (check, tags) = join(guard.route53.health_check(id, patience()), tags).await;
    Ok((check?, tags.ok()))
}
