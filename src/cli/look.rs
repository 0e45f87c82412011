//! What is read of health checks for `status`: check, tags, alarms and checkers, each by itself and at once, so that what
//! one service does not answer hides nothing that the others do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{join, join3, join4};
use futures_util::stream::{self, StreamExt as _};
use tokio::time::sleep;

use super::clock;
use super::error::Error;
use super::guard::Guard;
use super::name::{self, Tags};
use super::seen::{AlarmNow, Part, Status, Unread, watches};
use super::session::{AT_ONCE, shortly};
use super::state::{Seen, State, foremost};
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::cloudwatch::{Alarms, MuteRule};
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::record::{FORMER, IN, OUT, Record};
use crate::failover_lock::route53::{Checkers, MOST_TAGGED};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass as _;

/// How long after a look in which check and tags do not agree they are read again: one of the two was read before a
/// change, and the other one after it.
const AGAIN: Duration = Duration::from_millis(500);

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
    checkers: Result<Checkers, Unread>,
}

/// The alarms on a check's health as far as they could be read, and why not all of them.
type Watching = (Vec<Alarm>, Option<Unread>);

/// Reads every health check of the account that has a path.
pub(super) async fn all(guard: &Guard) -> Result<Vec<Status>, Error> {
    let silent = &Silent::default();
    let checks = async {
        let found = guard.route53.health_checks(shortly()).await?;
        let checks: Vec<_> = found.into_iter().filter(|check| check.endpoint.is_some()).collect();
        let of = |check: &HealthCheck| check.id.clone();
        let ids: Vec<_> = checks.iter().map(of).collect();
        let (tags, checkers) = join(tags_of(guard, silent, &ids), checkers_of(guard, silent, &ids)).await;
        let read = checks.into_iter().zip(tags).zip(checkers);
        let read = read.map(|((check, tags), checkers)| Read {
            id: check.id.clone(),
            check: Ok(check),
            tags,
            checkers,
        });
        Ok::<_, Failure>(settled(guard, silent, read).await)
    };
    let all = guard.cloudwatch.all_alarms(shortly());
    let rules = guard.mute_rules();
    let (checks, alarms, rules) = Box::pin(join3(checks, all, rules)).await;
    let checks = checks?;
    let watching = match alarms {
        Ok(all) => checks.iter().map(|check| on(&all, &check.id)).collect(),
        // Those on plain metrics may be readable all the same.
        Err(denied) if denied.kind() == Kind::Denied => {
            let plain = plain(guard, silent, checks.iter().map(|check| &check.id)).await;
            plain.into_iter().map(|plain| without_queries(plain, &denied)).collect()
        }
        Err(failure) => checks.iter().map(|_| (Vec::new(), Some(Part::Alarms.unread(&failure)))).collect(),
    };
    Ok(statuses(guard, checks, watching, rules))
}

/// Reads these health checks.
///
/// # Errors
/// AWS does not accept the credentials.
pub(super) async fn named(guard: &Guard, ids: &[HealthCheckId]) -> Result<Vec<Status>, Error> {
    let silent = &Silent::default();
    let checks = ids.iter().map(async |id| {
        let check = silent.read(Part::Check, guard.route53.health_check(id, shortly()));
        let tags = silent.read(Part::Tags, guard.route53.tags(id, shortly()));
        let checkers = silent.read(Part::Checkers, guard.route53.checkers(id, shortly()));
        let (check, tags, checkers) = Box::pin(join3(check, tags, checkers)).await;
        Read { id: id.clone(), check, tags, checkers }
    });
    let checks = async {
        let read = stream::iter(checks).buffered(AT_ONCE).collect::<Vec<_>>().await;
        settled(guard, silent, read.into_iter()).await
    };
    let plain = plain(guard, silent, ids.iter());
    let all = guard.cloudwatch.all_alarms(shortly());
    let rules = guard.mute_rules();
    let (checks, all, plain, rules) = Box::pin(join4(checks, all, plain, rules)).await;
    if let Some(failure) = silent.refused.take() {
        return Err(failure.into());
    }
    let watching = match all {
        Ok(all) => ids.iter().map(|id| on(&all, id)).collect(),
        Err(failure) => plain.into_iter().map(|plain| without_queries(plain, &failure)).collect(),
    };
    Ok(statuses(guard, checks, watching, rules))
}

/// Reads one health check.
///
/// # Errors
/// AWS does not accept the credentials.
pub(super) async fn one(guard: &Guard, id: &HealthCheckId) -> Result<Status, Error> {
    Ok(named(guard, std::slice::from_ref(id)).await?.swap_remove(0))
}

/// The same, with check and tags read once more where they do not agree.
async fn settled(guard: &Guard, silent: &Silent, read: impl Iterator<Item = Read>) -> Vec<Read> {
    let read = read.map(async |mut read| {
        if read.is_torn(&guard.config) {
            sleep(AGAIN).await;
            let check = silent.read(Part::Check, guard.route53.health_check(&read.id, shortly()));
            let tags = silent.read(Part::Tags, guard.route53.tags(&read.id, shortly()));
            let again = Box::pin(join(check, tags)).await;
            // What was seen before is worth more than what is not seen now.
            if again.0.is_ok() && again.1.is_ok() {
                (read.check, read.tags) = again;
            }
        }
        read
    });
    stream::iter(read).buffered(AT_ONCE).collect().await
}

/// The alarms on each check's health that are on a plain metric.
async fn plain(
    guard: &Guard,
    silent: &Silent,
    ids: impl Iterator<Item = &HealthCheckId>,
) -> Vec<Result<Vec<Alarm>, Unread>> {
    let plain = ids.map(|id| silent.read(Part::Alarms, guard.cloudwatch.alarms_on(id, shortly())));
    stream::iter(plain).buffered(AT_ONCE).collect().await
}

fn on(all: &Alarms, id: &HealthCheckId) -> Watching {
    let (alarms, unread) = all.read_on(id);
    (alarms, unread.map(|failure| Part::Contributors.unread(&failure)))
}

fn without_queries(plain: Result<Vec<Alarm>, Unread>, failure: &Failure) -> Watching {
    match plain {
        Ok(alarms) => (alarms, Some(Part::Queries.unread(failure))),
        Err(unread) => (Vec::new(), Some(unread)),
    }
}

/// The status of each check.
fn statuses(
    guard: &Guard,
    checks: Vec<Read>,
    watching: Vec<Watching>,
    (rules, unread): (Vec<MuteRule>, Option<Failure>),
) -> Vec<Status> {
    let unread = unread.map(|failure| Part::MuteRules.unread(&failure));
    let read = checks.into_iter().zip(watching);
    read.map(|(read, watching)| read.status(watching, &rules, unread.as_ref(), &guard.config)).collect()
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
    fn unread(self, failure: &Failure) -> Unread {
        Unread { what: self, why: failure.to_string(), may_pass: failure.may_pass() }
    }
}

// === impl Silent ===

impl Silent {
    /// Makes this call, unless another one for the same part gave no answer.
    async fn read<T>(&self, part: Part, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Unread> {
        let known = |cause: &BTreeMap<_, String>| cause.get(&part).cloned();
        if let Some(why) = known(&self.causes.borrow()) {
            return Err(Unread { what: part, why, may_pass: true });
        }
        call.await.map_err(|failure| {
            if failure.kind() == Kind::Unclear {
                // Of calls made at once the first to fail gives the cause of all.
                let mut causes = self.causes.borrow_mut();
                let why = causes.entry(part).or_insert_with(|| failure.to_string()).clone();
                return Unread { what: part, why, may_pass: true };
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
    /// Whether the tags record a change that the check does not show, or the check one that the tags do not.
    fn is_torn(&self, config: &Config) -> bool {
        let (Ok(check), Ok(tags)) = (&self.check, &self.tags) else { return false };
        let (path, locked_path) = (check.path().unwrap_or_default(), config.locked_path.as_str());
        let Ok(record) = Record::read(tags, path, check.version, locked_path, clock::now()) else {
            return false;
        };
        let stands = record.stands(path, check.version);
        record.is_ahead_of(check.version) || stands != record.is_locked(path, check.version, locked_path)
    }

    fn status(
        self,
        (alarms, alarms_unread): Watching,
        rules: &[MuteRule],
        rules_unread: Option<&Unread>,
        config: &Config,
    ) -> Status {
        let Self { id, check, tags, checkers } = self;
        let mut unknown = Vec::new();
        let mut kept = |unread| unknown.push(unread);
        let check = check.map_err(&mut kept).ok();
        let tags = tags.map_err(&mut kept).ok();
        let checkers = checkers.map_err(&mut kept).ok();
        let all_alarms = alarms_unread.is_none();
        unknown.extend(alarms_unread);
        // Without an alarm there is nothing that a rule could mute.
        unknown.extend(rules_unread.filter(|_| !alarms.is_empty()).cloned());
        let health = checkers.map_or(Health::Unknown, Checkers::verdict);
        let state = if let Some(check) = &check {
            let rules = rules_unread.is_none().then_some(rules);
            let seen = Seen { check, alarms: &alarms, all_alarms, rules, tags: tags.as_ref(), health };
            State::of(&seen, config)
        } else {
            let why = unknown.first().map(|unread| unread.why.clone()).unwrap_or_default();
            State::unread(why, tags.as_ref(), config)
        };
        let path = check.as_ref().and_then(|check| check.path()).map(str::to_owned);
        let has_alarm = if alarms.is_empty() && !all_alarms { None } else { Some(!alarms.is_empty()) };
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
            alarm: foremost(&alarms).map(|alarm| AlarmNow {
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
