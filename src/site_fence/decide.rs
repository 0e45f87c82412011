//! Decisions: pure functions from what was seen to a decision with its reason.

use std::collections::BTreeSet;

use serde::Serialize;

use super::notes::{Noted, Notes};
use super::pauses::{Pause, Pauses};
use super::site::{Endpoint, EndpointGroup, Leaving, Owner, Site, is_in_service};
use super::webhook::{Accusation, Alert, Malformed, Status};
use crate::remote::arn::Arn;

/// What an alert requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Concern {
    /// No action of this function.
    None(Reason),
    /// None: it shows that reports of this site, about this accelerator, arrive.
    Watchdog(Site, String),
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
    /// The site is out of the accelerator: if there is this proof, make sure that this is noted, and that it is also out of
    /// replication.
    AlreadyOut(Proof),
    /// Remove these endpoints of these groups, if there is this proof.
    Remove(Leaving<'a>, Proof),
}

/// What has to be seen before a report is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the report is about the present.
    None,
    /// The reporter still does not see the site: the report may be over. It began to fire before a rejoin, or was delivered
    /// late.
    Unseen,
    /// The same if the sites have Infinispan. The report began to fire before a person rejoined the reporter by force, which
    /// says that the other site is lost: where nothing shows whether it is, the report is acted on.
    UnseenIfKnown,
}

/// Why no change is made, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Reason {
    /// The alert is resolved.
    NotFiring,
    /// The alert has another name.
    OtherAlert,
    /// The alert fires always, to show that reports arrive.
    Watchdog,
    /// The reporter itself was taken out, on the other site's report: one site is left, as intended.
    ReporterIsFenced,
    /// Another site's report was first, and has taken the reporter out.
    OtherReportWasFirst,
    /// No site that is left, or would be left, is healthy: a person decides which one serves.
    SurvivorUnhealthy,
    /// The reporter was taken out, and was put back without a rejoin: its data may be stale.
    ReporterWasFenced,
    /// The reporter has already taken out another site: it may be the one that is cut off.
    SecondFence,
    /// The alert began to fire before the last rejoin, and the reporter sees the site now.
    OlderThanRejoin,
    /// The alert began to fire before a person rejoined the site by force.
    RejoinedByForce,
    /// The alert began to fire before the last rejoin, and without Infinispan nothing shows whether it is still true.
    RejoinedSince,
    /// The message was delivered late, and the reporter sees the site now.
    SeenAgain,
    /// The message was delivered late, and without Infinispan nothing shows whether it is still true.
    DeliveredLate,
    /// No endpoint would be left in one of the listeners.
    LastEndpoint,
    /// The reporter has no endpoint in one of the listeners that receives traffic.
    ReporterMissing,
    /// None of the reporter's endpoints in one of the listeners is healthy.
    ReporterUnhealthy,
    /// No endpoint is tagged as the site's, and some endpoints are not the reporter's.
    SiteUnknown,
    /// No endpoints of the site are noted, and it has none in the accelerator.
    NothingNoted,
    /// The sites do not see each other: the site would be rejoined with stale data, and could not replicate.
    SitesDisconnected,
    /// A person has paused the reports about the site, or from the reporter, for planned work.
    Paused,
}

/// Decides from the alert alone whether it concerns this function: whether it has one of these names, and is firing.
///
/// # Errors
/// The alert concerns this function, and a label is missing or invalid.
pub fn concern(alert: &Alert, alert_name: &str, watchdog_name: &str) -> Result<Concern, Malformed> {
    let name = alert.name();
    let is_watchdog = name == Some(watchdog_name);
    if name != Some(alert_name) && !is_watchdog {
        return Ok(Concern::None(Reason::OtherAlert));
    }
    match alert.status {
        Status::Resolved => Ok(Concern::None(Reason::NotFiring)),
        Status::Firing if is_watchdog => Ok(Concern::Watchdog(alert.reporter()?, alert.accelerator()?)),
        Status::Firing => Ok(Concern::Accuses(alert.accusation()?)),
    }
}

/// Decides whether to take out the accused site.
#[must_use]
pub fn fence<'a>(accusation: &Accusation, seen: &Seen<'a>) -> Decision<'a> {
    let Accusation { site, reporter, .. } = accusation;
    let is_there = |site| is_in_service(site, seen.groups);
    if !is_there(reporter) {
        return Decision::Refuse(match seen.notes.of(reporter) {
            Some(_) => survivor(reporter, seen).unwrap_or(Reason::ReporterIsFenced),
            None => Reason::ReporterMissing,
        });
    }
    // It was put back by hand.
    if seen.notes.is_to_stay_out(reporter) {
        return Decision::Refuse(Reason::ReporterWasFenced);
    }
    if !is_there(site) {
        // Endpoints whose site is unknown, or that are tagged with another name, may be the site's.
        let is_known = |endpoint: &Endpoint| endpoint.is_of(reporter) || endpoint.owner == Owner::Gone;
        let known = seen.groups.iter().flat_map(|group| &group.endpoints).all(is_known);
        // A note that does not say that it is out is no reason to think so.
        if !known && !seen.notes.is_out(site) {
            return Decision::Refuse(Reason::SiteUnknown);
        }
        // The note is newer than any rejoin then, and one that is under way holds the claim. A person may have taken it out, or
        // bring it online, since a message that was delivered late.
        if seen.notes.is_out(site) {
            return Decision::AlreadyOut(if accusation.is_late { Proof::Unseen } else { Proof::None });
        }
        return proof(accusation, seen.notes).map_or_else(Decision::Refuse, Decision::AlreadyOut);
    }
    if has_fenced_another(accusation, seen) {
        return Decision::Refuse(Reason::SecondFence);
    }
    let leaving = match leaving(accusation, seen) {
        Ok(leaving) => leaving,
        Err(reason) => return Decision::Refuse(reason),
    };
    match proof(accusation, seen.notes) {
        Ok(proof) => Decision::Remove(leaving, proof),
        Err(reason) => Decision::Refuse(reason),
    }
}

/// Returns the pause that keeps a report from taking a site out: that of the site, or of the reporter. What is noted as out is not
/// put back, and the rest of its fence is done. A site that is absent without such a note may be absent for the planned work.
#[must_use]
pub fn pause<'a>(
    accusation: &Accusation,
    decision: &Decision<'_>,
    notes: &Notes,
    pauses: &'a Pauses,
) -> Option<&'a Pause> {
    let sites = [&accusation.site, &accusation.reporter];
    let takes_out = match decision {
        Decision::Remove(..) => true,
        Decision::AlreadyOut(_) => !notes.is_out(&accusation.site),
        Decision::Refuse(_) => false,
    };
    sites.into_iter().filter(|_| takes_out).filter_map(|site| pauses.of(site)).max_by_key(|pause| pause.until)
}

/// Returns the reason for which the absence of a site does not settle its report: in one of the listeners that it was taken out
/// of, no site that is left is healthy.
#[must_use]
pub fn survivor(out: &Site, seen: &Seen<'_>) -> Option<Reason> {
    // One that was fenced and put back by hand may be stale.
    let is_good = |owner: &Owner| match owner {
        Owner::Site(name) => !name.parse().is_ok_and(|site| seen.notes.is_to_stay_out(&site)),
        Owner::Unknown | Owner::Gone => false,
    };
    let serves = |group: &EndpointGroup, endpoint: &Endpoint| {
        is_good(&endpoint.owner) && endpoint.healthy && group.sends_to(endpoint)
    };
    let is_served = |listener: Option<&str>| {
        let mut groups =
            seen.groups.iter().filter(|group| listener.is_none_or(|listener| group.listener() == listener));
        groups.any(|group| group.endpoints.iter().any(|endpoint| serves(group, endpoint)))
    };
    let noted = seen.notes.of(out).map(|note| note.endpoints.as_slice()).unwrap_or_default();
    let left: BTreeSet<_> = if noted.is_empty() {
        // Where it was is not known.
        seen.groups.iter().map(EndpointGroup::listener).collect()
    } else {
        listeners(noted, seen.groups).collect()
    };
    let all = left.into_iter().all(|listener| is_served(Some(listener)));
    (!all || !is_served(None)).then_some(Reason::SurvivorUnhealthy)
}

/// Whether the reporter has taken out a third site, which is still out, in a listener at least. If it is not noted who did
/// that, it may have been the reporter.
fn has_fenced_another(accusation: &Accusation, seen: &Seen<'_>) -> bool {
    let Accusation { site, reporter, .. } = accusation;
    let is_missing = |noted: &Noted| noted.is_missing(seen.groups);
    seen.notes.iter().any(|(other, note)| {
        let by = note.by.as_ref();
        let by_reporter = by.is_none_or(|by| by.reporter.as_ref() == Some(reporter));
        let is_half_out = (by.is_none() || seen.notes.is_out(other)) && note.endpoints.iter().any(is_missing);
        let is_out = !is_in_service(other, seen.groups) || is_half_out;
        other != site && other != reporter && by_reporter && is_out
    })
}

/// Returns the endpoints of the accused site. In each of their listeners, the reporter serves in a group: in the same
/// one, or in that of its own Region.
fn leaving<'a>(accusation: &Accusation, seen: &Seen<'a>) -> Result<Leaving<'a>, Reason> {
    let Accusation { site, reporter, .. } = accusation;
    let mut leaving = Vec::new();
    for group in seen.groups {
        let endpoints: Vec<_> = group.of(site).collect();
        if endpoints.is_empty() {
            continue;
        }
        let listener = || seen.groups.iter().filter(|other| other.listener() == group.listener());
        let stays = |endpoint: &Endpoint| !endpoint.is_of(site) && endpoint.owner != Owner::Gone;
        if !listener().flat_map(|group| &group.endpoints).any(stays) {
            return Err(Reason::LastEndpoint);
        }
        let reporters =
            || listener().flat_map(|group| group.of(reporter).filter(|endpoint| group.sends_to(endpoint)));
        if reporters().next().is_none() {
            return Err(Reason::ReporterMissing);
        }
        if !reporters().any(|endpoint| endpoint.healthy) {
            return Err(Reason::ReporterUnhealthy);
        }
        leaving.push((group, endpoints));
    }
    Ok(leaving)
}

/// Compares a report with the last rejoins of both sites. After a rejoin by force the reports about that site are refused: its
/// own report is the one that takes out a site that is lost.
fn proof(accusation: &Accusation, notes: &Notes) -> Result<Proof, Reason> {
    let Accusation { site, reporter, began, is_late, .. } = accusation;
    let if_not_late = |proof| if *is_late { Proof::Unseen } else { proof };
    // A report without a readable time may be from before.
    let later = |site| notes.rejoined(site).filter(|rejoined| began.is_none_or(|began| began < rejoined.at));
    match (later(site), later(reporter)) {
        // The newer force is the person's last word: the site that was forced before is lost now.
        (Some(before), Some(last)) if before.forced && last.forced && before.at < last.at => {
            Ok(if_not_late(Proof::UnseenIfKnown))
        }
        (Some(rejoined), _) if rejoined.forced => Err(Reason::RejoinedByForce),
        (None, Some(rejoined)) if rejoined.forced => Ok(if_not_late(Proof::UnseenIfKnown)),
        (None, None) => Ok(if_not_late(Proof::None)),
        (Some(_), _) | (None, Some(_)) => Ok(Proof::Unseen),
    }
}

/// Decides whether a person may take out a site. Returns its endpoints, none if it is out.
///
/// # Errors
/// No other site, or none that is healthy, or only one that was fenced and not rejoined, would be in service in one of
/// the listeners; or it is not known whether the site has endpoints.
pub fn take_out<'a>(site: &Site, seen: &Seen<'a>) -> Result<Leaving<'a>, Reason> {
    let mut leaving = Vec::new();
    for group in seen.groups {
        let endpoints: Vec<_> = group.of(site).collect();
        if endpoints.is_empty() {
            continue;
        }
        let others = || {
            let listener = seen.groups.iter().filter(|other| other.listener() == group.listener());
            listener
                .flat_map(|group| group.endpoints.iter().filter(|endpoint| group.sends_to(endpoint)))
                .filter(|endpoint| matches!(&endpoint.owner, Owner::Site(name) if name != site.as_str()))
        };
        if others().next().is_none() {
            return Err(Reason::LastEndpoint);
        }
        if !others().any(|endpoint| endpoint.healthy) {
            return Err(Reason::SurvivorUnhealthy);
        }
        let is_stale = |endpoint: &Endpoint| {
            let Owner::Site(name) = &endpoint.owner else { return false };
            name.parse().is_ok_and(|site| seen.notes.is_to_stay_out(&site))
        };
        if others().filter(|endpoint| endpoint.healthy).all(is_stale) {
            return Err(Reason::ReporterWasFenced);
        }
        leaving.push((group, endpoints));
    }
    // A misspelt site, or one whose endpoints have no tag, is not out.
    let mut endpoints = seen.groups.iter().flat_map(|group| &group.endpoints);
    let has_unknown = endpoints.any(|endpoint| endpoint.owner == Owner::Unknown);
    if leaving.is_empty() && (seen.notes.of(site).is_none() || has_unknown && !seen.notes.is_out(site)) {
        return Err(Reason::SiteUnknown);
    }
    Ok(leaving)
}

/// Whether another site receives traffic in each listener from which these endpoints of a site were removed.
#[must_use]
pub fn is_anyone_left(site: &Site, removed: &[Noted], groups: &[EndpointGroup]) -> bool {
    let serves = |listener: &str| {
        let of_listener = groups.iter().filter(|group| group.listener() == listener);
        let mut endpoints =
            of_listener.flat_map(|group| group.endpoints.iter().filter(|endpoint| group.sends_to(endpoint)));
        endpoints.any(|endpoint| matches!(&endpoint.owner, Owner::Site(name) if name != site.as_str()))
    };
    listeners(removed, groups).all(serves)
}

/// The listeners in which these endpoints were, of those that still exist.
fn listeners<'a>(noted: &'a [Noted], groups: &[EndpointGroup]) -> impl Iterator<Item = &'a str> {
    let all = noted.iter().filter_map(|noted| Some(noted.group.split_once("/endpoint-group/")?.0));
    all.filter(|listener| groups.iter().any(|group| group.listener() == *listener))
}

/// What has to be done so that a site is in the accelerator as it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Return<'a> {
    /// The noted endpoints that have to be added, each with the group that it is to be in.
    pub add: Vec<Noted>,
    /// Noted endpoints whose group no longer exists, and none or several may stand for it, or the one that would has its own
    /// note of the endpoint.
    pub homeless: Vec<&'a Noted>,
    /// Noted endpoints that are in service with another weight than the noted one.
    pub changed: Vec<(&'a Noted, &'a Endpoint)>,
    /// The group in which each noted endpoint is, or is to be: its own, or the one that was made anew.
    pub homes: Vec<(&'a str, &'a Noted)>,
}

/// Compares the noted endpoints of a site with the accelerator.
///
/// # Errors
/// No endpoint of the site is noted, and it has none in the accelerator.
pub fn rejoin<'a>(site: &Site, seen: &Seen<'a>) -> Result<Return<'a>, Reason> {
    let all = seen.notes.of(site).map(|note| &note.endpoints[..]).unwrap_or_default();
    if all.is_empty() && !is_in_service(site, seen.groups) {
        return Err(Reason::NothingNoted);
    }
    let mut back = Return::default();
    for noted in all {
        // Of several notes of one endpoint each has a group of its own.
        let is_free = |group: &&EndpointGroup| {
            let is_taken = back.homes.iter().any(|(arn, other)| *arn == group.arn && other.is_same(noted));
            !is_taken && !is_another_notes(noted, all, group)
        };
        let home = home(noted, seen.groups, is_free);
        let in_home = |group: &&EndpointGroup| match home {
            Some(home) => home.arn == group.arn,
            None => is_free(group),
        };
        let found = seen.groups.iter().filter(in_home);
        let mut found = found.flat_map(|group| group.endpoints.iter().map(move |endpoint| (group, endpoint)));
        let found = found.find(|(_, endpoint)| noted.is(endpoint));
        back.homes.extend(found.map(|(group, _)| group).or(home).map(|group| (group.arn.as_str(), noted)));
        match (found, home) {
            (Some((_, endpoint)), _) if endpoint.weight != noted.weight => {
                back.changed.push((noted, endpoint));
            }
            (Some(_), _) => {}
            (None, Some(home)) => back.add.push(Noted { group: home.arn.clone(), ..noted.clone() }),
            (None, None) => back.homeless.push(noted),
        }
    }
    Ok(back)
}

/// Returns the listeners in which the site has endpoints, or is to get these, and that send traffic to none of them: their
/// weights, or the traffic dials of their groups, are 0.
#[must_use]
pub fn without_traffic<'a>(site: &Site, add: &[Noted], groups: &'a [EndpointGroup]) -> BTreeSet<&'a str> {
    let (mut all, mut with_traffic) = (BTreeSet::new(), BTreeSet::new());
    for group in groups {
        let added = add.iter().filter(|noted| noted.group == group.arn).map(|noted| noted.weight);
        for weight in group.of(site).map(|endpoint| endpoint.weight).chain(added) {
            all.insert(group.listener());
            if group.gets_traffic && weight > 0 {
                with_traffic.insert(group.listener());
            }
        }
    }
    &all - &with_traffic
}

/// Returns the group of a noted endpoint. If that was made anew, it is the only one of the listener, or if that has none, of
/// the accelerator, in the Region of the load balancer, if that one `is_free`: if no other note of the same endpoint is
/// about it.
fn home<'a>(
    noted: &Noted,
    groups: &'a [EndpointGroup],
    is_free: impl Fn(&&EndpointGroup) -> bool,
) -> Option<&'a EndpointGroup> {
    let same = groups.iter().find(|group| group.arn == noted.group);
    let region = Arn::parse(&noted.id).map_or("", |arn| arn.region);
    let only = |listener: Option<&str>| {
        let mut fitting = groups.iter().filter(|group| {
            (region.is_empty() || group.region == region)
                && listener.is_none_or(|listener| group.listener() == listener)
        });
        fitting.next().filter(|_| fitting.next().is_none())
    };
    let listener = noted.group.split_once("/endpoint-group/").map(|(listener, _)| listener);
    // Another listener has other ports: it stands only for one that is gone.
    let is_there = groups.iter().any(|group| Some(group.listener()) == listener);
    same.or_else(|| only(listener.filter(|_| is_there)).filter(is_free))
}

/// Whether another note is about this endpoint in this group.
fn is_another_notes(noted: &Noted, all: &[Noted], group: &EndpointGroup) -> bool {
    all.iter().any(|other| other.group == group.arn && other.group != noted.group && other.is_same(noted))
}

// === impl Reason ===

impl Reason {
    /// Whether the reason may pass, or has to be seen by a person, so that Alertmanager has to repeat the alert.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            Self::LastEndpoint
            | Self::ReporterMissing
            | Self::ReporterUnhealthy
            | Self::ReporterWasFenced
            | Self::RejoinedByForce
            | Self::RejoinedSince
            | Self::DeliveredLate
            | Self::SecondFence
            | Self::SiteUnknown
            | Self::SurvivorUnhealthy => true,
            Self::NotFiring
            | Self::OtherAlert
            | Self::Watchdog
            | Self::OlderThanRejoin
            | Self::SeenAgain
            | Self::ReporterIsFenced
            | Self::OtherReportWasFirst
            | Self::NothingNoted
            | Self::SitesDisconnected
            | Self::Paused => false,
        }
    }
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotFiring => "not_firing",
            Reason::OtherAlert => "other_alert",
            Reason::Watchdog => "watchdog",
            Reason::ReporterIsFenced => "reporter_is_fenced",
            Reason::OtherReportWasFirst => "other_report_was_first",
            Reason::SurvivorUnhealthy => "survivor_unhealthy",
            Reason::ReporterWasFenced => "reporter_was_fenced",
            Reason::SecondFence => "second_fence",
            Reason::OlderThanRejoin => "older_than_rejoin",
            Reason::RejoinedByForce => "rejoined_by_force",
            Reason::RejoinedSince => "rejoined_since",
            Reason::SeenAgain => "seen_again",
            Reason::DeliveredLate => "delivered_late",
            Reason::LastEndpoint => "last_endpoint",
            Reason::ReporterMissing => "reporter_missing",
            Reason::ReporterUnhealthy => "reporter_unhealthy",
            Reason::SiteUnknown => "site_unknown",
            Reason::NothingNoted => "nothing_noted",
            Reason::SitesDisconnected => "sites_disconnected",
            Reason::Paused => "paused",
        }
    }
}
