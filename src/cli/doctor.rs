//! `failoverctl doctor`: the whole chain, link by link, with the repair of each fault.

mod deployed;
mod fix;
mod primary;
mod way;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::future::join;

pub(super) use self::way::{IS_NOT_GUARDED, disagreements};
use super::dns::{self, Fault, Follows, Record, Role, Secondary};
use super::error::{Ended, Error};
use super::findings::Findings;
use super::function::LIVE;
use super::guard::{Guard, Options};
use super::name::{Named, Tags};
use super::screen::{Mood, say};
use super::session::{Common, patience, shortly};
use super::state::{Seen, State};
use super::text::{plain, quoted, time};
use crate::failover_lock::alarm::Alarm;
use crate::failover_lock::cloudwatch::CloudWatch;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::reason::Reason;
use crate::failover_lock::record::{IN, OUT, takes_no_lock};
use crate::remote::arn::Arn;
use crate::remote::aws::Failure;

/// How far back a function's last run is searched for; CloudWatch returns at most 1,440 minutes at once.
const LAST_RUNS_MINUTES: i64 = 23 * 60;

/// What no link is about.
const NOT_LOOKED_AT: &str = "the functions' networks, conditions of the organisation's policies, the keys \
                             of topics and queues, the policies of queues, the dashboard: failoverctl drill tries the way from the alarm to the \
                             lock";

/// Check the whole chain from the primary to its lock, and show each fault with its repair.
#[derive(Debug, Args)]
#[command(
    after_help = "ok: well. look: worth a look. WRONG: repair it, by what follows the arrow. unseen: could not \
    be seen from here, or is not permitted.\n\nExample:\n  failoverctl doctor primary"
)]
pub(super) struct Arguments {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// Run the commands that repair what is wrong, where there are some that move no traffic; the plan is shown first.
    #[arg(long)]
    fix: bool,
    /// With --fix: show the plan, change nothing.
    #[arg(long, requires = "fix")]
    dry_run: bool,
    /// With --fix: do not ask for confirmation.
    #[arg(long, short, requires = "fix")]
    yes: bool,
    #[command(flatten)]
    options: Options,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { check, fix, dry_run, yes, options } = arguments;
    let guard = &options.guard(common).await?;
    let id = &check.find(guard).await?;
    let mut findings = walk(guard, id).await?;
    if fix {
        let mut tried = BTreeSet::new();
        // Behind a fault that is repaired there may be others. What a command has not repaired stays.
        loop {
            let plan = findings.plan();
            let is_new = plan.commands.iter().any(|(_, command)| !tried.contains(command));
            if !tried.is_empty() && !is_new {
                break;
            }
            if !fix::is_agreed(&guard.session.screen, &plan, dry_run, yes).await? {
                break;
            }
            if !yes {
                // While the question was open, a primary may have failed.
                findings = walk(guard, id).await?;
                if findings.plan().commands != plan.commands {
                    say("what was found has changed meanwhile: nothing was run");
                    continue;
                }
            }
            let done = fix::carry_out(common, &plan).await;
            tried.extend(plan.commands.into_iter().map(|(_, command)| command));
            findings = walk(guard, id).await?;
            if done.is_err() {
                findings.show(&guard.session.screen).await?;
                return done.map(|()| Ended::NotWell);
            }
        }
    }
    findings.show(&guard.session.screen).await
}

/// Checks everything.
async fn walk(guard: &Guard, id: &HealthCheckId) -> Result<Findings, Error> {
    let check = guard.route53.health_check(id, patience()).await?;
    let mut findings = Findings::default();
    let (alarms, tags) = join(guard.alarms(id, shortly()), guard.route53.tags(id, shortly())).await;
    let (in_service, is_locked) = primary::path_in_service(guard, &check, tags.as_ref().ok());
    primary::health_check(guard, &check, (&in_service, is_locked), &mut findings);
    if let Some(endpoint) = &check.endpoint {
        primary::paths(guard, id, endpoint, &in_service, &mut findings).await;
    }
    let alarms = alarms.unwrap_or_else(|failure| (Vec::new(), Some(failure)));
    chain(guard, &check, alarms, tags, &mut findings).await;
    records(guard, id, &mut findings).await;
    findings.beyond(NOT_LOOKED_AT);
    Ok(findings)
}

/// Checks the chain from the alarm to the function, and the state of both.
async fn chain(
    guard: &Guard,
    check: &HealthCheck,
    (alarms, unread): (Vec<Alarm>, Option<Failure>),
    tags: Result<Tags, Failure>,
    findings: &mut Findings,
) {
    let id = &check.id;
    let before = findings.moods().count();
    if let Some(failure) = &unread {
        findings.unknown("alarm", failure);
    } else if alarms.is_empty() {
        findings.wrong(
            "alarm",
            "no metric alarm watches its health in this Region".to_owned(),
            format!(
                "if a stack guards it, docs/runbook.md#no_alarm makes the alarm again; else infra/deploy --health-check {id} --email \
                 ADDRESS, beside another stack with --stack NAME"
            ),
        );
    }
    let (mut locks, mut deployed) = (false, BTreeMap::new());
    for alarm in &alarms {
        locks |= way::alarm_leads_to_lock(guard, id, alarm, &mut deployed, findings).await;
    }
    let seen: Vec<_> = findings.moods().skip(before).collect();
    let is_explained = seen.contains(&Mood::Wrong);
    if !locks && seen.contains(&Mood::Unknown) {
        findings.unknown("lock", &"whether any of its alarms leads to a function that locks it");
    } else if !locks && !is_explained {
        findings.wrong(
            "lock",
            "none of its alarms leads by a topic, or directly, to a function that locks it".to_owned(),
            format!(
                "if infra/deploy has made the alarm: docs/runbook.md#make-the-stack-anew. If you have: infra/deploy --health-check \
                 {id} --email ADDRESS, with --topic and --alarm to keep yours"
            ),
        );
    }
    // By its alias and without it, it is one function.
    let is_behind = |arn: &str| !deployed.contains_key(&format!("{arn}:{LIVE}"));
    for (arn, lock) in deployed.iter().filter(|(arn, _)| is_behind(arn)) {
        Box::pin(deployed::beside(guard, id, (arn, lock), findings)).await;
    }
    let tags = tags.map_err(|failure| findings.unknown("history", &failure)).ok();
    for (key, what) in [(OUT, "last locked"), (IN, "last restored")] {
        if let Some(tags) = &tags {
            let found = tags.get(key).map_or("never, as far as its tags say", String::as_str);
            let waits = key == OUT && found.starts_with("v=0 ");
            let what = if waits { "a lock waits for the secondary" } else { what };
            findings.ok("history", format!("{what}: {}", plain(found)));
        }
    }
    if tags.as_ref().is_some_and(takes_no_lock) {
        findings.wrong(
            "tags",
            "it has no room for another tag: a lock could not be recorded, so that no one would tell if it were undone, and \
             restore would be refused"
                .to_owned(),
            format!("aws route53 change-tags-for-resource --resource-type healthcheck --resource-id {id} --remove-tag-keys …, a tag of your own"),
        );
    }
    let (health, (rules, unread_rules)) = join(guard.health(id), guard.mute_rules()).await;
    if let Some(failure) = &unread_rules {
        findings.unknown("mute rules", failure);
    }
    let seen = Seen {
        check,
        alarms: &alarms,
        all_alarms: unread.is_none(),
        rules: unread_rules.is_none().then_some(rules.as_slice()),
        tags: tags.as_ref(),
        health,
    };
    match State::of(&seen, &guard.config) {
        State::Armed if !locks => {
            findings.warn("state", "its alarm acts, but a fault above keeps it from being locked".to_owned());
        }
        state => {
            let remedy = remedy(guard, check, &state);
            findings.add("state", state.mood(), state.words(), remedy);
        }
    }
}

/// What is to be done about a check in this state; `None` if nothing is.
fn remedy(guard: &Guard, check: &HealthCheck, state: &State) -> Option<String> {
    let id = &check.id;
    match state {
        State::Locked { .. } => Some(format!(
            "repair the primary, synchronise the sites, then: failoverctl restore {id} --reason … --wait"
        )),
        State::Unprotected { reason: Reason::ActionsMuted } => Some(format!(
            "when the work is done, end the rule: aws cloudwatch list-alarm-mute-rules{} shows it; if its \
                     site has failed: failoverctl lock {id} --reason …",
            in_region(guard)
        )),
        State::Paused { .. } => {
            Some(format!("when the work is done: failoverctl resume {id}{}", in_region(guard)))
        }
        State::Unprotected { reason: Reason::OlderThanRestore } => Some(format!(
            "wait until its alarm is OK (docs/runbook.md#older_than_restore); if its site has failed since: failoverctl \
                     lock {id} --reason …"
        )),
        State::Unprotected { reason: Reason::UndoneByHand } => Some(format!(
            "if it is repaired and the sites are synchronised: failoverctl restore {id} --reason …; if its site has \
                     failed: failoverctl lock {id} --reason …"
        )),
        State::ForeignPath => Some(format!(
            "if the primary answers there and is to be in service: failoverctl restore {id} --path {} --reason …; else \
                     set its path: docs/runbook.md#foreign_path",
            quoted(check.path().unwrap_or("/"))
        )),
        State::Unprotected { .. } | State::Overdue { .. } | State::Deferred { .. } => {
            Some(format!("if its site has failed: failoverctl lock {id} --reason …"))
        }
        _ => None,
    }
}

/// The time of a metric's newest value, and the value; `None` if a day has none.
type Newest = Option<(DateTime<Utc>, f64)>;

/// The newest value of a metric of this function, which is in the Region of the ARN.
async fn newest(guard: &Guard, arn: &str, name: &str, metric: &str) -> Result<Newest, Failure> {
    let cloudwatch = CloudWatch::new(&guard.session.aws_of(arn));
    let of = ("FunctionName", name);
    cloudwatch.newest("AWS/Lambda", metric, of, LAST_RUNS_MINUTES, patience()).await
}

/// Checks whether the function's last run failed.
async fn last_run(
    guard: &Guard,
    arn: &str,
    (link, name): (&'static str, &str),
    run: Result<Newest, Failure>,
    findings: &mut Findings,
) -> bool {
    match (run, newest(guard, arn, name, "Errors").await) {
        (Err(failure), _) | (_, Err(failure)) => {
            findings.unknown(link, &failure);
            true
        }
        (Ok(Some((run, _))), Ok(Some((at, errors)))) if errors > 0.0 && at >= run => {
            let remedy = format!(
                "aws logs filter-log-events --region {} --log-group-name /aws/lambda/{name} \
                 --start-time $(($(date +%s)-86400))000 --query 'events[].[message]' --output text",
                region(arn)
            );
            findings.wrong(link, format!("{name} failed when it last ran, {}", time(at)), remedy);
            false
        }
        (Ok(Some((run, _))), _) => {
            findings.ok(link, format!("{name} last ran {}, without an error", time(run)));
            true
        }
        (Ok(None), _) => {
            findings.ok(link, format!("{name} has no run in the metrics of a day, which lag by minutes"));
            true
        }
    }
}

/// Checks the DNS records that depend on the check.
async fn records(guard: &Guard, id: &HealthCheckId, findings: &mut Findings) {
    let records =
        match dns::records(&guard.session.aws, id, guard.config.locked_path.as_str(), patience()).await {
            Ok(records) => records,
            Err(failure) => return findings.unknown("records", &failure),
        };
    if records.is_empty() {
        return findings.warn(
            "records",
            "no DNS record of this account refers to it, or to a check that it is part of".to_owned(),
        );
    }
    for Record { name, role, follows, standby, .. } in records {
        if let Some((check, fault)) = standby.and_then(|standby| standby.check.zip(standby.fault)) {
            let of = format!("{name}: the health check of its secondary, {check},");
            let remedy =
                format!("correct it, or the record: aws route53 get-health-check --health-check-id {check}");
            match fault {
                Fault::Missing => {
                    findings.unknown("records", &format!("{of} was deleted, or is another account's"));
                }
                Fault::Disabled => {
                    findings.wrong(
                        "records",
                        format!("{of} is disabled: it always counts as healthy"),
                        remedy,
                    );
                }
                Fault::Inverted => {
                    let said = format!("{of} is inverted: it is healthy while what it checks fails");
                    findings.wrong("records", said, remedy);
                }
            }
        }
        match &follows {
            _ if !matches!(role, Role::Primary(_)) => {}
            Follows::Yes => {}
            Follows::NotAlone(why) => {
                findings.warn("records", format!("{name} may stay although it is locked: {why}"));
            }
            Follows::Never(why) => {
                let remedy = format!("refer the record to {id} itself, or correct the calculated check");
                findings.wrong("records", format!("{name} does not leave when it is locked: {why}"), remedy);
                continue;
            }
        }
        match role {
            Role::Primary(Secondary::Checked) if follows != Follows::Yes => {}
            Role::Primary(Secondary::Checked) => {
                findings.ok("records", format!("{name} fails over from it to a checked secondary"));
            }
            Role::Primary(Secondary::Unchecked) => findings.warn(
                "records",
                format!("{name}: its secondary has no health check, and always counts as healthy"),
            ),
            Role::Primary(Secondary::Same) => findings.wrong(
                "records",
                format!("{name}: its secondary has the same health check, or one that follows it, so that a lock fails both"),
                "give the secondary record a health check of its own site".to_owned(),
            ),
            Role::Primary(Secondary::Missing) => findings.wrong(
                "records",
                format!(
                    "{name} has no secondary: with it locked, Route 53 answers with the primary all the same"
                ),
                "add the secondary record of the failover pair".to_owned(),
            ),
            Role::Secondary => findings.warn("records", format!("it is the check of {name}'s secondary")),
            Role::None => findings.warn("records", format!("{name} refers to it without failover")),
        }
    }
}

/// The AWS CLI's option for the Region that this command uses.
fn in_region(guard: &Guard) -> String {
    guard.session.aws.region().map(|region| format!(" --region {region}")).unwrap_or_default()
}

/// The Region in an ARN.
fn region(arn: &str) -> &str {
    Arn::parse(arn).map_or("", |arn| arn.region)
}
