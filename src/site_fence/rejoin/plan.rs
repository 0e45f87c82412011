//! The plan of a rejoin: what is to be done so that the site is back.

use chrono::{DateTime, Utc};

use super::super::notes::{Noted, Rejoined};
use super::super::site::Site;

/// What is to be done.
pub(super) struct Plan {
    /// The endpoints to add.
    pub add: Vec<Noted>,
    /// Whether any endpoint of the site is shown in service.
    pub in_service: bool,
    /// The keys of the tags to remove.
    pub keys: Vec<String>,
    /// The notes of its endpoints with the group that each is to be in, the keys of their tags, and whether each is there.
    pub noted: Vec<(String, bool, Noted)>,
    /// The last rejoin.
    pub former: Option<Rejoined>,
    /// When the site was taken out since then, by its note.
    pub out: Option<DateTime<Utc>>,
    /// Whether a rejoin by force has not been followed by one without.
    pub void: bool,
    /// What is brought online.
    pub replication: Option<Replication>,
    /// With force, why replication with other sites is left as it is.
    pub silent: Vec<String>,
}

/// The replication that the site needs.
pub(super) struct Replication {
    /// The sites that replicate to it: those in service, or else the one that reported it.
    pub partners: Vec<Site>,
    /// Whether the site replicates to the partners too: they are in service.
    pub is_mutual: bool,
}

/// How a site is connected with its partners.
pub(super) enum Link {
    /// Each replicates to the other one.
    Replicating,
    /// They see each other.
    Connected,
    /// This one does not see that other one.
    Broken(Site, Site),
}

impl Plan {
    /// Whether all is as it has to be: only that a person has said so is noted.
    pub fn is_idle(&self) -> bool {
        self.add.is_empty() && self.keys.is_empty() && self.replication.is_none() && self.silent.is_empty()
    }
}

impl Replication {
    /// Which site replicates to which one.
    pub fn ways<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = (&'a Site, &'a Site)> {
        let ways = if self.is_mutual { 2 } else { 1 };
        self.partners
            .iter()
            .flat_map(move |partner| [(partner, site), (site, partner)].into_iter().take(ways))
    }
}
