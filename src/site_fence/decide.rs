//! Decisions: pure functions from what was seen to a decision with its reason.

use serde::Serialize;

use super::notes::{Noted, Notes};
use super::site::{Endpoint, EndpointGroup, Owner, Site, is_in_service};
use super::webhook::{Accusation, Alert, Malformed, Status};

/// What an alert requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Concern {
    /// No action of this function.
    None(Reason),
    /// The removal of a site.
    Accuses(Accusation),
}

/// The state of an accelerator on which a decision rests.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The endpoint groups of all its listeners.
    pub groups: &'a [EndpointGroup],
    /// The notes in its tags.
    pub notes: &'a Notes,
}

/// What to do about an accusation.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Leave the site in service.
    Refuse(Reason),
    /// The site is out of the accelerator; make sure that it is also out of replication.
    AlreadyOut,
    /// Remove these endpoints of these groups.
    Remove(Vec<(&'a EndpointGroup, Vec<&'a Endpoint>)>),
}

/// Why no change is made, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Reason {
    /// The alert is resolved.
    NotFiring,
    /// The alert has another name.
    OtherAlert,
    /// The reporter itself was taken out, on the other site's report: one site is left, as intended.
    ReporterIsFenced,
    /// Another site's report was first, and has taken the reporter out.
    OtherReportWasFirst,
    /// No endpoint would be left in one of the groups.
    LastEndpoint,
    /// The reporter has no endpoint in the accelerator that receives traffic.
    ReporterMissing,
    /// None of the reporter's endpoints in the accelerator is healthy.
    ReporterUnhealthy,
    /// No endpoint is tagged as the site's, and some endpoints are not the reporter's.
    SiteUnknown,
    /// No endpoints of the site are noted, and it has none in the accelerator.
    NothingNoted,
}

/// Decides from the alert alone whether it concerns this function: whether it has this name, and is firing.
///
/// # Errors
/// The alert concerns this function, and a label is missing or invalid.
pub fn concern(alert: &Alert, name: &str) -> Result<Concern, Malformed> {
    if alert.name() != Some(name) {
        return Ok(Concern::None(Reason::OtherAlert));
    }
    match alert.status {
        Status::Resolved => Ok(Concern::None(Reason::NotFiring)),
        Status::Firing => Ok(Concern::Accuses(alert.accusation()?)),
    }
}

/// Decides whether to take out the accused site.
#[must_use]
pub fn fence<'a>(accusation: &Accusation, seen: &Seen<'a>) -> Decision<'a> {
    let Accusation { site, reporter, .. } = accusation;
    let is_there = |site| is_in_service(site, seen.groups);
    if !is_there(reporter) {
        // If no site is left, the matter is not settled.
        let settled = seen.notes.of(reporter).is_some() && is_there(site);
        return Decision::Refuse(if settled { Reason::ReporterIsFenced } else { Reason::ReporterMissing });
    }
    if !is_there(site) {
        // Endpoints whose site is unknown, or that are tagged with another name, may be the site's.
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

/// Returns the noted endpoints of a site that have to be added again; none if all of them exist.
///
/// # Errors
/// No endpoint of the site is noted, and it has none in the accelerator.
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
    /// Whether the reason may pass, so that Alertmanager has to repeat the alert.
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
