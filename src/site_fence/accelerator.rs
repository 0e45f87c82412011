//! AWS Global Accelerator in this system's terms: the only place that knows its SDK's requests and answers.
//!
//! Single endpoints are removed and added: `UpdateEndpointGroup` would replace the whole list, and with it any
//! change that was made meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_globalaccelerator::Client;
use aws_sdk_globalaccelerator::types::{
    EndpointConfiguration, EndpointDescription, EndpointIdentifier, HealthState, Tag,
};
use tokio::time::sleep;

use super::notes::Noted;
use super::site::{Endpoint, EndpointGroup, Owner};
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, Kind, pages, send};
use crate::remote::deadline::Deadline;

/// The [only Region][1] with an API of Global Accelerator.
///
/// [1]: https://docs.aws.amazon.com/global-accelerator/latest/api/Welcome.html
const REGION: &str = "us-west-2";
const LIST: Call = Call::new("globalaccelerator:ListAccelerators", "the accelerator");
const LISTENERS: Call = Call::new("globalaccelerator:ListListeners", "the accelerator");
const GROUPS: Call = Call::new("globalaccelerator:ListEndpointGroups", "the accelerator");
const TAGS: Call = Call::new("globalaccelerator:ListTagsForResource", "the accelerator");
const TAG: Call = Call::new("globalaccelerator:TagResource", "the accelerator");
const UNTAG: Call = Call::new("globalaccelerator:UntagResource", "the accelerator");
const REMOVE: Call = Call::new("globalaccelerator:RemoveEndpoints", "the accelerator");
const ADD: Call = Call::new("globalaccelerator:AddEndpoints", "the accelerator");
/// How often a removal that is turned away is tried before everything is looked at again.
const TRIES: u32 = 3;
/// The longest pause before that.
const PAUSE: Duration = Duration::from_secs(2);
/// The most tags that a resource of AWS [has](https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html).
pub const MOST_TAGS: usize = 50;

/// How many of a resource's tags count toward that: those of AWS do not.
#[must_use]
pub fn counted(tags: &BTreeMap<String, String>) -> usize {
    tags.keys().filter(|key| !key.starts_with("aws:")).count()
}

/// The most endpoints in one call of `RemoveEndpoints` or `AddEndpoints`.
const MOST: usize = 10;

/// Global Accelerator.
#[derive(Debug)]
pub struct Accelerators(Client);

/// An accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its DNS name.
    pub dns_name: String,
    /// Its DNS name for IPv4 and IPv6, where it has one.
    pub dual_stack_dns_name: Option<String>,
}

// === impl Accelerator ===

impl Accelerator {
    /// Whether this is its ARN or one of its DNS names.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        let dns_names = [Some(&self.dns_name), self.dual_stack_dns_name.as_ref()];
        self.arn == name || dns_names.into_iter().flatten().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// The account that it belongs to.
    #[must_use]
    pub fn account(&self) -> &str {
        Arn::parse(&self.arn).map_or("", |arn| arn.account)
    }
}

// === impl Accelerators ===

impl Accelerators {
    /// Global Accelerator with this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(aws: &SdkConfig) -> Self {
        Self(Client::new(&aws.to_builder().region(Region::new(REGION)).build()))
    }

    /// Every accelerator of the account.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn all(&self, deadline: Deadline) -> Result<Vec<Accelerator>, Failure> {
        pages(deadline, async |time, token| {
            let request = self.0.list_accelerators().max_results(100).set_next_token(token);
            let page = send(LIST, time, request.send()).await?;
            let accelerators = page.accelerators().iter().map(|accelerator| Accelerator {
                arn: accelerator.accelerator_arn().unwrap_or_default().to_owned(),
                name: accelerator.name().unwrap_or_default().to_owned(),
                dns_name: accelerator.dns_name().unwrap_or_default().to_owned(),
                dual_stack_dns_name: accelerator.dual_stack_dns_name().map(str::to_owned),
            });
            Ok((accelerators.collect(), page.next_token))
        })
        .await
    }

    /// The accelerator of this ARN or DNS name, if there is one.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub async fn named(&self, name: &str, deadline: Deadline) -> Result<Option<Accelerator>, Failure> {
        Ok(self.all(deadline).await?.into_iter().find(|accelerator| accelerator.is(name)))
    }

    /// The endpoint groups of all listeners of an accelerator; the owners of their endpoints are not known yet.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn groups(
        &self,
        accelerator: &Accelerator,
        deadline: Deadline,
    ) -> Result<Vec<EndpointGroup>, Failure> {
        let mut groups = Vec::new();
        for listener in self.listeners(accelerator, deadline).await? {
            let of_listener = pages(deadline, async |time, token| {
                let request = self.0.list_endpoint_groups().listener_arn(&listener).max_results(100);
                let page = send(GROUPS, time, request.set_next_token(token).send()).await?;
                let groups = page.endpoint_groups().iter().map(|group| EndpointGroup {
                    arn: group.endpoint_group_arn().unwrap_or_default().to_owned(),
                    region: group.endpoint_group_region().unwrap_or_default().to_owned(),
                    // The default of AWS is 100.
                    gets_traffic: group.traffic_dial_percentage().is_none_or(|dial| dial > 0.0),
                    endpoints: group.endpoint_descriptions().iter().map(endpoint).collect(),
                });
                Ok((groups.collect(), page.next_token))
            });
            groups.extend(of_listener.await?);
        }
        Ok(groups)
    }

    async fn listeners(&self, accelerator: &Accelerator, deadline: Deadline) -> Result<Vec<String>, Failure> {
        pages(deadline, async |time, token| {
            let request = self.0.list_listeners().accelerator_arn(&accelerator.arn).max_results(100);
            let page = send(LISTENERS, time, request.set_next_token(token).send()).await?;
            let arns = page.listeners().iter().filter_map(|listener| listener.listener_arn());
            Ok((arns.map(str::to_owned).collect(), page.next_token))
        })
        .await
    }

    /// An accelerator's tags, by key.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn tags(
        &self,
        accelerator: &Accelerator,
        deadline: Deadline,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let output = deadline
            .persist(async |time| {
                let request = self.0.list_tags_for_resource().resource_arn(&accelerator.arn);
                send(TAGS, time, request.send()).await
            })
            .await?;
        Ok(output.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// Adds tags, by key and value; a tag of the same key is replaced.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn tag(
        &self,
        accelerator: &Accelerator,
        tags: impl IntoIterator<Item = (String, String)>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let tag = |(key, value)| Tag::builder().key(key).value(value).build();
        let tags: Result<Vec<_>, _> = tags.into_iter().map(tag).collect();
        let tags = tags.map_err(|error| Failure::refused(TAG, error.to_string()))?;
        deadline
            .persist(async |time| {
                let request = self.0.tag_resource().resource_arn(&accelerator.arn);
                send(TAG, time, request.set_tags(Some(tags.clone())).send()).await
            })
            .await?;
        Ok(())
    }

    /// Removes tags, by their keys.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn untag(
        &self,
        accelerator: &Accelerator,
        keys: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        deadline
            .persist(async |time| {
                let request = self.0.untag_resource().resource_arn(&accelerator.arn);
                send(UNTAG, time, request.set_tag_keys(Some(keys.clone())).send()).await
            })
            .await?;
        Ok(())
    }

    /// Removes endpoints from a group, with few tries: what it was decided from may soon be over. `perhaps` is set as soon as
    /// any of them may be gone.
    ///
    /// # Errors
    /// The call failed; with [`Kind::Conflict`] one of them does not exist.
    ///
    /// [`Kind::Conflict`]: crate::remote::aws::Kind::Conflict
    pub async fn remove(
        &self,
        group: &EndpointGroup,
        endpoints: &[&Endpoint],
        perhaps: &mut bool,
        goes_on: impl AsyncFn() -> bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        for endpoints in endpoints.chunks(MOST) {
            let mut identifiers = Vec::new();
            for endpoint in endpoints {
                let identifier = EndpointIdentifier::builder()
                    .endpoint_id(&endpoint.id)
                    .set_client_ip_preservation_enabled(endpoint.client_ip_preserved)
                    .build();
                identifiers.push(identifier.map_err(|error| Failure::refused(REMOVE, error.to_string()))?);
            }
            let mut tries = 0;
            loop {
                tries += 1;
                let removed = deadline.with_tries(1).persist(async |time| {
                    let request = self.0.remove_endpoints().endpoint_group_arn(&group.arn);
                    let request = request.set_endpoint_identifiers(Some(identifiers.clone()));
                    send(REMOVE, time, request.send()).await
                });
                let removed = removed.await;
                let is_done = |kind| matches!(kind, Kind::Unclear | Kind::Conflict);
                *perhaps |= removed.as_ref().err().is_none_or(|failure| is_done(failure.kind()));
                match removed {
                    // To look again would cost calls of the same limit.
                    Err(failure)
                        if failure.kind() == Kind::Throttled && tries < TRIES && deadline.left() > PAUSE =>
                    {
                        sleep(PAUSE.mul_f64(fastrand::f64())).await;
                        if !goes_on().await {
                            return Err(failure);
                        }
                    }
                    removed => {
                        removed?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds endpoints as they are noted. Returns those that Global Accelerator refuses or denies, because of one that is not
    /// valid any more or is another account's, for example, each with the cause.
    ///
    /// # Errors
    /// The call failed otherwise and did not pass before the deadline; with [`Kind::Conflict`] one of them exists.
    ///
    /// [`Kind::Conflict`]: crate::remote::aws::Kind::Conflict
    pub async fn add<'a>(
        &self,
        noted: &'a [Noted],
        deadline: Deadline,
    ) -> Result<Vec<(&'a Noted, Failure)>, Failure> {
        let mut by_group: BTreeMap<&str, Vec<&Noted>> = BTreeMap::new();
        for noted in noted {
            by_group.entry(&noted.group).or_default().push(noted);
        }
        let mut refused = Vec::new();
        for (group, endpoints) in by_group {
            for endpoints in endpoints.chunks(MOST) {
                match self.add_to(group, endpoints, deadline).await {
                    // One that is refused keeps the others out.
                    Err(failure) if is_refused(&failure) && endpoints.len() > 1 => {
                        for noted in endpoints {
                            match self.add_to(group, &[noted], deadline).await {
                                Err(failure) if is_refused(&failure) => refused.push((*noted, failure)),
                                added => added?,
                            }
                        }
                    }
                    Err(failure) if is_refused(&failure) => refused.push((endpoints[0], failure)),
                    added => added?,
                }
            }
        }
        Ok(refused)
    }

    async fn add_to(&self, group: &str, endpoints: &[&Noted], deadline: Deadline) -> Result<(), Failure> {
        let endpoints = endpoints.iter().map(|noted| {
            EndpointConfiguration::builder()
                .endpoint_id(&noted.id)
                .weight(noted.weight)
                .set_client_ip_preservation_enabled(noted.client_ip_preserved)
                .build()
        });
        let endpoints: Vec<_> = endpoints.collect();
        let added = deadline.persist(async |time| {
            let request = self.0.add_endpoints().endpoint_group_arn(group);
            send(ADD, time, request.set_endpoint_configurations(Some(endpoints.clone())).send()).await
        });
        added.await.map(drop)
    }
}

/// Whether another try would fail as well. An endpoint of another account is denied without an attachment to the accelerator's,
/// as is one whose kind needs a permission that the caller lacks.
fn is_refused(failure: &Failure) -> bool {
    matches!(failure.kind(), Kind::Refused | Kind::Denied)
}

fn endpoint(described: &EndpointDescription) -> Endpoint {
    Endpoint {
        id: described.endpoint_id().unwrap_or_default().to_owned(),
        // The default of AWS.
        weight: described.weight().unwrap_or(128),
        client_ip_preserved: described.client_ip_preservation_enabled(),
        healthy: described.health_state() == Some(&HealthState::Healthy),
        owner: Owner::Unknown,
    }
}
