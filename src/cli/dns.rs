//! Route 53's DNS records in failoverctl's terms.

use std::collections::BTreeSet;

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
    /// Its role in a failover pair.
    pub role: Role,
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
    /// A secondary with the primary's own health check: both fail together.
    Same,
    /// A secondary with a health check, or with an alias whose target's health is evaluated.
    Checked,
}

/// The records of all hosted zones that depend on this check.
///
/// # Errors
/// A call failed and did not pass before the deadline.
pub(super) async fn records(
    aws: &SdkConfig,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<Vec<Record>, Failure> {
    let client = Client::new(aws);
    let ids = with_parents(&client, id, deadline).await?;
    let mut records = Vec::new();
    for zone in hosted_zones(&client, deadline).await? {
        let sets = record_sets(&client, &zone, deadline).await?;
        let ours = sets.iter().filter(|set| set.health_check_id().is_some_and(|id| ids.contains(id)));
        records.extend(ours.map(|set| record(set, &sets)));
    }
    Ok(records)
}

/// The id of a check, and of the calculated checks that it is part of, at any depth.
async fn with_parents(
    client: &Client,
    id: &HealthCheckId,
    deadline: Deadline,
) -> Result<BTreeSet<String>, Failure> {
    let call = Call::new("route53:ListHealthChecks", "the health check");
    let all = pages(deadline, async |time, marker| {
        let page = send(call, time, client.list_health_checks().set_marker(marker).send()).await?;
        Ok((page.health_checks, page.next_marker))
    });
    let all: Vec<types::HealthCheck> = all.await?;
    let mut ids = BTreeSet::from([id.as_str().to_owned()]);
    loop {
        let before = ids.len();
        for check in &all {
            let children = check.health_check_config().map(types::HealthCheckConfig::child_health_checks);
            if children.unwrap_or_default().iter().any(|child| ids.contains(child)) {
                ids.insert(check.id.clone());
            }
        }
        if ids.len() == before {
            return Ok(ids);
        }
    }
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

fn record(set: &ResourceRecordSet, all: &[ResourceRecordSet]) -> Record {
    let role = match set.failover() {
        Some(ResourceRecordSetFailover::Primary) => Role::Primary(secondary_of(set, all)),
        Some(_) => Role::Secondary,
        None => Role::None,
    };
    Record { name: format!("{} {}", set.name(), set.r#type()), role }
}

fn secondary_of(primary: &ResourceRecordSet, all: &[ResourceRecordSet]) -> Secondary {
    let secondary = all.iter().find(|other| {
        other.name() == primary.name()
            && other.r#type() == primary.r#type()
            && other.failover() == Some(&ResourceRecordSetFailover::Secondary)
    });
    let Some(secondary) = secondary else { return Secondary::Missing };
    let by_alias = secondary.alias_target().is_some_and(types::AliasTarget::evaluate_target_health);
    if secondary.health_check_id() == primary.health_check_id() {
        Secondary::Same
    } else if secondary.health_check_id().is_some() || by_alias {
        Secondary::Checked
    } else {
        Secondary::Unchecked
    }
}
