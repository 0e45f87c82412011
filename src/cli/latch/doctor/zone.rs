//! The checks and the records of a latch, compared with what they have to be.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_route53::types::{
    HealthCheck, HealthCheckConfig, HealthCheckType, ResourceRecordSet, ResourceRecordSetFailover, RrType,
};

use hickory_proto::rr::Name;

use super::super::Latches;
use super::super::zone::{self, Checks, Zone, host};
use super::sentinels::HEALTH;
use super::{ANEW, DEPLOY, Doctor};
use crate::latch::config::Bucket;
use crate::latch::dns::{Question, Transport};
use crate::latch::seen::{Record, Verdict};

/// How far the primary must stay out, beyond the measured gap between two looks, until Route 53 falls back.
const RACE: Duration = Duration::from_secs(15);

impl Doctor<'_> {
    /// The checks and the records.
    pub(super) async fn route53(&mut self) {
        let Latches { config, .. } = self.latches;
        let aws = self.latches.control_plane();
        let again = format!("{DEPLOY} {}", self.latch.name);
        let checks = match Checks::of(&aws, &config.buckets, self.latch).await {
            Ok(checks) => checks,
            Err(zone::Incomplete::Aws(failure)) => return self.findings.unknown("checks", &failure),
            Err(incomplete) => return self.findings.wrong("checks", incomplete.to_string(), ANEW.to_owned()),
        };
        for (bucket, check) in config.buckets.iter().zip(&checks.latch) {
            let faults = check.health_check_config().map(faults).unwrap_or_default();
            if faults.is_empty() {
                self.findings.ok(
                    "checks",
                    format!("{} reads https://{}/{}", check.id, host(bucket), self.latch.key()),
                );
            } else {
                self.findings.wrong("checks", format!("{} {}", check.id, faults.join(", ")), ANEW.to_owned());
            }
        }
        for id in &checks.primary {
            let check = checks.all.iter().find(|check| check.id == *id);
            if check.and_then(HealthCheck::health_check_config).is_some_and(is_disabled) {
                self.findings.wrong(
                    "checks",
                    format!("{id}, the primary's own, is disabled: it counts as healthy, and Route 53 fails over from no outage"),
                    format!("aws route53 update-health-check --health-check-id {id} --no-disabled"),
                );
            }
        }
        for bucket in &config.buckets {
            let read = || controls(&checks, bucket).filter_map(HealthCheck::health_check_config);
            let found = if read().next().is_none() {
                format!("no check reads the control object of {bucket}")
            } else if read().all(|config| is_disabled(config) || config.inverted() == Some(true)) {
                format!(
                    "the check that reads the control object of {bucket} is disabled or inverted: it proves nothing"
                )
            } else {
                continue;
            };
            self.findings.wrong("checks", found, ANEW.to_owned());
        }
        let zone = match Zone::of(&aws, self.latch, &config.name_servers).await {
            Ok(zone) => zone,
            Err(zone::Incomplete::Aws(failure)) => return self.findings.unknown("records", &failure),
            Err(incomplete) => return self.findings.wrong("records", incomplete.to_string(), again),
        };
        self.records(&zone, &checks).await;
        match zone.controls().await {
            Ok(sentinels) => {
                for bucket in &config.buckets {
                    self.control(&checks, &sentinels, bucket).await;
                }
            }
            Err(failure) => self.findings.unknown("control", &failure),
        }
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
                self.delegation(&zone, &servers).await;
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
        for (name, records) in names.iter().zip(&sets).take(2) {
            self.attached(checks, name, records);
        }
        self.sentinels(names.iter().zip(&sets).skip(1));
        let secondaries = |records: &[ResourceRecordSet]| -> BTreeSet<Option<String>> {
            let is_secondary = |record: &&ResourceRecordSet| {
                record.failover() == Some(&ResourceRecordSetFailover::Secondary)
            };
            let checks = records.iter().filter(is_secondary);
            checks.map(|record| record.health_check_id().map(str::to_owned)).collect()
        };
        let (application, sentinel) = (secondaries(&sets[0]), secondaries(&sets[1]));
        match (application.len(), application == sentinel) {
            (1, true) => {}
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
                    "{} refers to {}, not to the primary's own check, which requires {}",
                    names[2],
                    own.as_deref().unwrap_or("no check"),
                    checks.primary.join(", ")
                ),
                again.clone(),
            );
        }
        let standby = zone::check_of(&zone::primaries(&sets[3])).map(str::to_owned);
        let config = |id: &String| checks.all.iter().find(|check| check.id == *id)?.health_check_config();
        let option = standby.as_ref().and_then(config).and_then(|config| match config {
            config if is_disabled(config) => Some("disabled"),
            config if config.inverted() == Some(true) => Some("inverted"),
            _ => None,
        });
        if let Some((id, option)) = standby.as_ref().zip(option) {
            self.findings.wrong(
                NAME,
                format!("{id}, the standby's own check, is {option}: watchers would lock although the standby is down"),
                format!("aws route53 update-health-check --health-check-id {id} --no-{option}"),
            );
        }
        let yielding = application.into_iter().flatten().next();
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
                );
            }
            Some(check) if config(&check).is_none() => self.findings.unknown(
                NAME,
                &format!("{} refers to {check}, which is not in this account, or was deleted", names[3]),
            ),
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

    /// Whether the PRIMARY records of this name refer to the latch.
    fn attached(&mut self, checks: &Checks, name: &str, records: &[ResourceRecordSet]) {
        const NAME: &str = "records";
        let mut primaries = zone::primaries(records);
        // Of the application's, those that `attach` changes.
        primaries.retain(|record| zone::is_address(record) || *record.r#type() == RrType::Txt);
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
                format!("failoverctl latch attach {}", self.latch.name),
            ),
        }
        for record in zone::leaving_standby(records) {
            let found = format!(
                "the SECONDARY record of {name} of type {} evaluates its target's health: while that is unhealthy, Route 53 answers \
                 the primary, locked or not",
                record.r#type()
            );
            match record.health_check_id() {
                // In the mode yielding this is so in any case.
                Some(_) => self.findings.warn(NAME, found),
                None => self.findings.wrong(
                    NAME,
                    found,
                    "set EvaluateTargetHealth of the SECONDARY record to false with infrastructure as code"
                        .to_owned(),
                ),
            }
        }
        for record in zone::without_secondary(records) {
            self.findings.wrong(
                NAME,
                format!(
                    "the PRIMARY record of {name} of type {} has no SECONDARY one: Route 53 answers it although it is unhealthy",
                    record.r#type()
                ),
                "add the SECONDARY record with infrastructure as code".to_owned(),
            );
        }
        for record in zone::unconditional(records) {
            self.findings.wrong(
                NAME,
                format!(
                    "{name} has a record of type {} that does not fail over: it is answered whatever the latch says",
                    record.r#type()
                ),
                "make it a PRIMARY record beside a SECONDARY one with infrastructure as code, or delete it".to_owned(),
            );
        }
        for record in primaries.iter().filter(|record| zone::evaluates_target(record)) {
            let kind = record.r#type();
            let found =
                format!("{name} {kind} evaluates its target's health: it can fail over without the latch");
            self.findings.warn(NAME, found);
        }
    }

    /// Whether Route 53's checkers see the control object of a bucket, by its sentinel: the only proof that they would
    /// see a lock.
    async fn control(&mut self, checks: &Checks, sentinels: &[ResourceRecordSet], bucket: &Bucket) {
        const NAME: &str = "control";
        // Each stack of a zone has its own.
        let shows = |record: &&ResourceRecordSet| {
            let check = record.health_check_id();
            check.is_some_and(|id| controls(checks, bucket).any(|check| check.id == id))
        };
        let primaries = zone::primaries(sentinels);
        let Some(sentinel) = primaries.iter().find(shows).map(ResourceRecordSet::name) else {
            return self.findings.wrong(
                NAME,
                format!("no sentinel _control shows whether Route 53's checkers see the control object of {bucket}"),
                ANEW.to_owned(),
            );
        };
        let records: Vec<_> = sentinels.iter().filter(|record| record.name() == sentinel).cloned().collect();
        if !self.sentinel(sentinel, &records, HEALTH, ANEW) {
            return;
        }
        let Ok(name) = Name::from_ascii(sentinel) else { return };
        let answers =
            self.latches.name_servers.ask(&[Question::healthy(&name)], Transport::Udp).await.remove(0);
        match Verdict::of(answers) {
            Verdict::Agreed(Record::Primary) => {
                self.findings.ok(NAME, format!("Route 53's checkers see the control object of {bucket}"));
            }
            Verdict::Agreed(Record::Secondary) => self.findings.wrong(
                NAME,
                format!("Route 53's checkers do not see the control object of {bucket}, and would see no lock there"),
                "see that the bucket's policy, the organisation's policies and Block Public Access let the checkers read it"
                    .to_owned(),
            ),
            Verdict::Split | Verdict::Blind => {
                self.findings.unknown(NAME, &format!("{sentinel} is not answered clearly"));
            }
        }
    }

    /// Whether a lock is effective before Route 53 falls back.
    pub(super) async fn race(&mut self, gap: Option<Duration>, is_new: bool) {
        const NAME: &str = "race";
        let Latches { config, .. } = self.latches;
        let aws = self.latches.control_plane();
        let checks = match Checks::of(&aws, &config.buckets, self.latch).await {
            Ok(checks) => checks,
            Err(error) => return self.findings.unknown(NAME, &error),
        };
        let Some(gap) = gap else {
            let unknown = "the longest gap between two looks is not known";
            if is_new {
                return self.findings.warn(NAME, format!("{unknown} yet"));
            }
            return self.findings.unknown(NAME, &unknown);
        };
        for id in &checks.primary {
            let check =
                checks.all.iter().find(|check| check.id == *id).and_then(HealthCheck::health_check_config);
            let Some(check) = check else {
                self.findings.unknown(NAME, &format!("the primary's check {id} is not in this account"));
                continue;
            };
            let (Some(interval), Some(threshold)) = (check.request_interval(), check.failure_threshold())
            else {
                let found = format!(
                    "{id} has no interval of its own: how long the primary stays out at least depends on that; a lock needs up to {} s",
                    seconds(gap + RACE)
                );
                self.findings.warn(NAME, found);
                continue;
            };
            let out = Duration::from_secs(u64::try_from((threshold - 1) * interval).unwrap_or_default());
            let needed = gap + RACE;
            let how = format!(
                "{interval} s × {threshold}: the primary stays out for {} s at least; a lock needs up to {} s",
                out.as_secs(),
                seconds(needed)
            );
            if out >= needed {
                self.findings.ok(NAME, how);
            } else {
                self.findings.warn(
                    NAME,
                    format!(
                        "{how}. Route 53 may fall back first: give {id} a failure threshold of {}",
                        seconds(needed).div_ceil(u64::try_from(interval).unwrap_or(30)) + 1
                    ),
                );
            }
        }
    }
}

/// The checks that read the control object of a bucket.
fn controls<'a>(checks: &'a Checks, bucket: &Bucket) -> impl Iterator<Item = &'a HealthCheck> {
    let host = host(bucket);
    checks.all.iter().filter(move |check| {
        check.health_check_config().is_some_and(|config| {
            config.fully_qualified_domain_name() == Some(&host) && config.resource_path() == Some("/control")
        })
    })
}

/// The whole seconds that are not shorter.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn is_disabled(check: &HealthCheckConfig) -> bool {
    check.disabled() == Some(true)
}

/// What a latch check has to be, and is not.
fn faults(check: &HealthCheckConfig) -> Vec<String> {
    let mut faults = Vec::new();
    if check.r#type != HealthCheckType::Https {
        faults.push(format!("is of type {}, not HTTPS", check.r#type));
    }
    if is_disabled(check) {
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
