//! `failoverctl latch doctor`: everything that a latch consists of, compared with what it has to be.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::types::{Dimension, Statistic};
use aws_sdk_route53::types::{
    HealthCheck, HealthCheckConfig, HealthCheckType, ResourceRecordSet, ResourceRecordSetFailover,
};
use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus};
use aws_types::SdkConfig;
use aws_types::region::Region;
use clap::Args;
use serde_json::Value;

use super::status::word;
use super::zone::{self, Checks, Zone, host};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::findings::Findings;
use crate::cli::session::{Common, patience};
use crate::latch::config::{Bucket, Latch};
use crate::latch::outcome::State;
use crate::latch::seen::{Object, Verdict};
use crate::latch::view;
use crate::remote::aws::{Call, Failure, Kind, send};

/// How far the primary must stay out, beyond the measured gap between two looks, until Route 53 falls back.
const RACE: Duration = Duration::from_secs(15);
/// How far back the gap between looks is searched for.
const DAY: Duration = Duration::from_hours(24);
const DEPLOY: &str = "deploy the latch again: infra/deploy latch --name";

/// Check everything that a latch consists of, and show each fault with its repair.
#[derive(Debug, Args)]
#[command(
    after_help = "ok: well. look: worth a look. WRONG: repair it, by what follows the arrow. unseen: could not be seen from \
    here, or is not permitted.\n\nExample:\n  failoverctl latch doctor app"
)]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    #[command(flatten)]
    file: File,
}

/// What a doctor looks at.
struct Doctor<'a> {
    latches: &'a Latches,
    latch: &'a Latch,
    findings: Findings,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { latch, file } = arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let mut doctor = Doctor { latches: &latches, latch, findings: Findings::default() };
    doctor.now().await;
    for (at, bucket) in latches.config.buckets.iter().enumerate() {
        doctor.bucket(at, bucket).await;
    }
    doctor.route53().await;
    let gap = doctor.watchers().await;
    doctor.race(gap).await;
    doctor.findings.show(latches.session.screen)
}

impl Doctor<'_> {
    /// What a watcher sees now.
    async fn now(&mut self) {
        let Latches { config, s3, name_servers, .. } = self.latches;
        let seen = view::see(config, s3, name_servers, &[self.latch]).await.remove(0);
        let said = format!(
            "{}: serving {}, primary {}, standby {}",
            seen.state.name(),
            word(seen.said.serving, ["primary", "standby"]),
            word(seen.said.primary, ["healthy", "unhealthy"]),
            word(seen.said.standby, ["healthy", "unhealthy"]),
        );
        let name = &self.latch.name;
        match seen.state {
            State::Armed | State::Locked | State::Holding => self.findings.ok("now", said),
            State::Failed(cause) => self.findings.unknown("now", &cause),
            State::Blind | State::Unsettled => self.findings.wrong(
                "now",
                said,
                "see that this machine reaches the zone's name servers on port 53, by UDP and TCP".to_owned(),
            ),
            State::Half => {
                self.findings.wrong("now", said, format!("failoverctl latch lock {name} --reason 'complete the lock'"));
            }
            State::NotHolding => self.findings.wrong(
                "now",
                said,
                "the record does not refer to the latch, or a latch check does not see the object: see the lines below"
                    .to_owned(),
            ),
            State::StandbyUnhealthy => self.findings.wrong("now", said, "repair the standby".to_owned()),
            State::LatchSuspect => {
                self.findings.wrong("now", said, "find the latch check that is unhealthy, in the lines below".to_owned());
            }
            State::WouldLock => self.findings.wrong(
                "now",
                said,
                format!("no watcher has locked: failoverctl latch lock {name} --reason 'the watchers do not'"),
            ),
        }
        if seen.said.primary == Verdict::Blind {
            self.findings.wrong(
                "now",
                format!("no answer about {}", self.latch.primary),
                format!("{DEPLOY} {name}"),
            );
        }
        for (bucket, hold) in config.buckets.iter().zip(&seen.holds) {
            if hold.is_stale_hold() {
                self.findings.wrong(
                    "now",
                    format!("{bucket} has the hold of a release that was broken off"),
                    format!("failoverctl latch release {name}"),
                );
            }
        }
    }

    /// What would open a lock by itself, or hide it.
    async fn bucket(&mut self, at: usize, bucket: &Bucket) {
        const NAME: &str = "bucket";
        let client = self.latches.s3.bucket(at).1.clone();
        let control = self.latches.s3.read(at, "", &["control"]).await.objects.remove(0);
        match control {
            Object::Present(_) => self
                .findings
                .ok(NAME, format!("{bucket} in {} answers, and has its control object", bucket.region)),
            Object::Absent => self.findings.wrong(
                NAME,
                format!("{bucket} has no control object: whether the checkers see objects is unknown"),
                format!("{DEPLOY} {}", self.latch.name),
            ),
            Object::Invisible(cause) | Object::Silent(cause) => return self.findings.unknown(NAME, &cause),
        }
        let call = Call::new("s3:GetBucketVersioning", "the bucket");
        match send(call, patience().left(), client.get_bucket_versioning().bucket(&bucket.name).send()).await {
            Ok(versioning) if versioning.status() == Some(&BucketVersioningStatus::Enabled) => {}
            Ok(_) => self.findings.wrong(
                NAME,
                format!("{bucket} keeps no versions: who opened a lock, and when, is lost"),
                format!("aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled --region {}", bucket.region),
            ),
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        let call = Call::new("s3:GetLifecycleConfiguration", "the bucket");
        let rules = client.get_bucket_lifecycle_configuration().bucket(&bucket.name).send();
        match send(call, patience().left(), rules).await {
            Ok(rules) => {
                let expires = rules.rules().iter().find(|rule| {
                    rule.status() == &ExpirationStatus::Enabled
                        && (rule.expiration().is_some_and(|expiration| {
                            expiration.days().is_some() || expiration.date().is_some()
                        }) || !rule.transitions().is_empty())
                });
                if let Some(rule) = expires {
                    self.findings.wrong(
                        NAME,
                        format!(
                            "{bucket}: the lifecycle rule {:?} removes or moves objects, which opens a lock",
                            rule.id().unwrap_or("without a name")
                        ),
                        format!("{DEPLOY} {}", self.latch.name),
                    );
                }
            }
            Err(failure) if failure.to_string().contains("NoSuchLifecycleConfiguration") => {}
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        self.policy(&client, bucket).await;
    }

    /// Whether every checker may read the objects, and whether a late write is refused.
    async fn policy(&mut self, client: &aws_sdk_s3::Client, bucket: &Bucket) {
        const NAME: &str = "policy";
        let again = format!("{DEPLOY} {}", self.latch.name);
        let call = Call::new("s3:GetBucketPolicy", "the bucket");
        let policy =
            send(call, patience().left(), client.get_bucket_policy().bucket(&bucket.name).send()).await;
        let policy = match policy {
            Ok(policy) => policy.policy.unwrap_or_default(),
            Err(failure) if failure.to_string().contains("NoSuchBucketPolicy") => String::new(),
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        let policy: Value = serde_json::from_str(&policy).unwrap_or_default();
        let statements = policy["Statement"].as_array().cloned().unwrap_or_default();
        let is = |statement: &&Value, effect: &str, condition: &str| {
            statement["Effect"] == effect
                && statement["Condition"].to_string().to_lowercase().contains(condition)
        };
        for (condition, what) in [
            ("s3:signatureage", "a write that outlives its look"),
            ("s3:authtype", "a write that is not presigned"),
            ("s3:if-none-match", "a write that replaces an object"),
        ] {
            if !statements.iter().any(|statement| is(&statement, "Deny", condition)) {
                self.findings.wrong(NAME, format!("{bucket} does not deny {what}"), again.clone());
            }
        }
        let allowed = statements.iter().filter(|statement| is(statement, "Allow", "aws:sourceip"));
        let mut ranges = BTreeSet::new();
        for statement in allowed {
            collect(&statement["Condition"], &mut ranges);
        }
        let call = Call::new("route53:GetCheckerIpRanges", "Route 53");
        let route53 = aws_sdk_route53::Client::new(&self.latches.session.aws);
        match send(call, patience().left(), route53.get_checker_ip_ranges().send()).await {
            Ok(current) => {
                let missing: Vec<_> = current
                    .checker_ip_ranges()
                    .iter()
                    .filter(|range| range.contains('.') && !ranges.contains(*range))
                    .cloned()
                    .collect();
                if missing.is_empty() {
                    self.findings
                        .ok(NAME, format!("{bucket} shows its objects to all of Route 53's checkers"));
                } else {
                    self.findings.wrong(
                        NAME,
                        format!("{bucket} hides its objects from the checkers in {}", missing.join(", ")),
                        again,
                    );
                }
            }
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
    }

    /// The checks and the records.
    async fn route53(&mut self) {
        let Latches { config, session, .. } = self.latches;
        let again = format!("{DEPLOY} {}", self.latch.name);
        let checks = match Checks::of(&session.aws, &config.buckets, self.latch).await {
            Ok(checks) => checks,
            Err(zone::Incomplete::Aws(failure)) => return self.findings.unknown("checks", &failure),
            Err(incomplete) => return self.findings.wrong("checks", incomplete.to_string(), again),
        };
        for (bucket, check) in config.buckets.iter().zip(&checks.latch) {
            let faults = check.health_check_config().map(|config| faults(config)).unwrap_or_default();
            if faults.is_empty() {
                self.findings.ok(
                    "checks",
                    format!("{} reads https://{}/{}", check.id, host(bucket), self.latch.key()),
                );
            } else {
                self.findings.wrong("checks", format!("{} {}", check.id, faults.join(", ")), again.clone());
            }
        }
        for bucket in &config.buckets {
            let reads = |check: &&HealthCheck| {
                check.health_check_config().is_some_and(|config| {
                    config.fully_qualified_domain_name() == Some(&host(bucket))
                        && config.resource_path() == Some("/control")
                })
            };
            if !checks.all.iter().any(|check| reads(&check)) {
                self.findings.wrong(
                    "checks",
                    format!("no check reads the control object of {bucket}"),
                    again.clone(),
                );
            }
        }
        let zone = match Zone::of(&session.aws, self.latch).await {
            Ok(zone) => zone,
            Err(zone::Incomplete::Aws(failure)) => return self.findings.unknown("records", &failure),
            Err(incomplete) => return self.findings.wrong("records", incomplete.to_string(), again),
        };
        self.records(&zone, &checks).await;
        match zone.name_servers().await {
            Ok(servers) => {
                let given: BTreeSet<_> =
                    config.name_servers.iter().filter_map(|server| server.name.clone()).collect();
                let foreign: Vec<_> = given.iter().filter(|name| !servers.contains(name)).cloned().collect();
                if foreign.is_empty() {
                    self.findings
                        .ok("name servers", format!("{} of the zone's own", config.name_servers.len()));
                } else {
                    self.findings.wrong(
                        "name servers",
                        format!(
                            "{} do not serve the zone: their answers are not Route 53's",
                            foreign.join(", ")
                        ),
                        again,
                    );
                }
            }
            Err(failure) => self.findings.unknown("name servers", &failure),
        }
    }

    /// Whether every record refers to the check that it has to.
    async fn records(&mut self, zone: &Zone, checks: &Checks) {
        const NAME: &str = "records";
        let again = format!("{DEPLOY} {}", self.latch.name);
        let names = [
            zone.name.clone(),
            zone.sentinel.clone(),
            self.latch.primary.to_ascii(),
            self.latch.standby.to_ascii(),
        ];
        let mut sets = Vec::new();
        for name in &names {
            match zone.records(name).await {
                Ok(records) => sets.push(records),
                Err(failure) => return self.findings.unknown(NAME, &failure),
            }
        }
        let attach = format!("failoverctl latch attach {}", self.latch.name);
        for (name, records) in names.iter().zip(&sets).take(2) {
            let primaries = zone::primaries(records);
            match zone::check_of(&primaries) {
                Some(check) if check == checks.latched => {
                    self.findings.ok(NAME, format!("the PRIMARY record of {name} refers to the latch"));
                }
                other => self.findings.wrong(
                    NAME,
                    format!(
                        "the PRIMARY record of {name} refers to {}, not to the latch {}",
                        other.unwrap_or("no check, or to several"),
                        checks.latched
                    ),
                    attach.clone(),
                ),
            }
            for record in primaries.iter().filter(|record| zone::evaluates_target(record)) {
                self.findings.warn(
                    NAME,
                    format!(
                        "{name} {} evaluates its target's health: it can fail over without the latch",
                        record.r#type()
                    ),
                );
            }
        }
        let secondary = |records: &[ResourceRecordSet]| {
            let of = records
                .iter()
                .find(|record| record.failover() == Some(&ResourceRecordSetFailover::Secondary));
            of.map(|record| record.health_check_id().map(str::to_owned))
        };
        let (application, sentinel) = (secondary(&sets[0]), secondary(&sets[1]));
        match (&application, &sentinel) {
            (Some(of_application), Some(of_sentinel)) if of_application == of_sentinel => {}
            _ => self.findings.wrong(
                NAME,
                format!("the SECONDARY records of {} and {} do not have the same check", names[0], names[1]),
                again.clone(),
            ),
        }
        let own = zone::check_of(&zone::primaries(&sets[2])).map(str::to_owned);
        if own.as_deref().is_none_or(|check| !checks.is_primary(check)) {
            self.findings.wrong(
                NAME,
                format!(
                    "{} refers to {}, not to the primary's own check {}",
                    names[2],
                    own.as_deref().unwrap_or("no check"),
                    checks.own()
                ),
                again.clone(),
            );
        }
        let standby = zone::check_of(&zone::primaries(&sets[3])).map(str::to_owned);
        let yielding = application.flatten();
        match standby {
            None => self.findings.wrong(NAME, format!("{} refers to no check", names[3]), again),
            Some(check) if checks.is_primary(&check) => {
                self.findings.wrong(
                    NAME,
                    format!("{} refers to the primary's check {check}", names[3]),
                    again,
                );
            }
            Some(check) if yielding.as_ref().is_some_and(|secondary| *secondary != check) => {
                self.findings.wrong(
                    NAME,
                    format!(
                        "{} refers to {check}, and the SECONDARY record of {} to another check",
                        names[3], names[0]
                    ),
                    again,
                )
            }
            Some(_) => {}
        }
        if yielding.is_some() {
            self.findings.warn(
                NAME,
                "mode yielding: if both sites are unhealthy, Route 53 answers the primary, stale or not"
                    .to_owned(),
            );
        }
    }

    /// Whether watchers look; returns the shortest of the Regions' longest gaps.
    async fn watchers(&mut self) -> Option<Duration> {
        const NAME: &str = "watchers";
        let mut gaps = Vec::new();
        for bucket in &self.latches.config.buckets {
            let aws =
                self.latches.session.aws.to_builder().region(Region::new(bucket.region.clone())).build();
            match gap(&aws, &self.latch.name).await {
                Ok(Some(gap)) => {
                    self.findings.ok(
                        NAME,
                        format!(
                            "in {}: at most {:.0} s between two looks, in 24 hours",
                            bucket.region,
                            gap.as_secs_f64()
                        ),
                    );
                    gaps.push(gap);
                }
                Ok(None) => self
                    .findings
                    .warn(NAME, format!("no watcher in {} has counted a look in 24 hours", bucket.region)),
                Err(failure) => self.findings.unknown(NAME, &failure),
            }
        }
        if gaps.is_empty() {
            self.findings.wrong(
                NAME,
                "no watcher looks, as far as CloudWatch shows".to_owned(),
                "see the log of the watcher, and that its schedule is enabled; a watcher that is a process counts on /metrics alone".to_owned(),
            );
        }
        gaps.into_iter().min()
    }

    /// Whether a lock is effective before Route 53 falls back.
    async fn race(&mut self, gap: Option<Duration>) {
        const NAME: &str = "race";
        let Latches { config, session, .. } = self.latches;
        let checks = match Checks::of(&session.aws, &config.buckets, self.latch).await {
            Ok(checks) => checks,
            Err(error) => return self.findings.unknown(NAME, &error),
        };
        let gap = gap.unwrap_or(config.look_every);
        for id in &checks.primary {
            let check =
                checks.all.iter().find(|check| check.id == *id).and_then(HealthCheck::health_check_config);
            let Some(check) = check else {
                self.findings.unknown(NAME, &format!("the primary's check {id} is not in this account"));
                continue;
            };
            let (Some(interval), Some(threshold)) = (check.request_interval(), check.failure_threshold())
            else {
                continue;
            };
            let out = Duration::from_secs(u64::try_from((threshold - 1) * interval).unwrap_or_default());
            let needed = gap + RACE;
            let how = format!(
                "{interval} s × {threshold}: the primary stays out for {} s at least; a lock needs up to {:.0} s",
                out.as_secs(),
                needed.as_secs_f64()
            );
            if out >= needed {
                self.findings.ok(NAME, how);
            } else {
                self.findings.warn(
                    NAME,
                    format!(
                        "{how}. Route 53 may fall back first: give {id} a failure threshold of {}",
                        needed.as_secs().div_ceil(u64::try_from(interval).unwrap_or(30)) + 1
                    ),
                );
            }
        }
    }
}

/// What a latch check has to be, and is not.
fn faults(check: &HealthCheckConfig) -> Vec<String> {
    let mut faults = Vec::new();
    if check.r#type != HealthCheckType::Https {
        faults.push(format!("is of type {}, not HTTPS", check.r#type));
    }
    if check.disabled() == Some(true) {
        faults.push("is disabled".to_owned());
    }
    if check.enable_sni() == Some(false) {
        faults.push("sends no server name: S3 answers with another certificate".to_owned());
    }
    if check.failure_threshold().is_some_and(|threshold| threshold != 1) {
        faults.push("needs several requests to see an object".to_owned());
    }
    if check.port().is_some_and(|port| port != 443) {
        faults.push("uses another port than 443".to_owned());
    }
    faults
}

/// The texts in a condition of a policy.
fn collect(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(into.insert(text.clone())),
        Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        Value::Object(values) => values.values().for_each(|value| collect(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The longest time between two looks in a Region within a day; `None` if none was counted.
async fn gap(aws: &SdkConfig, latch: &str) -> Result<Option<Duration>, Failure> {
    let call = Call::new("cloudwatch:GetMetricStatistics", "the metric");
    let client = aws_sdk_cloudwatch::Client::new(aws);
    let now = SystemTime::now();
    let request = client
        .get_metric_statistics()
        .namespace("FailoverLatch")
        .metric_name("LookGap")
        .dimensions(Dimension::builder().name("Latch").value(latch).build())
        .start_time((now - DAY).into())
        .end_time(now.into())
        .period(300)
        .statistics(Statistic::Maximum);
    let found = patience()
        .within(Duration::from_secs(3))
        .persist(async |time| send(call, time, request.clone().send()).await);
    let found = match found.await {
        Err(failure) if failure.kind() == Kind::NotFound => return Ok(None),
        found => found?,
    };
    let longest = found.datapoints().iter().filter_map(|point| point.maximum()).reduce(f64::max);
    Ok(longest.map(Duration::from_secs_f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_condition_are_found_in_any_form() {
        for condition in [
            r#"{"IpAddress": {"aws:SourceIp": "15.177.0.0/18"}}"#,
            r#"{"IpAddress": {"aws:SourceIp": ["15.177.0.0/18"]}}"#,
        ] {
            let mut found = BTreeSet::new();
            collect(&serde_json::from_str(condition).unwrap(), &mut found);
            assert!(found.contains("15.177.0.0/18"), "{condition}");
        }
    }
}
