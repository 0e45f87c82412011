//! The observation: an accelerator's endpoints, their owners, and its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join;

use super::accelerator::{Accelerator, Accelerators};
use super::load_balancer::LoadBalancers;
use super::notes::Notes;
use super::site::{Endpoint, EndpointGroup, Owner, Site};
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// How long Elastic Load Balancing has to say that an endpoint that the configuration names is gone.
const NAMED: Duration = Duration::from_secs(2);

/// Accelerators, and the owners of their endpoints.
#[derive(Debug)]
pub struct View {
    /// Global Accelerator.
    pub accelerators: Accelerators,
    load_balancers: LoadBalancers,
    /// The site of each endpoint that the configuration names.
    sites: BTreeMap<String, Site>,
}

/// The state of an accelerator.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The endpoint groups of all its listeners.
    pub groups: Vec<EndpointGroup>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// This system's notes in them.
    pub notes: Notes,
}

// === impl Sight ===

impl Sight {
    /// The endpoints of all groups.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.groups.iter().flat_map(|group| &group.endpoints)
    }
}

// === impl View ===

impl View {
    /// Accelerators, read with this configuration, which must not retry by itself; the site of an endpoint is in `sites`,
    /// or else in its load balancer's tag.
    #[must_use]
    pub fn new(aws: &SdkConfig, sites: BTreeMap<String, Site>) -> Self {
        Self { accelerators: Accelerators::new(aws), load_balancers: LoadBalancers::new(aws), sites }
    }

    /// Reads an accelerator. Its tags are read first: a site that is being taken out is noted as out after its endpoints are
    /// gone, and is not to be seen with the note and its endpoints.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn look(&self, accelerator: &Accelerator, deadline: Deadline) -> Result<Sight, Failure> {
        let tags = self.accelerators.tags(accelerator, deadline).await?;
        let mut groups = self.accelerators.groups(accelerator, deadline).await?;
        let ids = groups.iter().flat_map(|group| &group.endpoints).map(|endpoint| endpoint.id.as_str());
        let owners = self.owners(accelerator, ids.collect(), deadline).await?;
        let notes = Notes::read(&accelerator.arn, &tags);
        for group in &mut groups {
            let EndpointGroup { arn, endpoints, .. } = group;
            for endpoint in endpoints {
                endpoint.owner = owners.get(&endpoint.id).cloned().unwrap_or(Owner::Unknown);
                // Of a load balancer that has lost its tag, or was never one, the note knows the site.
                if let (Owner::Unknown, Some(site)) = (&endpoint.owner, notes.site_of(arn, endpoint)) {
                    endpoint.owner = Owner::Site(site.as_str().to_owned());
                }
            }
        }
        Ok(Sight { groups, tags, notes })
    }

    /// Returns the owner of each of these endpoints of an accelerator, if it is known. For those that the configuration names,
    /// Elastic Load Balancing need not answer: it may not in the Region that has failed.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn owners(
        &self,
        accelerator: &Accelerator,
        endpoints: BTreeSet<&str>,
        deadline: Deadline,
    ) -> Result<BTreeMap<String, Owner>, Failure> {
        let (named, others): (BTreeSet<_>, BTreeSet<_>) =
            endpoints.into_iter().partition(|endpoint| self.sites.contains_key(*endpoint));
        let account = accelerator.account();
        let (of_named, owners) = join(
            self.load_balancers.owners(named.clone(), account, deadline.within(NAMED)),
            self.load_balancers.owners(others, account, deadline),
        )
        .await;
        let (of_named, mut owners) = (of_named.unwrap_or_default(), owners?);
        for endpoint in named {
            let owner = match of_named.get(endpoint) {
                Some(Owner::Gone) => Owner::Gone,
                _ => Owner::Site(self.sites[endpoint].as_str().to_owned()),
            };
            owners.insert(endpoint.to_owned(), owner);
        }
        Ok(owners)
    }
}
