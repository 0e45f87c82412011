//! Route 53's DNS records in failoverctl's terms.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_route53::Client;
use aws_sdk_route53::types::{self, ResourceRecordSet, ResourceRecordSetFailover};

use crate::failover_lock::health_check::HealthCheckId;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// A DNS record that depends on a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its name and type, for example `www.example.com. A`.
    pub name: String,
    /// The id of its zone.
    pub zone: String,
    /// Its role in a failover pair.
    pub role: Role,
    /// Whether it leaves when the health check fails.
    pub follows: Follows,
    /// The record that is answered then, if it is in a failover pair.
    pub standby: Option<Standby>,
}

/// The secondary record of a failover pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standby {
    /// Its health check.
    pub check: Option<String>,
    /// Whether Route 53 also evaluates the target of its alias.
    pub by_alias: bool,
    /// Its values; empty for an alias.
    pub values: Vec<String>,
    /// Whether its check cannot be healthy because of checks that are locked: it, or those that it is calculated from.
    pub is_locked: bool,
    /// What makes its check say little of the site.
    pub fault: Option<Fault>,
}

/// What makes a secondary's check say little of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was deleted, or is another account's.
    Missing,
    Disabled,
    Inverted,
}

/// Whether a record, or a calculated check, is unhealthy whenever a health check that it depends on is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    /// Not alone, because of this calculated check.
    NotAlone(String),
    /// Never, or it does the opposite, because of this calculated check.
    Never(String),
}

/// A DNS record's role in a failover pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The primary, with this secondary.
    Primary(Secondary),
    /// The secondary.
    Secondary,
    /// None: it is not part of a failover pair.
    None,
}

/// The secondary of a failover pair, with regard to its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secondary {
    /// None.
    Missing,
    /// A secondary that always counts as healthy.
    Unchecked,
    /// A secondary with the primary's own health check, or one that follows it: both fail together.
    Same,
    /// A secondary with a health check, or with an alias whose target's health is evaluated.
    Checked,
}

/// The records of all hosted zones that depend on this check; a check on `locked_path` is locked.
///
/// # Errors
/// A call failed and did not pass before the deadline.
pub(super) async fn records(
    aws: &SdkConfig,
    id: &HealthCheckId,
    locked_path: &str,
    deadline: Deadline,
) -> Result<Vec<Record>, Failure> {
    let client = Client::new(aws);
    let checks = health_checks(&client, deadline).await?;
    let ids = with_parents(&checks, id);
    let mut records = Vec::new();
    for zone in hosted_zones(&client, deadline).await? {
        let sets = record_sets(&client, &zone, deadline).await?;
        let ours = sets.iter().filter_map(|set| Some((set, ids.get(set.health_check_id()?)?)));
        records.extend(ours.map(|(set, follows)| {
            let mut record = record(set, follows.clone(), &zone, &sets, &ids);
            if let Some(Standby { check: Some(check), is_locked, fault, .. }) = &mut record.standby {
                *is_locked = !may_be_healthy(check, &checks, locked_path, checks.len());
                *fault = fault_of(check, &checks);
            }
            record
        }));
    }
    Ok(records)
}

async fn health_checks(client: &Client, deadline: Deadline) -> Result<Vec<types::HealthCheck>, Failure> {
    let call = Call::new("route53:ListHealthChecks", "the health check");
    pages(deadline, async |time, marker| {
        let page = send(call, time, client.list_health_checks().set_marker(marker).send()).await?;
        Ok((page.health_checks, page.next_marker))
    })
    .await
}

fn fault_of(id: &str, all: &[types::HealthCheck]) -> Option<Fault> {
    let Some(check) = all.iter().find(|check| check.id == id) else { return Some(Fault::Missing) };
    let config = check.health_check_config()?;
    if config.disabled().unwrap_or_default() {
        Some(Fault::Disabled)
    } else if config.inverted().unwrap_or_default() {
        Some(Fault::Inverted)
    } else {
        None
    }
}

/// Whether a check can be healthy while those on `locked_path` are not, looking `depth` levels below it.
fn may_be_healthy(id: &str, all: &[types::HealthCheck], locked_path: &str, depth: usize) -> bool {
    let config = all.iter().find(|check| check.id == id).and_then(|check| check.health_check_config());
    let Some(config) = config.filter(|_| depth > 0) else { return true };
    // Of an inverted one the checkers decide.
    if config.disabled().unwrap_or_default() || config.inverted().unwrap_or_default() {
        return true;
    }
    let children = config.child_health_checks();
    let healthy = children.iter().filter(|child| may_be_healthy(child, all, locked_path, depth - 1)).count();
    let threshold = config.health_threshold().and_then(|threshold| usize::try_from(threshold).ok());
    config.resource_path() != Some(locked_path) && (children.is_empty() || healthy >= threshold.unwrap_or(0))
}

/// The id of a check, and of the calculated checks that it is part of, at any depth, and whether these follow it.
fn with_parents(all: &[types::HealthCheck], id: &HealthCheckId) -> BTreeMap<String, Follows> {
    let own = (id.as_str().to_owned(), Follows::Yes);
    let mut ids = BTreeMap::from([own.clone()]);
    // Each round sees one level more; circles end with the number of checks.
    for _ in 0..=all.len() {
        let parents = all.iter().filter_map(|check| {
            let config = check.health_check_config()?;
            Some((check.id.clone(), follows(&check.id, config, &ids)?))
        });
        let next = parents.chain([own.clone()]).collect();
        if ids == next {
            break;
        }
        ids = next;
    }
    ids
}

/// Whether a calculated check is unhealthy whenever those of its children are that follow the check; `None` if it has none
/// that depends on the check.
fn follows(id: &str, config: &types::HealthCheckConfig, ids: &BTreeMap<String, Follows>) -> Option<Follows> {
    let children = config.child_health_checks();
    let known: Vec<_> = children.iter().filter_map(|child| ids.get(child)).collect();
    let first = (*known.first()?).clone();
    let following = known.iter().filter(|child| ***child == Follows::Yes).count();
    let threshold = config.health_threshold().and_then(|threshold| usize::try_from(threshold).ok());
    let others = children.len() - following;
    Some(match threshold {
        _ if config.disabled().unwrap_or_default() => {
            Follows::Never(format!("the calculated check {id} is disabled, and always counts as healthy"))
        }
        _ if config.inverted().unwrap_or_default() => Follows::Never(format!(
            "the calculated check {id} is inverted, and becomes healthy when it is locked"
        )),
        Some(0) => {
            Follows::Never(format!("the calculated check {id} has the threshold 0, and is always healthy"))
        }
        Some(threshold) if others < threshold => Follows::Yes,
        _ if following == 0 => first,
        Some(threshold) => Follows::NotAlone(format!(
            "the calculated check {id} is healthy while {threshold} of its {} checks are",
            children.len()
        )),
        None => Follows::NotAlone(format!(
            "the calculated check {id} does not say how many of its checks have to be healthy"
        )),
    })
}

async fn hosted_zones(client: &Client, deadline: Deadline) -> Result<Vec<String>, Failure> {
    let call = Call::new("route53:ListHostedZones", "the hosted zone");
    pages(deadline, async |time, marker| {
        let page = send(call, time, client.list_hosted_zones().set_marker(marker).send()).await?;
        Ok((page.hosted_zones.into_iter().map(|zone| zone.id).collect(), page.next_marker))
    })
    .await
}

async fn record_sets(
    client: &Client,
    zone: &str,
    deadline: Deadline,
) -> Result<Vec<ResourceRecordSet>, Failure> {
    let call = Call::new("route53:ListResourceRecordSets", "the hosted zone");
    pages(deadline, async |time, next| {
        let (name, kind, identifier) = next.unwrap_or_default();
        let request = client.list_resource_record_sets().hosted_zone_id(zone);
        let request = request.set_start_record_name(name).set_start_record_type(kind);
        let page = send(call, time, request.set_start_record_identifier(identifier).send()).await?;
        let next = (page.next_record_name, page.next_record_type, page.next_record_identifier);
        Ok((page.resource_record_sets, next.0.is_some().then_some(next)))
    })
    .await
}

fn record(
    set: &ResourceRecordSet,
    follows: Follows,
    zone: &str,
    all: &[ResourceRecordSet],
    ids: &BTreeMap<String, Follows>,
) -> Record {
    let secondary = secondary(set, all);
    let role = match set.failover() {
        Some(ResourceRecordSetFailover::Primary) => Role::Primary(health_of(secondary, set, ids)),
        Some(_) => Role::Secondary,
        None => Role::None,
    };
    let standby = secondary.filter(|_| matches!(role, Role::Primary(_))).map(|set| Standby {
        check: set.health_check_id.clone(),
        by_alias: is_by_alias(set),
        values: set.resource_records().iter().map(|record| record.value.clone()).collect(),
        is_locked: false,
        fault: None,
    });
    Record { name: format!("{} {}", set.name(), set.r#type()), zone: zone.to_owned(), role, follows, standby }
}

/// The secondary of a record's failover pair.
fn secondary<'a>(primary: &ResourceRecordSet, all: &'a [ResourceRecordSet]) -> Option<&'a ResourceRecordSet> {
    all.iter().find(|other| {
        other.name() == primary.name()
            && other.r#type() == primary.r#type()
            && other.failover() == Some(&ResourceRecordSetFailover::Secondary)
    })
}

/// Whether Route 53 evaluates the target of a record's alias.
fn is_by_alias(record: &ResourceRecordSet) -> bool {
    record.alias_target().is_some_and(types::AliasTarget::evaluate_target_health)
}

fn health_of(
    secondary: Option<&ResourceRecordSet>,
    primary: &ResourceRecordSet,
    ids: &BTreeMap<String, Follows>,
) -> Secondary {
    let Some(secondary) = secondary else { return Secondary::Missing };
    let fails_too = secondary.health_check_id().is_some_and(|id| ids.get(id) == Some(&Follows::Yes));
    if fails_too || secondary.health_check_id() == primary.health_check_id() {
        Secondary::Same
    } else if secondary.health_check_id().is_some() || is_by_alias(secondary) {
        Secondary::Checked
    } else {
        Secondary::Unchecked
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_route53::types::{HealthCheckConfig, HealthCheckType};

    use super::*;

    const LOCKED: &str = "/locked";

    fn check(
        id: &str,
        config: aws_sdk_route53::types::builders::HealthCheckConfigBuilder,
    ) -> types::HealthCheck {
        types::HealthCheck::builder()
            .id(id)
            .caller_reference(id)
            .health_check_config(config.build().expect("it has a type"))
            .health_check_version(1)
            .build()
            .expect("it is complete")
    }

    #[test]
    fn a_check_that_is_calculated_from_locked_ones_cannot_be_healthy() {
        let of_path =
            |path: &str| HealthCheckConfig::builder().r#type(HealthCheckType::Http).resource_path(path);
        let calculated = |threshold, children: &[&str]| {
            let children = children.iter().map(|child| (*child).to_owned()).collect();
            let config = HealthCheckConfig::builder().r#type(HealthCheckType::Calculated);
            config.health_threshold(threshold).set_child_health_checks(Some(children))
        };
        let all = [
            check("up", of_path("/up")),
            check("locked", of_path(LOCKED)),
            check("inverted", of_path(LOCKED).inverted(true)),
            check("one", calculated(1, &["locked"])),
            check("any", calculated(1, &["locked", "up"])),
            check("both", calculated(2, &["locked", "up"])),
            check("never", calculated(0, &["locked"])),
            check("above", calculated(1, &["one", "both"])),
            check("disabled", calculated(1, &["locked"]).disabled(true)),
            check("circle", calculated(1, &["circle"])),
            check("unknown", calculated(1, &["elsewhere"])),
        ];
        for (id, may) in [
            ("up", true),
            ("locked", false),
            ("inverted", true),
            ("one", false),
            ("any", true),
            ("both", false),
            ("never", true),
            ("above", false),
            ("disabled", true),
            ("circle", true),
            ("unknown", true),
        ] {
            assert_eq!(may_be_healthy(id, &all, LOCKED, all.len()), may, "{id}");
        }
    }
}
