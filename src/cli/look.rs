//! What is read of health checks for `status`: check, tags, alarms and checkers, each by itself and at once, so that what
//! one service does not answer hides nothing that the others do.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::future::{join, join4};
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::error::Error;
use super::guard::Guard;
use super::name::{self, AT_ONCE, Tags};
use super::session::shortly;
use super::state::{State, foremost};
use super::status::{AlarmNow, Status, watches};
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::record::{FORMER, IN, OUT};
use crate::failover_lock::route53::{Checkers, MOST_TAGGED};
use crate::remote::aws::{Failure, Kind};

/// A part of what is known about a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// Its configuration: endpoint and path.
    Check,
    Tags,
    Alarms,
    Checkers,
}

/// A part that could not be read, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Unread {
    pub what: Part,
    pub why: String,
}

/// The parts that gave no answer in this look: they are not asked for again, so that many checks do not wait in turn.
#[derive(Default)]
struct Silent {
    causes: RefCell<BTreeMap<Part, String>>,
    /// The failure of a call for a check with credentials that AWS does not accept.
    refused: RefCell<Option<Failure>>,
}

/// What was read of a health check.
struct Read {
    id: HealthCheckId,
    check: Result<HealthCheck, Unread>,
    tags: Result<Tags, Unread>,
    alarms: Result<Vec<Alarm>, Unread>,
    checkers: Result<Checkers, Unread>,
}

/// Reads every health check of the account that has a path.
pub(super) async fn all(guard: &Guard) -> Result<Vec<Status>, Error> {
    let silent = &Silent::default();
    let checks = async {
        let found = guard.route53.health_checks(shortly()).await?;
        let checks: Vec<_> = found.into_iter().filter(|check| check.endpoint.is_some()).collect();
        let of = |check: &HealthCheck| check.id.clone();
        let ids: Vec<_> = checks.iter().map(of).collect();
        let (tags, checkers) = join(tags_of(guard, silent, &ids), checkers_of(guard, silent, &ids)).await;
        Ok::<_, Failure>((checks, tags, checkers))
    };
    let (checks, alarms) = join(checks, guard.cloudwatch.all_alarms(shortly())).await;
    let (checks, tags, checkers) = checks?;
    let alarms: Vec<_> = match alarms {
        Ok(all) => checks.iter().map(|check| Part::Alarms.read(all.on(&check.id))).collect(),
        // Those on plain metrics may be readable all the same.
        Err(denied) if denied.kind() == Kind::Denied => {
            let plain = checks
                .iter()
                .map(|check| silent.read(Part::Alarms, guard.cloudwatch.alarms_on(&check.id, shortly())));
            stream::iter(plain).buffered(AT_ONCE).collect().await
        }
        Err(failure) => {
            let unread = Part::Alarms.unread(&failure);
            checks.iter().map(|_| Err(unread.clone())).collect()
        }
    };
    let read = checks.into_iter().zip(tags).zip(alarms).zip(checkers);
    let statuses = read.map(|(((check, tags), alarms), checkers)| {
        let id = check.id.clone();
        Read { id, check: Ok(check), tags, alarms, checkers }.status(&guard.config)
    });
    Ok(statuses.collect())
}

/// Reads these health checks.
pub(super) async fn named(guard: &Guard, ids: &[HealthCheckId]) -> Result<Vec<Status>, Error> {
    let silent = &Silent::default();
    let looks = ids.iter().map(|id| look(guard, silent, id));
    stream::iter(looks).buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

/// Reads one health check.
///
/// # Errors
/// AWS does not accept the credentials.
pub(super) async fn one(guard: &Guard, id: &HealthCheckId) -> Result<Status, Error> {
    look(guard, &Silent::default(), id).await
}

async fn look(guard: &Guard, silent: &Silent, id: &HealthCheckId) -> Result<Status, Error> {
    let parts = join4(
        silent.read(Part::Check, guard.route53.health_check(id, shortly())),
        silent.read(Part::Tags, guard.route53.tags(id, shortly())),
        silent.read(Part::Alarms, guard.alarms(id, shortly())),
        silent.read(Part::Checkers, guard.route53.checkers(id, shortly())),
    );
    let (check, tags, alarms, checkers) = Box::pin(parts).await;
    if let Some(failure) = silent.refused.take() {
        return Err(failure.into());
    }
    Ok(Read { id: id.clone(), check, tags, alarms, checkers }.status(&guard.config))
}

/// The tags of each check.
async fn tags_of(guard: &Guard, silent: &Silent, ids: &[HealthCheckId]) -> Vec<Result<Tags, Unread>> {
    let pages = ids.chunks(MOST_TAGGED).map(async |page| {
        match silent.read(Part::Tags, name::tags_of(guard, page)).await {
            Ok(mut tags) => page.iter().map(|id| Ok(tags.remove(id).unwrap_or_default())).collect(),
            Err(unread) => vec![Err(unread); page.len()],
        }
    });
    stream::iter(pages).buffered(AT_ONCE).collect::<Vec<_>>().await.concat()
}

/// What Route 53's checkers report of each check.
async fn checkers_of(guard: &Guard, silent: &Silent, ids: &[HealthCheckId]) -> Vec<Result<Checkers, Unread>> {
    let reads = ids.iter().map(|id| silent.read(Part::Checkers, guard.route53.checkers(id, shortly())));
    stream::iter(reads).buffered(AT_ONCE).collect().await
}

// === impl Part ===

impl Part {
    fn read<T>(self, result: Result<T, Failure>) -> Result<T, Unread> {
        result.map_err(|failure| self.unread(&failure))
    }

    fn unread(self, failure: &Failure) -> Unread {
        Unread { what: self, why: failure.to_string() }
    }
}

// === impl Silent ===

impl Silent {
    /// Makes this call, unless another one for the same part gave no answer.
    async fn read<T>(&self, part: Part, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Unread> {
        let known = |cause: &BTreeMap<_, String>| cause.get(&part).cloned();
        if let Some(why) = known(&self.causes.borrow()) {
            return Err(Unread { what: part, why });
        }
        call.await.map_err(|failure| {
            if failure.kind() == Kind::Unclear {
                // Of calls made at once the first to fail gives the cause of all.
                let mut causes = self.causes.borrow_mut();
                let why = causes.entry(part).or_insert_with(|| failure.to_string()).clone();
                return Unread { what: part, why };
            }
            let unread = part.unread(&failure);
            if part == Part::Check && failure.blames_credentials() {
                self.refused.replace(Some(failure));
            }
            unread
        })
    }
}

// === impl Read ===

impl Read {
    fn status(self, config: &Config) -> Status {
        let Self { id, check, tags, alarms, checkers } = self;
        let mut unknown = Vec::new();
        let mut kept = |unread| unknown.push(unread);
        let check = check.map_err(&mut kept).ok();
        let tags = tags.map_err(&mut kept).ok();
        let alarms = alarms.map_err(&mut kept).ok();
        let checkers = checkers.map_err(&mut kept).ok();
        let health = checkers.map_or(Health::Unknown, Checkers::verdict);
        let state = if let Some(check) = &check {
            State::of(check, alarms.as_deref(), tags.as_ref(), health, config)
        } else {
            let why = unknown.first().map(|unread| unread.why.clone()).unwrap_or_default();
            State::unread(why, tags.as_ref(), config)
        };
        let path = check.as_ref().and_then(|check| check.path()).map(str::to_owned);
        let has_alarm = alarms.as_ref().map(|alarms| !alarms.is_empty());
        let is_recorded =
            tags.as_ref().map(|tags| [OUT, IN].into_iter().chain(FORMER).any(|key| tags.contains_key(key)));
        let is_locked = path.as_deref() == Some(config.locked_path.as_str());
        let guarded = match (has_alarm, is_recorded) {
            _ if is_locked => Some(true),
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            (None, _) | (_, None) => None,
        };
        Status {
            name: tags.as_ref().and_then(name::of).map(str::to_owned),
            watches: check.as_ref().and_then(|check| check.endpoint.as_ref()).map(watches),
            path,
            state,
            alarm: alarms.as_deref().and_then(foremost).map(|alarm| AlarmNow {
                name: alarm.name.clone(),
                state: alarm.state,
                since: alarm.changed_at,
            }),
            checkers,
            guarded,
            unknown,
            health_check_id: id,
        }
    }
}
