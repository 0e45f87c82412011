//! What the drill may restore: its own lock, and no other.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep};

use super::LOOK;
use crate::cli::clock;
use crate::cli::error::Error;
use crate::cli::guard::Guard;
use crate::cli::session::patience;
use crate::failover_lock::alarm::{Alarm, AlarmState};
use crate::failover_lock::decide;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::record::{Intent, Lock, Record};

/// The time until a function has recorded the lock that it set.
const RECORDED: Duration = Duration::from_secs(15);
/// How far the times of one change may be apart, in a message and as CloudWatch describes the alarm. An alarm that is OK again
/// does not go off so soon.
const SAME: TimeDelta = TimeDelta::seconds(2);

/// What tells the drill's own lock from another one.
pub(super) struct Own<'a> {
    /// The alarm that the drill sets off.
    pub alarm: &'a Alarm,
    /// Why the alarm was set off.
    pub reason: String,
    /// When it went off, on AWS's clock; `None` if that was not seen.
    pub alarmed_at: Option<DateTime<Utc>>,
    /// The check's version when it was armed.
    pub after: i64,
    /// Whether the drill changes the path first.
    pub by_metric: bool,
}

// === impl Own ===

impl Own<'_> {
    /// Returns the check, if it is in service or has the drill's own lock.
    ///
    /// # Errors
    /// A person, or another alarm, has locked it, or has its lock wait: that one stays.
    pub async fn check(&self, guard: &Guard, id: &HealthCheckId) -> Result<HealthCheck, Error> {
        let end = Instant::now() + RECORDED;
        let locked_path = guard.config.locked_path.as_str();
        loop {
            let check = guard.route53.health_check(id, patience()).await?;
            let tags = guard.route53.tags(id, patience()).await?;
            let (path, version) = (check.path().unwrap_or_default(), check.version);
            let (record, _) = Record::read_without_invalid(&tags, path, version, locked_path, clock::now());
            let is_locked = record.is_locked(path, version, locked_path);
            let lock = record.lock.as_ref().filter(|_| record.intent(path, version) == Intent::Out);
            let made = self.after + if self.by_metric { 2 } else { 1 };
            // The function records a lock after it has set the path.
            let is_recorded = lock.is_some_and(|lock| lock.version == Some(version));
            let cause = match lock {
                None if !is_locked => return Ok(check),
                Some(lock) if self.is_cause_of(lock) && (!is_locked || (is_recorded && version == made)) => {
                    return Ok(check);
                }
                _ if is_locked && !is_recorded && Instant::now() < end => {
                    sleep(LOOK).await;
                    continue;
                }
                None => {
                    format!(
                        "{id} stays locked, and has no record of this version: lock may not be allowed to write tags, or the check has 10"
                    )
                }
                Some(Lock { version: None, by, .. }) => {
                    format!("a lock of {id} waits for its secondary ({by}), and stays")
                }
                Some(Lock { by, .. }) => {
                    format!("it is not certain that the drill has locked {id} ({by}): that stays")
                }
            };
            return Err(Error::NotOurs(cause));
        }
    }

    /// The name of an alarm that leads to a lock and is in ALARM, but not by the drill. Where that makes the check fail, none is
    /// told from its own.
    pub async fn other_in_alarm(&self, guard: &Guard, id: &HealthCheckId) -> Result<Option<String>, Error> {
        if self.by_metric {
            return Ok(None);
        }
        // Those on queries as well.
        let alarms = guard.cloudwatch.all_alarms(patience()).await?.all_on(id)?;
        let in_alarm = alarms
            .into_iter()
            .filter(|alarm| alarm.state == AlarmState::Alarm && decide::leads_to_lock(alarm, &guard.config));
        for alarm in in_alarm {
            let is_own = alarm.name == self.alarm.name
                && guard.cloudwatch.set_off_at(&alarm.name, &self.reason, patience()).await?.is_some();
            if !is_own {
                return Ok(Some(alarm.name));
            }
        }
        Ok(None)
    }

    /// Whether the drill's alarm is the cause of a lock, by this change: it may have gone off again for a failure.
    fn is_cause_of(&self, lock: &Lock) -> bool {
        let is_this = |(lock, own): (DateTime<Utc>, DateTime<Utc>)| (lock - own).abs() <= SAME;
        lock.is_by(&self.alarm.name) && lock.alarm.zip(self.alarmed_at).is_some_and(is_this)
    }
}
