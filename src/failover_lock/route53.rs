//! Route 53 in this system's terms: the only place that knows its SDK's requests and answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::SdkConfig;
use aws_sdk_route53::Client;
use aws_sdk_route53::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_route53::types::{self, HealthCheckType, Tag, TagResourceType};
use aws_types::service_config::ServiceConfigKey;
use chrono::TimeDelta;
use serde::Serialize;

use super::decide::{self, Health};
use super::health_check::{Endpoint, HealthCheck, HealthCheckId, ResourcePath};
use super::record::{self, Lock, Restore};
use crate::program::text::Quoted;
use crate::remote::aws::{Call, Failure, Kind, pages, send};
use crate::remote::deadline::Deadline;

const LIST: Call = Call::new("route53:ListHealthChecks", "the health check");
const LIST_TAGS: Call = Call::new("route53:ListTagsForResource", "the health check");
const LIST_ALL_TAGS: Call = Call::new("route53:ListTagsForResources", "the health check");
const CHANGE_TAGS: Call = Call::new("route53:ChangeTagsForResource", "the health check");
/// The most health checks in [one call of `ListTagsForResources`][1].
///
/// [1]: https://docs.aws.amazon.com/Route53/latest/APIReference/API_ListTagsForResources.html
pub const MOST_TAGGED: usize = 10;
const NO_CHECK: &str = "the answer contains no health check";

/// The counts of a check's checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Checkers {
    /// The checkers that find it healthy.
    pub healthy: usize,
    /// All checkers that have reported; at least one.
    pub total: usize,
}

/// Route 53's health checks.
#[derive(Clone, Debug)]
pub struct Route53 {
    client: Client,
    changes: Arc<AtomicBool>,
}

/// A check whose path was set.
#[derive(Clone, Debug)]
pub struct PathSet {
    /// The check since.
    pub check: HealthCheck,
    /// Whether another's update may have made this version: this one's answer was lost.
    pub perhaps_by_another: bool,
}

/// Route 53's URL with a function's configuration; `None` if its Region has no endpoint.
pub async fn endpoint(config: &SdkConfig) -> Option<String> {
    let key =
        ServiceConfigKey::builder().service_id("Route 53").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let own = config.service_config().and_then(|service| service.load_config(key.build().ok()?));
    let parameters = Params::builder()
        .set_region(config.region().map(ToString::to_string))
        .set_endpoint(own.or_else(|| config.endpoint_url().map(str::to_owned)))
        .set_use_fips(config.use_fips())
        .set_use_dual_stack(config.use_dual_stack());
    let endpoint = DefaultResolver::new().resolve_endpoint(&parameters.build().ok()?).await.ok()?;
    Some(endpoint.url().to_owned())
}

// === impl Checkers ===

impl Checkers {
    /// Whether Route 53 considers the check healthy from these counts.
    #[must_use]
    pub fn find_it_healthy(self) -> bool {
        decide::is_healthy(self.healthy, self.total)
    }

    /// What they find of the check.
    #[must_use]
    pub fn verdict(self) -> Health {
        if self.find_it_healthy() { Health::Healthy } else { Health::Unhealthy }
    }
}

// === impl Route53 ===

impl Route53 {
    /// Route 53 with this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config), changes: Arc::default() }
    }

    /// Whether a call was begun that changes something: from then on work is not broken off without a trace.
    #[must_use]
    pub(super) fn changes(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.changes)
    }

    /// Reads a check.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn health_check(&self, id: &HealthCheckId, deadline: Deadline) -> Result<HealthCheck, Failure> {
        let call = Call::new("route53:GetHealthCheck", "the health check");
        deadline
            .persist(async |time| {
                let request = self.client.get_health_check().health_check_id(id.as_str());
                let output = send(call, time, request.send()).await?;
                output
                    .health_check
                    .map(|check| read(id, check))
                    .ok_or_else(|| Failure::unclear(call, NO_CHECK.to_owned()))
            })
            .await
    }

    /// Whether Route 53's checkers find a check healthy now.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or no checker has reported.
    pub async fn is_healthy(&self, id: &HealthCheckId, deadline: Deadline) -> Result<bool, Failure> {
        Ok(self.checkers(id, deadline).await?.find_it_healthy())
    }

    /// What Route 53's checkers report of a check now.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or no checker has reported.
    pub async fn checkers(&self, id: &HealthCheckId, deadline: Deadline) -> Result<Checkers, Failure> {
        let call = Call::new("route53:GetHealthCheckStatus", "the health check");
        let output = deadline
            .persist(async |time| {
                let request = self.client.get_health_check_status().health_check_id(id.as_str());
                send(call, time, request.send()).await
            })
            .await?;
        let reports =
            output.health_check_observations().iter().filter_map(|seen| seen.status_report()?.status());
        let reports: Vec<_> = reports.collect();
        if reports.is_empty() {
            return Err(Failure::refused(call, "no checker has reported".to_owned()));
        }
        // A report is "Success: HTTP Status Code 200, OK" or "Failure: …".
        let healthy = reports.iter().filter(|status| status.starts_with("Success")).count();
        Ok(Checkers { healthy, total: reports.len() })
    }

    /// Every health check of the account.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn health_checks(&self, deadline: Deadline) -> Result<Vec<HealthCheck>, Failure> {
        pages(deadline, async |time, marker| {
            let page = send(LIST, time, self.client.list_health_checks().set_marker(marker).send()).await?;
            let checks = page.health_checks.into_iter().map(|check| {
                let id = HealthCheckId::try_from(check.id.clone());
                Ok(read(&id.map_err(|error| Failure::refused(LIST, error.to_string()))?, check))
            });
            Ok((checks.collect::<Result<Vec<_>, Failure>>()?, page.next_marker))
        })
        .await
    }

    /// A check's tags, by key.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn tags(
        &self,
        id: &HealthCheckId,
        deadline: Deadline,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let output = deadline
            .persist(async |time| {
                let request =
                    self.client.list_tags_for_resource().resource_type(TagResourceType::Healthcheck);
                send(LIST_TAGS, time, request.resource_id(id.as_str()).send()).await
            })
            .await?;
        Ok(by_key(output.resource_tag_set.and_then(|set| set.tags)))
    }

    /// The tags of at most [`MOST_TAGGED`] checks, by key; a check that does not exist is left out.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn tags_of(
        &self,
        ids: &[HealthCheckId],
        deadline: Deadline,
    ) -> Result<BTreeMap<HealthCheckId, BTreeMap<String, String>>, Failure> {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let output = deadline
            .persist(async |time| {
                let request =
                    self.client.list_tags_for_resources().resource_type(TagResourceType::Healthcheck);
                send(LIST_ALL_TAGS, time, request.set_resource_ids(Some(ids.clone())).send()).await
            })
            .await?;
        let sets = output.resource_tag_sets.into_iter().filter_map(|set| {
            let id = HealthCheckId::try_from(set.resource_id?).ok()?;
            Some((id, by_key(set.tags)))
        });
        Ok(sets.collect())
    }

    /// Points a check at `path`, if it still has `version`.
    ///
    /// An update whose answer was lost is made again with the same version, and so has one effect: if the first one
    /// arrived, the second finds another version, and the check is read. On this path it has the result of this update,
    /// or of one that someone else has made meanwhile.
    ///
    /// Without a `version` the path is set whatever the check's current version is.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline; with [`Kind::Conflict`] another
    /// caller has changed the check.
    pub async fn set_path(
        &self,
        id: &HealthCheckId,
        path: &ResourcePath,
        version: Option<i64>,
        deadline: Deadline,
    ) -> Result<PathSet, Failure> {
        self.changes.store(true, Ordering::Relaxed);
        let call = Call::new("route53:UpdateHealthCheck", "the health check");
        let mut may_have_arrived = false;
        let result = deadline
            .persist(async |time| {
                let request = self.client.update_health_check().health_check_id(id.as_str());
                let request = request.resource_path(path.as_str()).set_health_check_version(version);
                let result = send(call, time, request.send()).await.and_then(|output| {
                    output.health_check.ok_or_else(|| Failure::unclear(call, NO_CHECK.to_owned()))
                });
                may_have_arrived |= matches!(&result, Err(failure) if failure.kind() == Kind::Unclear);
                result
            })
            .await;
        let (check, perhaps_by_another) = match result {
            Ok(check) => (read(id, check), false),
            Err(conflict) if conflict.kind() == Kind::Conflict && may_have_arrived => {
                let read = self.health_check(id, deadline).await;
                let check = read.map_err(|failure| {
                    Failure::unclear(
                        call,
                        format!("its answer was lost, and the check cannot be read: {failure}"),
                    )
                })?;
                if check.path() != Some(path.as_str()) || Some(check.version) <= version {
                    return Err(conflict);
                }
                (check, true)
            }
            Err(failure) => return Err(failure),
        };
        if check.path() == Some(path.as_str()) {
            return Ok(PathSet { check, perhaps_by_another });
        }
        let cause = match check.path() {
            Some(other) => format!("Route 53 accepted the path {path} and answers with {}", Quoted(other)),
            None => {
                format!("Route 53 accepted the path {path} for a check of type {}", Quoted(&check.check_type))
            }
        };
        Err(Failure::refused(call, cause))
    }

    /// Records the newest lock on a check, and removes other tags.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn record_lock(
        &self,
        id: &HealthCheckId,
        lock: &Lock,
        removed: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        self.tag(id, record::OUT, lock.tag(), removed, deadline).await
    }

    /// Records a restore on a check, and removes other tags.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn record_restore(
        &self,
        id: &HealthCheckId,
        restore: &Restore,
        removed: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        self.tag(id, record::IN, restore.tag(), removed, deadline).await
    }

    /// Takes a restore that failed off the record: the tag that it took the place of comes back, of the tags from
    /// `before`, and those that were `replaced`. What others have recorded since stays.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn forget_restore(
        &self,
        id: &HealthCheckId,
        failed: &Restore,
        before: &BTreeMap<String, String>,
        replaced: &[String],
        deadline: Deadline,
    ) -> Result<(), Failure> {
        if self.tags(id, deadline).await?.get(record::IN) != Some(&failed.tag()) {
            return Ok(());
        }
        let is_back = |key: &str| key == record::IN || replaced.iter().any(|replaced| replaced == key);
        let back = before.iter().filter(|(key, _)| is_back(key));
        let back: Vec<_> = back.map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let removed = if before.contains_key(record::IN) { Vec::new() } else { vec![record::IN.to_owned()] };
        self.change_tags(id, Some(back).filter(|back| !back.is_empty()), removed, deadline).await
    }

    /// Removes a tag.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn remove_tag(&self, id: &HealthCheckId, key: &str, deadline: Deadline) -> Result<(), Failure> {
        self.change_tags(id, None, vec![key.to_owned()], deadline).await
    }

    /// Writes a tag, and removes others.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn tag(
        &self,
        id: &HealthCheckId,
        key: &str,
        value: String,
        removed: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let tag = Tag::builder().key(key).value(value).build();
        self.change_tags(id, Some(vec![tag]), removed, deadline).await
    }

    async fn change_tags(
        &self,
        id: &HealthCheckId,
        added: Option<Vec<Tag>>,
        removed: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        self.changes.store(true, Ordering::Relaxed);
        let removed = Some(removed).filter(|removed| !removed.is_empty());
        deadline
            .persist(async |time| {
                let request =
                    self.client.change_tags_for_resource().resource_type(TagResourceType::Healthcheck);
                let request = request.resource_id(id.as_str()).set_add_tags(added.clone());
                let request = request.set_remove_tag_keys(removed.clone());
                send(CHANGE_TAGS, time, request.send()).await
            })
            .await?;
        Ok(())
    }
}

fn by_key(tags: Option<Vec<Tag>>) -> BTreeMap<String, String> {
    tags.unwrap_or_default().into_iter().filter_map(|tag| tag.key.zip(tag.value)).collect()
}

fn read(id: &HealthCheckId, check: types::HealthCheck) -> HealthCheck {
    let version = check.health_check_version;
    let config = check.health_check_config;
    let check_type = config.as_ref().map(|config| config.r#type.clone());
    let https = matches!(check_type, Some(HealthCheckType::Https | HealthCheckType::HttpsStrMatch));
    let http = matches!(check_type, Some(HealthCheckType::Http | HealthCheckType::HttpStrMatch));
    HealthCheck {
        id: id.clone(),
        version,
        check_type: check_type.map_or_else(String::new, |name| name.as_str().to_owned()),
        inverted: config.as_ref().and_then(|config| config.inverted).unwrap_or(false),
        disabled: config.as_ref().and_then(|config| config.disabled).unwrap_or(false),
        turns_within: TimeDelta::seconds(i64::from(
            config.as_ref().and_then(|config| config.request_interval).unwrap_or(30)
                * config.as_ref().and_then(|config| config.failure_threshold).unwrap_or(3),
        )),
        endpoint: config.filter(|_| http || https).map(|config| Endpoint {
            // Without a path Route 53 requests the root.
            path: config.resource_path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
            https,
            ip_address: config.ip_address,
            domain_name: config.fully_qualified_domain_name,
            port: config.port.and_then(|port| port.try_into().ok()).unwrap_or(if https { 443 } else { 80 }),
            sni: config.enable_sni.unwrap_or(https),
            search_string: config.search_string,
        }),
    }
}

#[cfg(test)]
mod tests {
    use aws_config::Region;

    use super::*;

    #[tokio::test]
    async fn the_endpoint_is_the_partitions_and_of_the_configured_kind() {
        let at = |region| SdkConfig::builder().region(Region::new(region));
        for (config, url) in [
            (at("us-east-1"), "https://route53.amazonaws.com"),
            (at("us-east-1").use_fips(true), "https://route53-fips.amazonaws.com"),
            (at("us-east-1").use_dual_stack(true), "https://route53.global.api.aws"),
            (at("cn-north-1"), "https://route53.amazonaws.com.cn"),
            (at("us-gov-west-1"), "https://route53.us-gov.amazonaws.com"),
            (at("us-east-1").endpoint_url("http://127.0.0.1:4566"), "http://127.0.0.1:4566"),
        ] {
            assert_eq!(endpoint(&config.build()).await.as_deref(), Some(url));
        }
    }
}
