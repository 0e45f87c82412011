//! Sites, and the endpoints through which an accelerator reaches them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::program::text::Quoted;

/// A site's name in Infinispan's configuration, in its load balancers' tag `site`, and in alerts: 1 to 64 ASCII
/// letters, digits, `-`, `_` and `.`, the first one a letter or digit.
///
/// The check of the alphabet keeps other texts of an alert out of request paths, tags and log lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Site(String);

/// A text that is not a site's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} is not a site's name (1 to 64 letters, digits, '-', '_' and '.')", Quoted(.0))]
pub struct InvalidSite(String);

/// An endpoint group of an accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointGroup {
    /// Its ARN, `ACCELERATOR/listener/LISTENER/endpoint-group/GROUP`.
    pub arn: String,
    /// Its Region; the load balancers of its endpoints are in it.
    pub region: String,
    /// Whether its traffic dial is above 0.
    pub gets_traffic: bool,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// Endpoints that are to be removed, by group.
pub type Leaving<'a> = Vec<(&'a EndpointGroup, Vec<&'a Endpoint>)>;

/// An endpoint with its settings in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A load balancer's ARN, an instance's id, or an Elastic IP address's allocation id.
    pub id: String,
    /// Its share of the group's traffic, 0 to 255; 0 is none.
    pub weight: i32,
    /// Whether clients' addresses are preserved; `None` if AWS does not report it.
    pub client_ip_preserved: Option<bool>,
    /// Whether Global Accelerator finds it healthy; before its first check an endpoint is not healthy.
    pub healthy: bool,
    /// Its owner.
    pub owner: Owner,
}

/// The owner of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The site that its load balancer's tag `site` names.
    Site(String),
    /// Unknown: the endpoint has no such tag, or is not a load balancer.
    Unknown,
    /// None: its load balancer no longer exists, so that it serves no traffic.
    Gone,
}

// === impl Site ===

impl Site {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Site {
    type Error = InvalidSite;

    fn try_from(text: String) -> Result<Self, InvalidSite> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(fits) {
            Ok(Self(text))
        } else {
            Err(InvalidSite(text))
        }
    }
}

impl FromStr for Site {
    type Err = InvalidSite;

    fn from_str(text: &str) -> Result<Self, InvalidSite> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl EndpointGroup ===

impl EndpointGroup {
    /// The ARN of its listener.
    #[must_use]
    pub fn listener(&self) -> &str {
        self.arn.split_once("/endpoint-group/").map_or(&self.arn, |(listener, _)| listener)
    }

    /// Whether it sends traffic to this endpoint while the endpoint is healthy.
    #[must_use]
    pub fn sends_to(&self, endpoint: &Endpoint) -> bool {
        self.gets_traffic && endpoint.weight > 0
    }

    /// The endpoints of a site.
    pub fn of(&self, site: &Site) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| endpoint.is_of(site))
    }
}

/// Whether a site has any endpoint in these groups.
#[must_use]
pub fn is_in_service(site: &Site, groups: &[EndpointGroup]) -> bool {
    groups.iter().any(|group| group.of(site).next().is_some())
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether it belongs to this site.
    #[must_use]
    pub fn is_of(&self, site: &Site) -> bool {
        matches!(&self.owner, Owner::Site(name) if name == site.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sites_name_fits_into_a_path_and_a_tag() {
        for good in ["site-a", "LON", "dc_1.eu", &"x".repeat(64)] {
            assert!(good.parse::<Site>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a?b", "a b", "a%2fb", "a\r\nb", "a:0", "ａ", &"x".repeat(65)]
        {
            assert!(bad.parse::<Site>().is_err(), "{bad:?}");
        }
    }
}
