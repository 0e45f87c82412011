//! Load balancers' tags: the only place that knows Elastic Load Balancing's SDK.

use std::collections::{BTreeMap, BTreeSet};

use aws_config::{Region, SdkConfig};
use aws_sdk_elasticloadbalancingv2::Client;

use super::site::Owner;
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::deadline::Deadline;

const DESCRIBE_TAGS: Call = Call::new("elasticloadbalancing:DescribeTags", "the load balancer");
const SITE: &str = "site";
/// The most load balancers in [one call of `DescribeTags`][1], all of one Region.
///
/// [1]: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DescribeTags.html
const MOST: usize = 20;

/// Elastic Load Balancing in every Region.
#[derive(Debug)]
pub struct LoadBalancers(SdkConfig);

// === impl LoadBalancers ===

impl LoadBalancers {
    /// Elastic Load Balancing with this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(aws: &SdkConfig) -> Self {
        Self(aws.clone())
    }

    /// Returns the owner of each of these endpoints. The owner of an endpoint that is not a load balancer, or is in
    /// another account than this one, is unknown.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn owners(
        &self,
        endpoints: BTreeSet<&str>,
        account: &str,
        deadline: Deadline,
    ) -> Result<BTreeMap<String, Owner>, Failure> {
        let mut by_region: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for endpoint in endpoints {
            if let Some(arn) = Arn::parse(endpoint)
                && arn.service == "elasticloadbalancing"
                && arn.account == account
            {
                by_region.entry(arn.region).or_default().push(endpoint);
            }
        }
        let mut owners = BTreeMap::new();
        for (region, arns) in by_region {
            let region = Region::new(region.to_owned());
            let client = Client::new(&self.0.to_builder().region(region).build());
            for arns in arns.chunks(MOST) {
                match describe(&client, arns, deadline).await {
                    // One load balancer that does not exist makes the call fail for all.
                    Err(failure) if failure.kind() == Kind::NotFound => {
                        for arn in arns {
                            owners.extend(match describe(&client, &[arn], deadline).await {
                                Err(failure) if failure.kind() == Kind::NotFound => {
                                    vec![((*arn).to_owned(), Owner::Gone)]
                                }
                                described => described?,
                            });
                        }
                    }
                    described => owners.extend(described?),
                }
            }
        }
        Ok(owners)
    }
}

async fn describe(
    client: &Client,
    arns: &[&str],
    deadline: Deadline,
) -> Result<Vec<(String, Owner)>, Failure> {
    let output = deadline
        .persist(async |time| {
            let arns = arns.iter().map(|arn| (*arn).to_owned()).collect();
            send(DESCRIBE_TAGS, time, client.describe_tags().set_resource_arns(Some(arns)).send()).await
        })
        .await?;
    let owner = |tags: &[aws_sdk_elasticloadbalancingv2::types::Tag]| {
        let tag = tags.iter().find(|tag| tag.key() == Some(SITE));
        tag.and_then(|tag| tag.value()).map_or(Owner::Unknown, |site| Owner::Site(site.to_owned()))
    };
    let described = output.tag_descriptions.unwrap_or_default();
    Ok(described
        .iter()
        .filter_map(|tags| Some((tags.resource_arn()?.to_owned(), owner(tags.tags()))))
        .collect())
}
