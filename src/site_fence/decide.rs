//! What to do: pure functions from what was seen to a decision with its reason.

use serde::Serialize;

use super::notes::{Noted, Notes};
use super::site::{Endpoint, EndpointGroup, Owner, Site, is_in_service};
use super::webhook::{Accusation, Alert, Malformed, Status};

/// What an alert asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Concern {
    /// Nothing of this function.
    None(Reason),
    /// To take a site out.
    Accuses(Accusation),
}

/// What is known of an accelerator when the decision falls.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The endpoint groups of all its listeners.
    pub groups: &'a [EndpointGroup],
    /// What is noted on it.
    pub notes: &'a Notes,
}

/// What to do about an accusation.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Leave the site in service.
    Refuse(Reason),
    /// It is out of the accelerator; see that it is out of replication, too.
    AlreadyOut,
    /// Remove these endpoints of these groups.
    Remove(Vec<(&'a EndpointGroup, Vec<&'a Endpoint>)>),
}

/// Why nothing is done, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Reason {
    /// The alert is resolved.
    NotFiring,
    /// It is another alert.
    OtherAlert,
    /// The reporter was taken out itself, on the other site's report: one is left, as it should be.
    ReporterIsFenced,
    /// Another site's report was first, and has taken the reporter out.
    OtherReportWasFirst,
    /// Nothing would be left in one of the groups.
    LastEndpoint,
    /// The reporter has no endpoint there that gets traffic.
    ReporterMissing,
    /// None of the reporter's endpoints there is healthy.
    ReporterUnhealthy,
    /// No endpoint is tagged as the site's, and there are some that are not the reporter's.
    SiteUnknown,
    /// Nothing is noted of the site's endpoints, and it has none.
    NothingNoted,
}

/// Decides whether an alert is about this function, before anything is read: whether it is the one of this
/// name, and firing.
///
/// # Errors
/// It is, and a label of it is missing or invalid.
pub fn concern(alert: &Alert, name: &str) -> Result<Concern, Malformed> {
    if alert.name() != Some(name) {
        return Ok(Concern::None(Reason::OtherAlert));
    }
    match alert.status {
        Status::Resolved => Ok(Concern::None(Reason::NotFiring)),
        Status::Firing => Ok(Concern::Accuses(alert.accusation()?)),
    }
}

/// Whether to take out the site that is accused.
#[must_use]
pub fn fence<'a>(accusation: &Accusation, seen: &Seen<'a>) -> Decision<'a> {
    let Accusation { site, reporter, .. } = accusation;
    let is_there = |site| is_in_service(site, seen.groups);
    if !is_there(reporter) {
        // Where nobody is left, it is not settled.
        let settled = seen.notes.of(reporter).is_some() && is_there(site);
        return Decision::Refuse(if settled { Reason::ReporterIsFenced } else { Reason::ReporterMissing });
    }
    if !is_there(site) {
        // Endpoints whose site cannot be told, or that are tagged with another name, may be the site's.
        let is_known = |endpoint: &Endpoint| endpoint.is_of(reporter) || endpoint.owner == Owner::Gone;
        let known = seen.groups.iter().flat_map(|group| &group.endpoints).all(is_known);
        return if known || seen.notes.of(site).is_some() {
            Decision::AlreadyOut
        } else {
            Decision::Refuse(Reason::SiteUnknown)
        };
    }
    let mut leaving = Vec::new();
    for group in seen.groups {
        let endpoints: Vec<_> = group.endpoints.iter().filter(|endpoint| endpoint.is_of(site)).collect();
        if endpoints.is_empty() {
            continue;
        }
        let stays = |endpoint: &Endpoint| !endpoint.is_of(site) && endpoint.owner != Owner::Gone;
        if !group.endpoints.iter().any(stays) {
            return Decision::Refuse(Reason::LastEndpoint);
        }
        if !group.of(reporter).any(Endpoint::gets_traffic) {
            return Decision::Refuse(Reason::ReporterMissing);
        }
        if !group.of(reporter).any(|endpoint| endpoint.gets_traffic() && endpoint.healthy) {
            return Decision::Refuse(Reason::ReporterUnhealthy);
        }
        leaving.push((group, endpoints));
    }
    Decision::Remove(leaving)
}

/// Which of the noted endpoints of a site have to be added again; none where all are there.
///
/// # Errors
/// Nothing is noted of the site, and it has no endpoint.
pub fn rejoin<'a>(site: &Site, seen: &Seen<'a>) -> Result<Vec<&'a Noted>, Reason> {
    let is_there = |noted: &Noted| {
        let mut groups = seen.groups.iter().filter(|group| group.arn == noted.group);
        groups.any(|group| group.endpoints.iter().any(|endpoint| endpoint.id == noted.id))
    };
    let noted = seen.notes.of(site).map(|note| &note.endpoints[..]).unwrap_or_default();
    if noted.is_empty() && !is_in_service(site, seen.groups) {
        return Err(Reason::NothingNoted);
    }
    Ok(noted.iter().filter(|noted| !is_there(noted)).collect())
}

// === impl Reason ===

impl Reason {
    /// Whether it may pass, so that Alertmanager has to ask again.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            Self::LastEndpoint | Self::ReporterMissing | Self::ReporterUnhealthy | Self::SiteUnknown => true,
            Self::NotFiring
            | Self::OtherAlert
            | Self::ReporterIsFenced
            | Self::OtherReportWasFirst
            | Self::NothingNoted => false,
        }
    }
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotFiring => "not_firing",
            Reason::OtherAlert => "other_alert",
            Reason::ReporterIsFenced => "reporter_is_fenced",
            Reason::OtherReportWasFirst => "other_report_was_first",
            Reason::LastEndpoint => "last_endpoint",
            Reason::ReporterMissing => "reporter_missing",
            Reason::ReporterUnhealthy => "reporter_unhealthy",
            Reason::SiteUnknown => "site_unknown",
            Reason::NothingNoted => "nothing_noted",
        }
    }
}
