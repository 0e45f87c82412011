//! The health checks behind a composite alarm, whose message names none.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_cloudwatch::types::{CompositeAlarm, MetricAlarm, StateValue};
use thiserror::Error;

use super::{CloudWatch, DESCRIBE, MOST_NAMES, metrics, read, tells_recovery};
use crate::failover_lock::alarm::{Alarm, AlarmState, Composite, Failing, Triggering};
use crate::failover_lock::event::{self, Malformed};
use crate::failover_lock::health_check::HealthCheckId;
use crate::program::text::Quoted;
use crate::remote::aws::{Failure, pages, send};
use crate::remote::deadline::Deadline;

/// CloudWatch lets composite alarms build on each other, in circles too.
const DEEPEST: usize = 5;

/// The health checks behind a composite alarm.
#[derive(Debug, Default)]
pub struct Behind {
    /// How their alarms find them failing.
    pub found: BTreeMap<HealthCheckId, Failing>,
    /// Why others may be behind it as well.
    pub unread: Option<Unresolved>,
}

/// The health checks behind a composite alarm could not be found.
#[derive(Debug, Error)]
pub enum Unresolved {
    /// A call failed.
    #[error("the health checks behind a composite alarm could not be looked up: {0}")]
    Failed(#[from] Failure),
    /// An alarm that the composite alarm is built from does not exist in this account and Region.
    #[error("the composite alarm is built from {}, which does not exist in this account and Region: build it from alarms of this account and Region", Quoted(.0))]
    NoSuchAlarm(String),
    /// An alarm behind the composite alarm is on a health check's metric and unreadable.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The composite alarm watches health checks, and none of their alarms is still in ALARM.
    #[error("none of the alarms that the composite alarm {} is built from is still in ALARM, so the health check that failed is unknown: look at them, and lock by hand (docs/runbook.md#lock-by-hand)", Quoted(.0))]
    NoneInAlarm(String),
    /// It watches health checks by alarms that go off when a check is healthy, and are not in ALARM now.
    #[error("the composite alarm {} is built from alarms that go off when a health check is healthy, so the health check that failed is unknown: look at it, and lock by hand (docs/runbook.md#lock-by-hand). Build the composite alarm from alarms that go off on a failure", Quoted(.0))]
    Recovery(String),
    /// Composite alarms of composite alarms, without end.
    #[error("the composite alarm is built from composite alarms more than {} deep", DEEPEST)]
    TooDeep,
}

// === impl CloudWatch ===

impl CloudWatch {
    /// The health checks behind a composite alarm that went off, of which `ours` says whether any of some is guarded; none if
    /// none of the alarms that it is built from watches a health check's health.
    ///
    /// # Errors
    /// They cannot be found, or none of their alarms is in ALARM; and those of `ours`.
    pub async fn health_checks_behind<E: From<Unresolved> + From<Failure>>(
        &self,
        composite: &Composite,
        ours: impl AsyncFn(&[HealthCheckId]) -> Result<bool, E>,
        deadline: Deadline,
    ) -> Result<Behind, E> {
        let in_alarm = |state: Option<&StateValue>| state == Some(&StateValue::Alarm);
        let on_failure = |alarm: &MetricAlarm| !tells_recovery(alarm);
        let any = |_: Option<&StateValue>| true;
        let has_ours = async |behind: &Behind| {
            let ids: Vec<_> = behind.found.keys().cloned().collect();
            Ok::<_, E>(!ids.is_empty() && ours(&ids).await?)
        };
        let triggers = || composite.triggered_by.clone();
        let itself = || vec![Triggering { name: composite.name.clone(), changed_at: None }];
        let first = self.walk(triggers(), in_alarm, on_failure, deadline).await?;
        if has_ours(&first).await? {
            return Ok(first);
        }
        let whole = self.walk(itself(), in_alarm, on_failure, deadline).await?;
        if has_ours(&whole).await? {
            return Ok(Behind { unread: whole.unread.or(first.unread), ..whole });
        }
        let unread = first.unread.or(whole.unread);
        let is_failing = |alarm: &MetricAlarm| tells_recovery(alarm) && !in_alarm(alarm.state_value());
        let recovery = self.walk(itself(), any, is_failing, deadline).await?;
        if has_ours(&recovery).await? {
            return Err(Unresolved::Recovery(composite.name.clone()).into());
        }
        // Another team's, as far as it could be read.
        let others = if first.found.is_empty() { whole.found } else { first.found };
        if let Some(unread) = unread {
            return Err(unread.into());
        }
        // The message says what went off, and that is not about a health check's health.
        let says_what = !composite.triggered_by.is_empty();
        if says_what
            && (!others.is_empty()
                || self.walk(triggers(), any, on_failure, deadline).await?.found.is_empty())
        {
            return Ok(Behind { found: others, unread: None });
        }
        // When a message is late, its alarms have other states: they must not be mistaken for another team's alarms.
        let watched = self.walk(itself(), any, on_failure, deadline).await?;
        if has_ours(&watched).await? {
            return Err(Unresolved::NoneInAlarm(composite.name.clone()).into());
        }
        Ok(watched)
    }

    /// The health checks that those of these alarms watch which are `asked` for; below composite alarms, those of the children
    /// whose state `counts`. One that cannot be read costs the others nothing.
    async fn walk(
        &self,
        mut triggers: Vec<Triggering>,
        counts: impl Fn(Option<&StateValue>) -> bool,
        asked: impl Fn(&MetricAlarm) -> bool,
        deadline: Deadline,
    ) -> Result<Behind, Failure> {
        let (mut found, mut unread) = (BTreeMap::<_, Failing>::new(), None);
        let mut visited = BTreeSet::new();
        for _ in 0..DEEPEST {
            let mut next = BTreeSet::new();
            for triggers in triggers.chunks(MOST_NAMES) {
                let names: Vec<_> = triggers.iter().map(|trigger| trigger.name.clone()).collect();
                let output = self.describe(&names, deadline).await?;
                let (metric, composite) = (output.metric_alarms(), output.composite_alarms());
                let known = metric.iter().map(MetricAlarm::alarm_name);
                let known: BTreeSet<_> =
                    known.chain(composite.iter().map(CompositeAlarm::alarm_name)).collect();
                let missing = names.iter().find(|name| !known.contains(&Some(name.as_str())));
                unread = unread.or(missing.cloned().map(Unresolved::NoSuchAlarm));
                for alarm in metric.iter().filter(|alarm| asked(alarm)) {
                    let name = alarm.alarm_name().unwrap_or_default();
                    let watched = event::watched(name, metrics(alarm), None).unwrap_or_else(|malformed| {
                        unread.get_or_insert(malformed.into());
                        Vec::new()
                    });
                    for id in watched {
                        let failing = failing(alarm, triggers)?;
                        let newest = found.get(&id).filter(|other| other.changed_at >= failing.changed_at);
                        if newest.is_none() {
                            found.insert(id, failing);
                        }
                    }
                }
                for name in composite.iter().filter_map(CompositeAlarm::alarm_name) {
                    next.extend(self.children(name, &counts, deadline).await?);
                }
            }
            visited.extend(triggers.into_iter().map(|trigger| trigger.name));
            next.retain(|name| !visited.contains(name));
            if next.is_empty() {
                return Ok(Behind { found, unread });
            }
            triggers = next.into_iter().map(|name| Triggering { name, changed_at: None }).collect();
        }
        Ok(Behind { found, unread: unread.or(Some(Unresolved::TooDeep)) })
    }

    /// The names of a composite alarm's children whose state `counts`. With this parameter CloudWatch
    /// accepts no other filter, and returns little more than names and states.
    async fn children(
        &self,
        name: &str,
        counts: impl Fn(Option<&StateValue>) -> bool,
        deadline: Deadline,
    ) -> Result<Vec<String>, Failure> {
        pages(deadline, async |time, token| {
            let request = self.client().describe_alarms().children_of_alarm_name(name).max_records(100);
            let page = send(DESCRIBE, time, request.set_next_token(token).send()).await?;
            let metric = page.metric_alarms().iter().map(|alarm| (alarm.alarm_name(), alarm.state_value()));
            let composite =
                page.composite_alarms().iter().map(|alarm| (alarm.alarm_name(), alarm.state_value()));
            let counted = metric.chain(composite).filter(|(_, state)| counts(*state));
            Ok((counted.filter_map(|(name, _)| name.map(str::to_owned)).collect(), page.next_token))
        })
        .await
    }
}

/// How this alarm, one of those that set a composite alarm off, finds its check failing.
fn failing(alarm: &MetricAlarm, triggers: &[Triggering]) -> Result<Failing, Failure> {
    let Alarm { name, state, changed_at, breaching, .. } = read(alarm)?;
    if state == AlarmState::Alarm {
        return Ok(Failing { changed_at, breaching });
    }
    // It was in ALARM, since when only the message may say. Where it does not, it counts as old, and the checkers decide.
    let told = triggers.iter().find(|trigger| trigger.name == name).and_then(|trigger| trigger.changed_at);
    Ok(Failing { changed_at: told.unwrap_or_default(), breaching: None })
}
