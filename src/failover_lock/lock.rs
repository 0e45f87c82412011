//! Sets a lock for each alarm that asks for one.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{join, join_all, maybe_done};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::FailoverLock;
use super::alarm::{AlarmState, AlarmTransition};
use super::apply::{Cause, Target, act};
use super::cloudwatch::{Behind, Unresolved};
use super::decide::{self, Concern, Decision, Health, Seen, Step};
use super::error::{Error, FailedRecord};
use super::event::{self, Message};
use super::health_check::{HealthCheck, HealthCheckId};
use super::outcome::{Outcome, Verdict};
use super::reason::Reason;
use super::record::Record;
use super::view::{self, Tags, or_warn, shortly};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::{Deadline, MayPass};

/// How long a check's answer is waited for, once it is asked for, before its tags are read beside it, on a connection of
/// their own. Where the answer comes sooner, reading one after the other costs less, and often the tags need not be read
/// at all.
const BESIDE: Duration = Duration::from_millis(20);

/// How long after its tags a check's answer may come before the tags are read again, although nothing was on record: a restore may
/// have been recorded between the two. Otherwise that would be one more round trip before the first lock.
const AT_ONCE_READ: Duration = Duration::from_millis(250);

/// How often a check that was changed while it was read is read again; a record that no function wrote may be ahead for
/// ever.
const STALE_READS: u32 = 3;

/// How many checks of one alarm are read at once: Route 53 allows an account some calls a second.
const AT_ONCE: usize = 4;

/// What is assumed where a check's record cannot be read.
const NEWER: &str = "taking the alarm for newer than the last restore";

/// The result of a record, and its message in a queue.
type Handled = (Option<String>, Result<Outcome, FailedRecord>);

/// Handles every record of an event, all at once, so that none waits for another's slow answer.
pub(super) async fn lock(system: &FailoverLock, event: &str, deadline: Deadline) -> Vec<Handled> {
    let records = match event::records(event) {
        Ok(records) => records,
        Err(error) => {
            let failed = FailedRecord { record: Some(1), ..FailedRecord::of(None, error) };
            return vec![(None, Err(failed))];
        }
    };
    let records = records.into_iter().zip(1..).map(async |(record, number)| {
        let failed = |alarm, health_check_id, error: Error| FailedRecord {
            record: Some(number),
            alarm,
            ..FailedRecord::of(health_check_id, error)
        };
        let result = match record.message {
            Ok(Message::Alarm(transition)) => {
                let alarm = transition.alarm.clone();
                match handle(system, transition, deadline).await {
                    // What is guarded is locked; others may be behind the alarm.
                    Ok((outcome, Some(unread))) => {
                        let id = outcome.health_check_id.clone();
                        return vec![
                            (None, Ok(outcome)),
                            (record.message_id, Err(failed(Some(alarm), id, unread.into()))),
                        ];
                    }
                    Ok((outcome, None)) => Ok(outcome),
                    Err((id, error)) => Err(failed(Some(alarm), id, error)),
                }
            }
            Ok(Message::Foreign(what)) => {
                info!(what, decision = "ignore", "decided");
                let reason = Some(Reason::NotAHealthCheckAlarm);
                Ok(Outcome { reason, ..Outcome::new(None, Verdict::Ignored) })
            }
            Err(error) => Err(failed(None, None, error.into())),
        };
        vec![(record.message_id, result)]
    });
    join_all(records).await.into_iter().flatten().collect()
}

/// Handles one alarm's change. Returns the outcome, and why other health checks may be behind a composite alarm as well.
async fn handle(
    system: &FailoverLock,
    mut transition: AlarmTransition,
    deadline: Deadline,
) -> Result<(Outcome, Option<Unresolved>), (Option<HealthCheckId>, Error)> {
    let behind = look_up(system, &mut transition, deadline).await.map_err(|error| (None, error))?;
    let ignore = |transition: &AlarmTransition, reason| {
        let id = match transition.health_checks.as_slice() {
            [id] => Some(id),
            _ => None,
        };
        log_decision(transition, id, &Decision::Ignore(reason));
        Ok((Cause::from(transition).not_locked(id, Verdict::Ignored, reason), None))
    };
    let asks = transition.state == AlarmState::Alarm && transition.holds_back.is_none();
    if asks && transition.health_checks.len() > 1 && system.config.guarded_tag.is_some() {
        let guarded = guarded(system, &transition.health_checks, deadline);
        let guarded = guarded.await.map_err(|error| (None, error))?;
        if guarded.is_empty() {
            return ignore(&transition, Reason::NotGuarded);
        }
        transition.health_checks = guarded;
    }
    match decide::concern(&transition, &system.config).map_err(|error| (None, error.into()))? {
        Concern::None(reason) => ignore(&transition, reason),
        Concern::Check(id) => {
            transition.child = behind.found.get(&id).copied();
            let locked = lock_check(system, &transition, &id, deadline).await;
            locked.map(|outcome| (outcome, behind.unread)).map_err(|error| (Some(id), error))
        }
    }
}

/// Finds the health checks behind a composite alarm that went off, and how its children find them failing.
async fn look_up(
    system: &FailoverLock,
    transition: &mut AlarmTransition,
    deadline: Deadline,
) -> Result<Behind, Error> {
    let composite = transition.composite.as_ref().filter(|_| transition.state == AlarmState::Alarm);
    let Some(composite) = composite else { return Ok(Behind::default()) };
    let ours =
        async |ids: &[HealthCheckId]| Ok::<_, Error>(!guarded(system, ids, deadline).await?.is_empty());
    let behind = system.cloudwatch.health_checks_behind(composite, ours, deadline).await?;
    transition.health_checks = behind.found.keys().cloned().collect();
    Ok(behind)
}

/// Those of these checks that this function guards, by their tags where `GUARDED_TAG` says so.
async fn guarded(
    system: &FailoverLock,
    ids: &[HealthCheckId],
    deadline: Deadline,
) -> Result<Vec<HealthCheckId>, Error> {
    let FailoverLock { config, route53, .. } = system;
    let named = ids.iter().filter(|id| config.guards(id));
    let tagged = named.map(async |id| {
        if config.guarded_tag.is_none() {
            return Ok(Some(id.clone()));
        }
        match route53.tags(id, deadline).await {
            Ok(tags) => Ok(config.guards_tagged(&tags).then(|| id.clone())),
            Err(gone) if gone.kind() == Kind::NotFound => Ok(None),
            Err(failure) => Err(Error::NotSeen(failure.to_string())),
        }
    });
    let tagged: Vec<_> = stream::iter(tagged).buffered(AT_ONCE).try_collect().await?;
    Ok(tagged.into_iter().flatten().collect())
}

/// Reads the check, decides, acts; and starts again when someone else changed the check meanwhile.
async fn lock_check(
    system: &FailoverLock,
    transition: &AlarmTransition,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let config = &system.config;
    let mut tries = 0;
    let read_decide_act = async |_| {
        tries += 1;
        let asked = Instant::now();
        let beside = async {
            // All that is read beside the check, so that the lock stands after two round trips.
            let holds_back = async {
                let unknown = transition.comparison_unknown;
                if unknown { view::holds_back(system, id, &transition.alarm, deadline).await } else { None }
            };
            join(holds_back, view::secondary_is_healthy(system, id, deadline)).await
        };
        let ((check, tags), (holds_back, secondary)) =
            join(check_and_tags(system, id, deadline), beside).await;
        let check = check?;
        let was_slow = asked.elapsed() > AT_ONCE_READ;
        if let Some(reason) = holds_back.map(Reason::from) {
            log_decision(transition, Some(id), &Decision::Ignore(reason));
            return Ok(Cause::from(transition).not_locked(Some(id), Verdict::Ignored, reason));
        }
        let not_seen = |failure: &Failure| Error::NotSeen(failure.to_string());
        if config.guarded_tag.is_some() && !config.guards_tagged(tags.as_ref().map_err(not_seen)?) {
            log_decision(transition, Some(id), &Decision::Ignore(Reason::NotGuarded));
            return Ok(Cause::from(transition).not_locked(Some(id), Verdict::Ignored, Reason::NotGuarded));
        }
        let Some(check) = check else {
            return lock_unread(system, transition, id, tags, secondary, deadline).await;
        };
        let read = tags.as_ref().ok();
        let mut record = read.map(|tags| view::valid_record(system, id, tags, Some(&check)));
        if let Some(record) = &record
            && record.is_ahead_of(check.version)
            && tries <= STALE_READS
        {
            // Someone has changed the check since it was read.
            return Err(Error::Stale);
        }
        let nothing = Record::default();
        let (mut health, mut is_new) = (Health::Unasked, false);
        let decision = loop {
            let known = record.as_ref().unwrap_or(&nothing);
            let seen = Seen { check: Some(&check), record: known, health, now: system.clock.now() };
            match decide::lock(transition, &seen, config)? {
                Step::AskCheckers => health = view::health(system, id, deadline).await,
                // The tags were read beside the check, so a restore may have come between the two. Where the
                // record does not know the version that was read, it is read again.
                Step::Done(Decision::Lock { version: Some(version) })
                    if !is_new
                        && !seen.record.is_newest(version)
                        && (!seen.record.is_empty()
                            || (was_slow && record.is_some() && !check.was_never_changed())) =>
                {
                    let again = system.route53.tags(id, shortly(deadline)).await;
                    let again = or_warn(id, again, NEWER);
                    record = again.map(|tags| view::valid_record(system, id, &tags, Some(&check))).or(record);
                    is_new = true;
                }
                Step::Done(decision) => break decision,
            }
        };
        let decision = decide::interlock(decision, secondary);
        log_decision(transition, Some(id), &decision);
        let target = Target { id, check: Some(&check), record: record.as_ref(), tags: read };
        act(system, &Cause::from(transition), target, decision, deadline).await
    };
    deadline.persist(read_decide_act).await
}

/// Decides about a check that could not be read, acts; and starts again when the update failed. It names no version, so that
/// only the record shows a restore that came meanwhile, which is read again before every try.
async fn lock_unread(
    system: &FailoverLock,
    transition: &AlarmTransition,
    id: &HealthCheckId,
    mut tags: Result<Tags, Failure>,
    secondary: Option<bool>,
    deadline: Deadline,
) -> Result<Outcome, Error> {
    let read_decide_act = async |_| {
        if tags.as_ref().err().is_none_or(|failure| failure.kind() != Kind::Denied) {
            let again = system.route53.tags(id, shortly(deadline)).await;
            if let Some(again) = or_warn(id, again, NEWER) {
                tags = Ok(again);
            }
        }
        let read = tags.as_ref().ok();
        let record = read.map(|tags| view::valid_record(system, id, tags, None));
        let known = record.clone().unwrap_or_default();
        let mut health = Health::Unasked;
        let decision = loop {
            let seen = Seen { check: None, record: &known, health, now: system.clock.now() };
            match decide::lock(transition, &seen, &system.config) {
                Ok(Step::Done(decision)) => break decide::interlock(decision, secondary),
                Ok(Step::AskCheckers) => health = view::health(system, id, deadline).await,
                Err(cannot) => return Ok(Err(cannot.into())),
            }
        };
        log_decision(transition, Some(id), &decision);
        let target = Target { id, check: None, record: record.as_ref(), tags: read };
        match act(system, &Cause::from(transition), target, decision, deadline).await {
            // The update was tried once.
            Err(Error::Aws(failure)) => Err(failure),
            result => Ok(result),
        }
    };
    deadline.persist(read_decide_act).await?
}

/// Reads a check and its tags at once. The check is `None` if it could not be read and is locked all the same:
/// where reading is denied, and where reading fails and the check is guarded by name.
async fn check_and_tags(
    system: &FailoverLock,
    id: &HealthCheckId,
    deadline: Deadline,
) -> (Result<Option<HealthCheck>, Failure>, Result<Tags, Failure>) {
    let FailoverLock { config, route53, .. } = system;
    let named = config.names(id);
    let time = if named { deadline.within(deadline.left() / 2) } else { deadline };
    let mut check = pin!(maybe_done(route53.health_check(id, time)));
    // Those of a tag are needed in any case. Otherwise it begins when the check is asked for: making the request may take a small function longer than its answer.
    let beside = if config.guarded_tag.is_some() { Duration::ZERO } else { BESIDE };
    let mut beside = pin!(maybe_done(async move { sleep(beside).await }));
    // Without them it is not known whether the check is guarded at all.
    let for_tags = if config.guarded_tag.is_some() { deadline } else { shortly(deadline) };
    let mut tags = pin!(maybe_done(route53.tags(id, for_tags)));
    poll_fn(|context| {
        let read = check.as_mut().poll(context).is_ready();
        let checked = check.as_mut().output_mut().and_then(|check| check.as_ref().ok());
        if checked.is_some_and(|check| view::was_never_ours(system, check)) {
            return Poll::Ready(());
        }
        let begun = read || beside.as_mut().poll(context).is_ready();
        let tagged = begun && tags.as_mut().poll(context).is_ready();
        if read && tagged { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let check = match check.as_mut().take_output().expect("it is done") {
        Ok(check) => Ok(Some(check)),
        Err(failure) if failure.kind() == Kind::Denied || (named && failure.may_pass()) => {
            warn!(healthCheckId = %id, error = %failure, "locking without reading the check first");
            Ok(None)
        }
        Err(failure) => Err(failure),
    };
    let tags = match tags.as_mut().take_output() {
        None => Ok(Tags::new()),
        Some(Ok(tags)) => Ok(tags),
        Some(Err(failure)) => {
            warn!(healthCheckId = %id, error = %failure, "{NEWER}");
            Err(failure)
        }
    };
    (check, tags)
}

fn log_decision(transition: &AlarmTransition, id: Option<&HealthCheckId>, decision: &Decision) {
    let (decision, reason) = match decision {
        Decision::Ignore(reason) => ("ignore", Some(*reason)),
        Decision::Defer(reason) => ("defer", Some(*reason)),
        Decision::AlreadyLocked => ("leave_locked", None),
        Decision::Touch { .. } => ("keep_locked", None),
        Decision::Lock { .. } => ("lock", None),
    };
    info!(
        alarm = transition.alarm,
        state = %transition.state,
        changedAt = transition.changed_at.to_rfc3339(),
        healthCheckId = id.map(HealthCheckId::as_str),
        decision,
        reason = reason.map(<&str>::from),
        "decided"
    );
}

impl From<&AlarmTransition> for Cause {
    fn from(transition: &AlarmTransition) -> Self {
        Self { alarm: transition.alarm.clone(), changed_at: Some(transition.changed_at) }
    }
}
