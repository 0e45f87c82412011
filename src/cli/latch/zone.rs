//! Route 53's API, for `attach`, `detach` and `doctor` alone: the records and the checks of a latch.

use std::collections::BTreeSet;

use aws_sdk_route53::Client;
use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, ChangeStatus, HealthCheck, HealthCheckType, ResourceRecordSet,
    ResourceRecordSetFailover, RrType,
};
use aws_types::SdkConfig;
use tokio::time::{Duration, sleep};

use crate::cli::session::patience;
use crate::latch::config::{Bucket, Latch, NameServer};
use crate::remote::aws::{Call, Failure, pages, send};

/// How often a change is asked for.
const LOOK: Duration = Duration::from_secs(2);
/// How often a change is asked for until it is given up.
const LOOKS: u32 = 90;

/// The zone of a latch's records.
pub(super) struct Zone {
    client: Client,
    id: String,
    /// The zone's own name.
    pub apex: String,
    /// The application's record, as the sentinel `_serving` names it.
    pub name: String,
    /// `_serving`.
    pub sentinel: String,
}

/// The checks of a latch.
pub(super) struct Checks {
    /// The calculated check of the primary's own and the latch checks.
    pub latched: String,
    /// The latch check of each bucket.
    pub latch: Vec<HealthCheck>,
    /// What else the calculated check requires: the primary's own check, or its children.
    pub primary: Vec<String>,
    pub all: Vec<HealthCheck>,
}

/// Why there is no latch to attach.
#[derive(Debug, thiserror::Error)]
pub(super) enum Incomplete {
    #[error("no public hosted zone of this account contains {0}")]
    NoZone(String),
    #[error(
        "this account has several public hosted zones that contain {0} ({1}), and the name servers of the watcher's \
         configuration are not those of exactly one: name them in NAME_SERVERS, or delete the zone that is not delegated"
    )]
    Zones(String, String),
    #[error("there is no check of https://{0}: deploy the latch first, with infra/deploy latch")]
    NoLatchCheck(String),
    #[error("{0} is not inverted: an object would make it healthy")]
    NotInverted(String),
    #[error("several calculated checks require the latch checks: {0}. Delete those that no record refers to")]
    Ambiguous(String),
    #[error(
        "no calculated check requires both latch checks and the primary's own: see docs/runbook.md#make-a-latchs-resources-anew"
    )]
    NoCalculated,
    #[error(transparent)]
    Aws(#[from] Failure),
}

// === impl Zone ===

impl Zone {
    /// Finds the zone of a latch's records: the public one that contains the name, and of several the one that the watcher's name
    /// servers serve.
    pub async fn of(aws: &SdkConfig, latch: &Latch, servers: &[NameServer]) -> Result<Self, Incomplete> {
        let client = Client::new(aws);
        let sentinel = latch.serving.to_ascii();
        let name = sentinel.split_once('.').map_or(sentinel.clone(), |(_, name)| name.to_owned());
        let call = Call::new("route53:ListHostedZones", "the hosted zone");
        let zones = pages(patience(), async |time, marker| {
            let page = send(call, time, client.list_hosted_zones().set_marker(marker).send()).await?;
            Ok((page.hosted_zones, page.next_marker))
        });
        let contains = |zone: &str| name == zone || name.ends_with(&format!(".{zone}"));
        let mut zones = zones.await?;
        zones
            .retain(|zone| contains(&zone.name) && zone.config().is_none_or(|config| !config.private_zone()));
        let given: Vec<_> = servers.iter().filter_map(|server| server.name.as_ref()).collect();
        let ids = zones.iter().map(|zone| zone.id.clone()).collect::<Vec<_>>().join(", ");
        let mut found = Vec::new();
        let is_one = zones.len() == 1;
        for zone in zones {
            let zone = Self {
                client: client.clone(),
                id: zone.id,
                apex: zone.name,
                name: name.clone(),
                sentinel: sentinel.clone(),
            };
            if is_one {
                return Ok(zone);
            }
            let own = zone.name_servers().await?;
            if !given.is_empty() && given.iter().all(|server| own.contains(server)) {
                found.push(zone);
            }
        }
        let zone = if found.len() == 1 { found.pop() } else { None };
        zone.ok_or_else(
            || if ids.is_empty() { Incomplete::NoZone(name) } else { Incomplete::Zones(name, ids) },
        )
    }

    /// The names of the zone's own name servers, without a dot at the end.
    pub async fn name_servers(&self) -> Result<Vec<String>, Failure> {
        let call = Call::new("route53:GetHostedZone", "the hosted zone");
        let zone = patience()
            .persist(async |time| send(call, time, self.client.get_hosted_zone().id(&self.id).send()).await);
        let servers = zone.await?.delegation_set.map(|set| set.name_servers).unwrap_or_default();
        Ok(servers.into_iter().map(|name| name.trim_end_matches('.').to_lowercase()).collect())
    }

    /// The record sets of this name.
    pub async fn records(&self, name: &str) -> Result<Vec<ResourceRecordSet>, Failure> {
        let mut records = self.starting_at(name).await?;
        records.retain(|record| record.name().eq_ignore_ascii_case(name));
        Ok(records)
    }

    /// The sentinels of the control checks, of each stack of this zone.
    pub async fn controls(&self) -> Result<Vec<ResourceRecordSet>, Failure> {
        const PREFIX: &str = "_control-";
        let mut records = self.starting_at(&format!("{PREFIX}.{}", self.apex)).await?;
        records.retain(|record| record.name().starts_with(PREFIX));
        Ok(records)
    }

    /// The record sets from this name on, as many as an answer has.
    async fn starting_at(&self, name: &str) -> Result<Vec<ResourceRecordSet>, Failure> {
        let call = Call::new("route53:ListResourceRecordSets", "the hosted zone");
        let listed = patience().persist(async |time| {
            let list =
                self.client.list_resource_record_sets().hosted_zone_id(&self.id).start_record_name(name);
            send(call, time, list.send()).await
        });
        Ok(listed.await?.resource_record_sets)
    }

    /// Replaces these records by others, if they are still as they were read, in one change batch, and waits until every
    /// name server has it.
    pub async fn refer(
        &self,
        before: &[ResourceRecordSet],
        after: &[ResourceRecordSet],
    ) -> Result<(), Failure> {
        let change = match self.replace(before, after).await {
            Ok(change) => change,
            // The answer to a try before may have been lost: then it is refused, because it is done.
            Err(failure) if self.are(after).await => self.replace(after, after).await.map_err(|_| failure)?,
            Err(failure) => return Err(failure),
        };
        let call = Call::new("route53:GetChange", "the change");
        for _ in 0..LOOKS {
            let get = patience()
                .persist(async |time| send(call, time, self.client.get_change().id(&change).send()).await);
            if get.await?.change_info.is_some_and(|info| info.status == ChangeStatus::Insync) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(Failure::unclear(call, "the change has not reached every name server".to_owned()))
    }

    /// Replaces records by others, in one change batch, and returns the change's id. Route 53 deletes only what has exactly
    /// these values: what someone else has changed meanwhile stays.
    async fn replace(
        &self,
        before: &[ResourceRecordSet],
        after: &[ResourceRecordSet],
    ) -> Result<String, Failure> {
        let call = Call::new("route53:ChangeResourceRecordSets", "the hosted zone");
        let mut batch = ChangeBatch::builder().comment("failoverctl latch");
        for (before, after) in before.iter().zip(after) {
            for (action, record) in [(ChangeAction::Delete, before), (ChangeAction::Create, after)] {
                let change = Change::builder().action(action).resource_record_set(record.clone()).build();
                batch = batch.changes(change.map_err(|error| Failure::refused(call, error.to_string()))?);
            }
        }
        let batch = batch.build().map_err(|error| Failure::refused(call, error.to_string()))?;
        let changed = patience().persist(async |time| {
            let change = self.client.change_resource_record_sets().hosted_zone_id(&self.id);
            send(call, time, change.change_batch(batch.clone()).send()).await
        });
        let change = changed.await?.change_info;
        change
            .map(|change| change.id)
            .ok_or_else(|| Failure::unclear(call, "the answer names no change".to_owned()))
    }

    /// Whether the zone has exactly these records.
    async fn are(&self, records: &[ResourceRecordSet]) -> bool {
        for record in records {
            if !self.records(record.name()).await.is_ok_and(|found| found.contains(record)) {
                return false;
            }
        }
        true
    }
}

/// These records, with this check.
pub(super) fn referring(records: &[ResourceRecordSet], check: &str) -> Vec<ResourceRecordSet> {
    let mut records = records.to_vec();
    for record in &mut records {
        record.health_check_id = Some(check.to_owned());
    }
    records
}

/// The PRIMARY ones of these records.
pub(super) fn primaries(records: &[ResourceRecordSet]) -> Vec<ResourceRecordSet> {
    let is_primary =
        |record: &&ResourceRecordSet| record.failover() == Some(&ResourceRecordSetFailover::Primary);
    records.iter().filter(is_primary).cloned().collect()
}

/// The addresses of these records that fail over nowhere: no check decides whether they are answered.
pub(super) fn unconditional(records: &[ResourceRecordSet]) -> impl Iterator<Item = &ResourceRecordSet> {
    records.iter().filter(|record| is_address(record) && record.failover().is_none())
}

/// The PRIMARY addresses of these records that have no SECONDARY one of their type.
pub(super) fn without_secondary(records: &[ResourceRecordSet]) -> impl Iterator<Item = &ResourceRecordSet> {
    let role = |record: &ResourceRecordSet, role| record.failover() == Some(&role);
    let has_other = move |primary: &ResourceRecordSet| {
        let mut others = records.iter().filter(|other| role(other, ResourceRecordSetFailover::Secondary));
        others.any(|other| other.r#type() == primary.r#type())
    };
    records.iter().filter(move |record| {
        is_address(record) && role(record, ResourceRecordSetFailover::Primary) && !has_other(record)
    })
}

/// The first record's health check, if all of these have the same one.
pub(super) fn check_of(records: &[ResourceRecordSet]) -> Option<&str> {
    let first = records.first()?.health_check_id()?;
    records.iter().all(|record| record.health_check_id() == Some(first)).then_some(first)
}

/// Whether a record's health depends on its alias' target.
pub(super) fn evaluates_target(record: &ResourceRecordSet) -> bool {
    record.alias_target().is_some_and(|target| target.evaluate_target_health)
}

/// The checks of the SECONDARY records among these, of addresses and of the sentinels.
pub(super) fn standbys(records: &[ResourceRecordSet]) -> BTreeSet<Option<String>> {
    let is_secondary = |record: &&ResourceRecordSet| {
        record.failover() == Some(&ResourceRecordSetFailover::Secondary)
            && (is_address(record) || *record.r#type() == RrType::Txt)
    };
    records.iter().filter(is_secondary).map(|record| record.health_check_id().map(str::to_owned)).collect()
}

/// The SECONDARY addresses of these records that depend on their alias' target: while that is unhealthy and the primary is
/// out, Route 53 counts both as unhealthy and answers the primary.
pub(super) fn leaving_standby(records: &[ResourceRecordSet]) -> impl Iterator<Item = &ResourceRecordSet> {
    let is_secondary =
        |record: &ResourceRecordSet| record.failover() == Some(&ResourceRecordSetFailover::Secondary);
    records
        .iter()
        .filter(move |record| is_address(record) && is_secondary(record) && evaluates_target(record))
}

/// Whether a record is one of the application's: failover records of other types are not addresses.
pub(super) fn is_address(record: &ResourceRecordSet) -> bool {
    matches!(record.r#type(), RrType::A | RrType::Aaaa | RrType::Cname)
}

// === impl Checks ===

impl Checks {
    /// Finds the checks of a latch by what they request.
    pub async fn of(aws: &SdkConfig, buckets: &[Bucket], latch: &Latch) -> Result<Self, Incomplete> {
        let client = Client::new(aws);
        let call = Call::new("route53:ListHealthChecks", "the health check");
        let all = pages(patience(), async |time, marker| {
            let page = send(call, time, client.list_health_checks().set_marker(marker).send()).await?;
            Ok((page.health_checks, page.next_marker))
        });
        let all = all.await?;
        // A check that a deployment has replaced stays: several may request the same object.
        let mut candidates = Vec::new();
        for bucket in buckets {
            let (host, path) = (host(bucket), format!("/{}", latch.key()));
            let config = |check: &HealthCheck| check.health_check_config().cloned();
            let requests = |check: &&HealthCheck| {
                config(check).is_some_and(|config| {
                    config.fully_qualified_domain_name() == Some(&host)
                        && config.resource_path() == Some(&path)
                })
            };
            let requesting: Vec<_> = all.iter().filter(requests).collect();
            let first =
                requesting.first().ok_or_else(|| Incomplete::NoLatchCheck(format!("{host}{path}")))?;
            let is_inverted =
                |check: &&HealthCheck| config(check).is_some_and(|config| config.inverted() == Some(true));
            let inverted: Vec<_> = requesting.iter().copied().filter(is_inverted).collect();
            if inverted.is_empty() {
                return Err(Incomplete::NotInverted(first.id.clone()));
            }
            candidates.push(inverted);
        }
        let fits: Vec<_> = all.iter().filter_map(|check| fit(check, &candidates)).collect();
        match fits.as_slice() {
            [] => Err(Incomplete::NoCalculated),
            [(latched, latch, primary)] => {
                let (latched, latch, primary) = (latched.clone(), latch.clone(), primary.clone());
                Ok(Self { latched, latch, primary, all })
            }
            several => {
                let ids: Vec<_> = several.iter().map(|(latched, ..)| latched.as_str()).collect();
                Err(Incomplete::Ambiguous(ids.join(", ")))
            }
        }
    }

    /// Whether this check is what the latch requires of the primary: its one check, or a calculated one that requires the
    /// same children.
    pub fn is_primary(&self, id: &str) -> bool {
        if self.primary == [id] {
            return true;
        }
        let config = self.all.iter().find(|check| check.id == id).and_then(HealthCheck::health_check_config);
        config.is_some_and(|config| {
            let children: BTreeSet<_> = config.child_health_checks().iter().collect();
            config.r#type == HealthCheckType::Calculated
                && config.inverted() != Some(true)
                && config.health_threshold().and_then(|threshold| usize::try_from(threshold).ok())
                    == Some(self.primary.len())
                && children == self.primary.iter().collect()
        })
    }
}

/// The id of a calculated check that requires a latch check of every bucket and something else, those latch checks, and
/// what else it requires.
fn fit(
    check: &HealthCheck,
    candidates: &[Vec<&HealthCheck>],
) -> Option<(String, Vec<HealthCheck>, Vec<String>)> {
    let config = check.health_check_config()?;
    let children = config.child_health_checks();
    let requires_all = usize::try_from(config.health_threshold()?).ok()? == children.len();
    // A disabled one counts as healthy, and an inverted one turns the latch into its opposite.
    let is_plain = config.inverted() != Some(true) && config.disabled() != Some(true);
    if config.r#type != HealthCheckType::Calculated || !requires_all || !is_plain {
        return None;
    }
    let of_bucket = |candidates: &Vec<&HealthCheck>| {
        candidates.iter().find(|check| children.contains(&check.id)).copied().cloned()
    };
    let latch: Vec<HealthCheck> = candidates.iter().map(of_bucket).collect::<Option<_>>()?;
    let is_other = |child: &&String| latch.iter().all(|check| check.id != **child);
    let primary: Vec<_> = children.iter().filter(is_other).cloned().collect();
    (!primary.is_empty()).then(|| (check.id.clone(), latch, primary))
}

/// The virtual-hosted name of a bucket in its Region: S3 redirects from another name, and a redirect would count as an
/// object.
pub(super) fn host(bucket: &Bucket) -> String {
    format!("{}.s3.{}.amazonaws.com", bucket.name, bucket.region)
}
