//! The notes of this system on an accelerator, in its tags: the sites that it took out, the settings of their
//! endpoints, so that `rejoin` can add them as they were, and the last rejoin of each site.
//!
//! ```text
//! site-fence:site-b           2026-11-21T03:08:09.512Z site-a
//! site-fence:site-b:0         LISTENER/GROUP WEIGHT true|false|default ENDPOINT
//! site-fence:site-b:rejoined  2026-11-21T04:10:00.027Z
//! ```
//!
//! The endpoints are noted before they are removed. The site that reported them is noted when they are gone: a site that
//! is in service with such a note was put back without a rejoin, and its data may be stale. A rejoin is noted before the
//! endpoints are added, so that no report from before it is acted on after it; by force, ` forced` follows. Afterwards the notes
//! of the endpoints that are back are removed. By force, who reported the site stays noted until the rejoin without force, or
//! until the next removal begins.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::site::{Endpoint, EndpointGroup, Leaving, Site};

const PREFIX: &str = "site-fence:";
const LISTENER: &str = "/listener/";
const GROUP: &str = "/endpoint-group/";
const REJOINED: &str = "rejoined";
const FORCED: &str = "forced";
/// Not a site's name.
const PERSON: &str = "+person";

/// The notes, by site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    out: BTreeMap<Site, Note>,
    rejoined: BTreeMap<Site, Rejoined>,
    /// The notes of endpoints that cannot be read: their text.
    unreadable: BTreeMap<Site, Vec<String>>,
}

/// A site that was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// How it was taken out; `None` until its endpoints are gone.
    pub by: Option<By>,
    /// Its endpoints.
    pub endpoints: Vec<Noted>,
    /// Whether the note of how it was taken out cannot be read: it was.
    pub is_unreadable: bool,
}

/// How a site was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// When its endpoints were gone.
    pub at: DateTime<Utc>,
    /// The site that reported it; `None` if a person took it out.
    pub reporter: Option<Site>,
}

/// The last rejoin of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoined {
    /// A moment before its endpoints were added.
    pub at: DateTime<Utc>,
    /// Whether a person rejoined it by force.
    pub forced: bool,
}

/// An endpoint as it was set up in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The group's ARN.
    pub group: String,
    /// The endpoint's id.
    pub id: String,
    /// Its weight.
    pub weight: i32,
    /// Whether clients' addresses were preserved; `None` for the default of AWS.
    pub client_ip_preserved: Option<bool>,
}

// === impl Notes ===

impl Notes {
    /// Reads the tags of this accelerator. A tag of another system, or one that an edit has made unreadable, is
    /// ignored.
    #[must_use]
    pub fn read(accelerator: &str, tags: &BTreeMap<String, String>) -> Self {
        let mut notes = Self::default();
        for (key, value) in tags {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let (site, number) = name.split_once(':').map_or((name, None), |(site, n)| (site, Some(n)));
            let Ok(site) = site.parse::<Site>() else { continue };
            match number {
                None => {
                    let note = notes.out.entry(site).or_default();
                    note.by = By::read(value);
                    note.is_unreadable = note.by.is_none();
                }
                Some(REJOINED) => {
                    notes.rejoined.extend(Rejoined::read(value).map(|rejoined| (site, rejoined)));
                }
                Some(_) => {
                    let endpoint = Noted::read(accelerator, value);
                    if endpoint.is_none() {
                        notes.unreadable.entry(site.clone()).or_default().push(value.clone());
                    }
                    let endpoints = &mut notes.out.entry(site).or_default().endpoints;
                    // Where a number is missing, later notes have not replaced all earlier ones.
                    let endpoint = endpoint.filter(|new| {
                        !endpoints.iter().any(|noted| noted.group == new.group && noted.is_same(new))
                    });
                    endpoints.extend(endpoint);
                }
            }
        }
        notes
    }

    /// The note of a site that was taken out.
    #[must_use]
    pub fn of(&self, site: &Site) -> Option<&Note> {
        self.out.get(site)
    }

    /// The texts of a site's notes of endpoints that cannot be read.
    pub fn unreadable(&self, site: &Site) -> impl Iterator<Item = &str> {
        self.unreadable.get(site).into_iter().flatten().map(String::as_str)
    }

    /// The notes of all sites that were taken out.
    pub fn iter(&self) -> impl Iterator<Item = (&Site, &Note)> {
        self.out.iter()
    }

    /// Adds who has taken out a site, and when, if its note does not say so.
    pub fn attribute(&mut self, site: &Site, by: By) {
        if let Some(note) = self.out.get_mut(site).filter(|note| note.is_by_no_one()) {
            note.by = Some(by);
        }
    }

    /// The site of an endpoint of this group that is noted.
    #[must_use]
    pub fn site_of(&self, group: &str, endpoint: &Endpoint) -> Option<&Site> {
        let is_noted =
            |note: &Note| note.endpoints.iter().any(|noted| noted.group == group && noted.is(endpoint));
        self.out.iter().find_map(|(site, note)| is_noted(note).then_some(site))
    }

    /// The last rejoin of a site.
    #[must_use]
    pub fn rejoined(&self, site: &Site) -> Option<Rejoined> {
        self.rejoined.get(site).copied()
    }

    /// Whether a site is noted as out since its last rejoin.
    #[must_use]
    pub fn is_out(&self, site: &Site) -> bool {
        self.stays_out(site, |by, rejoined| rejoined.at < by.at)
    }

    /// Whether the removal of a site was begun, and has not ended: no one is noted for it yet, and one of the groups has none of the
    /// site's endpoints any more. Where others have taken their places, or the group is gone, it was given up.
    #[must_use]
    pub fn is_partly_out(&self, site: &Site, groups: &[EndpointGroup]) -> bool {
        let is_left = |noted: &Noted| {
            groups.iter().any(|group| group.arn == noted.group && group.of(site).next().is_some())
        };
        let noted = self.of(site).filter(|note| note.is_by_no_one());
        noted.is_some_and(|note| {
            note.endpoints.iter().any(|noted| noted.is_missing(groups) && !is_left(noted))
        })
    }

    /// Who had taken out a site, if a person has rejoined it by force since: that is noted until the rejoin without force, or until
    /// the next removal begins.
    #[must_use]
    pub fn void(&self, site: &Site) -> Option<&By> {
        self.of(site).and_then(|note| note.by.as_ref()).filter(|_| !self.is_to_stay_out(site))
    }

    /// What is noted of a site when its removal begins. Who takes it out is noted when it is gone; but over a rejoin that has not
    /// ended at once, in the place of who did before: until that has ended, the site has to stay out all the same.
    #[must_use]
    pub fn leaver(&self, site: &Site, reporter: Option<&Site>, now: DateTime<Utc>) -> Note {
        let note = Note { by: None, ..self.of(site).cloned().unwrap_or_default() };
        if self.is_to_stay_out(site) && !self.is_out(site) { note.out(reporter, now) } else { note }
    }

    /// How many sites wait for a person's rejoin to end. One by force has ended if none of the site's endpoints is noted any more.
    #[must_use]
    pub fn count(&self) -> usize {
        let waits = |(site, note): &(&Site, &Note)| {
            self.is_to_stay_out(site) || note.is_by_no_one() || !note.endpoints.is_empty()
        };
        self.iter().filter(waits).count()
    }

    /// Whether a site may be stale: it was taken out, and no rejoin since has ended. One without force removes the note last.
    #[must_use]
    pub fn is_to_stay_out(&self, site: &Site) -> bool {
        self.stays_out(site, |by, rejoined| rejoined.at < by.at || !rejoined.forced)
    }

    fn stays_out(&self, site: &Site, in_spite_of: impl FnOnce(&By, Rejoined) -> bool) -> bool {
        let (note, rejoined) = (self.of(site), self.rejoined(site));
        if note.is_some_and(|note| note.is_unreadable) {
            // Of a rejoin by force the note stays.
            return !rejoined.is_some_and(|rejoined| rejoined.forced);
        }
        let by = note.and_then(|note| note.by.as_ref());
        by.is_some_and(|by| rejoined.is_none_or(|rejoined| in_spite_of(by, rejoined)))
    }
}

// === impl Note ===

impl Note {
    /// Whether it does not say who has taken out its site: that was not noted yet, or found no room.
    #[must_use]
    pub fn is_by_no_one(&self) -> bool {
        self.by.is_none() && !self.is_unreadable
    }

    /// Returns the note with these endpoints added.
    #[must_use]
    pub fn with(mut self, leaving: &Leaving<'_>) -> Self {
        for (group, endpoints) in leaving {
            for endpoint in endpoints {
                let is_same = |noted: &Noted| noted.group == group.arn && noted.is(endpoint);
                self.endpoints.retain(|noted| !is_same(noted));
                self.endpoints.push(Noted {
                    group: group.arn.clone(),
                    id: endpoint.id.clone(),
                    weight: endpoint.weight,
                    client_ip_preserved: endpoint.client_ip_preserved,
                });
            }
        }
        self
    }

    /// Returns the note of a site that is out, reported by `reporter`, or taken out by a person.
    #[must_use]
    pub fn out(self, reporter: Option<&Site>, now: DateTime<Utc>) -> Self {
        Self { by: Some(By { at: now, reporter: reporter.cloned() }), is_unreadable: false, ..self }
    }

    /// The tags that hold the note.
    #[must_use]
    pub fn tags(&self, site: &Site) -> Vec<(String, String)> {
        let by = self.by.as_ref().map(|by| (Self::key_of_by(site), by.value()));
        let endpoints = self.endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(n, noted)| (format!("{PREFIX}{site}:{n}"), noted.value()));
        by.into_iter().chain(endpoints).collect()
    }

    /// The key of the tag that says who has taken out a site.
    #[must_use]
    pub fn key_of_by(site: &Site) -> String {
        format!("{PREFIX}{site}")
    }

    /// The notes of a site's endpoints, each with the key of its tag.
    #[must_use]
    pub fn endpoints_by_key(
        site: &Site,
        accelerator: &str,
        tags: &BTreeMap<String, String>,
    ) -> Vec<(String, Noted)> {
        let read = |key: String| Noted::read(accelerator, tags.get(&key)?).map(|noted| (key, noted));
        Self::keys(site, tags).into_iter().filter_map(read).collect()
    }

    /// The keys of the tags that may hold it: all tags of a site but that of its last rejoin, whatever their values.
    #[must_use]
    pub fn keys(site: &Site, tags: &BTreeMap<String, String>) -> Vec<String> {
        let (by, of_endpoints) = (Self::key_of_by(site), format!("{PREFIX}{site}:"));
        let rejoined = format!("{of_endpoints}{REJOINED}");
        let is_note = |key: &&String| **key == by || key.starts_with(&of_endpoints) && **key != rejoined;
        tags.keys().filter(is_note).cloned().collect()
    }
}

// === impl By ===

impl By {
    fn read(value: &str) -> Option<Self> {
        let (at, reporter) = value.split_once(' ')?;
        let reporter = if reporter == PERSON { None } else { Some(reporter.parse().ok()?) };
        Some(Self { at: at.parse().ok()?, reporter })
    }

    pub(super) fn value(&self) -> String {
        format!("{} {}", written(self.at), self.reporter.as_ref().map_or(PERSON, Site::as_str))
    }
}

// === impl Rejoined ===

impl Rejoined {
    fn read(value: &str) -> Option<Self> {
        let (at, forced) = value.split_once(' ').map_or((value, false), |(at, how)| (at, how == FORCED));
        Some(Self { at: at.parse().ok()?, forced })
    }

    /// The tag that holds it.
    #[must_use]
    pub fn tag(self, site: &Site) -> (String, String) {
        let how = if self.forced { format!(" {FORCED}") } else { String::new() };
        (Self::key(site), format!("{}{how}", written(self.at)))
    }

    /// The key of that tag.
    #[must_use]
    pub fn key(site: &Site) -> String {
        format!("{PREFIX}{site}:{REJOINED}")
    }
}

fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

// === impl Noted ===

impl Noted {
    /// Whether this is the endpoint. One load balancer makes two endpoints, with and without clients' addresses.
    #[must_use]
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        let same = self.client_ip_preserved.is_none()
            || endpoint.client_ip_preserved.is_none()
            || self.client_ip_preserved == endpoint.client_ip_preserved;
        self.id == endpoint.id && same
    }

    /// Whether the endpoint is in its group.
    #[must_use]
    pub fn is_in(&self, groups: &[EndpointGroup]) -> bool {
        let mut groups = groups.iter().filter(|group| group.arn == self.group);
        groups.any(|group| group.endpoints.iter().any(|endpoint| self.is(endpoint)))
    }

    /// Whether the endpoint is not in its group, and that is there: of one that is gone, another may have taken the place.
    #[must_use]
    pub fn is_missing(&self, groups: &[EndpointGroup]) -> bool {
        groups.iter().any(|group| group.arn == self.group) && !self.is_in(groups)
    }

    /// Whether both are about one endpoint, in whichever groups.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.id, self.client_ip_preserved) == (&other.id, other.client_ip_preserved)
    }

    fn read(accelerator: &str, value: &str) -> Option<Self> {
        let mut words = value.split(' ');
        let (listener, group) = words.next()?.split_once('/')?;
        let noted = Self {
            group: format!("{accelerator}{LISTENER}{listener}{GROUP}{group}"),
            weight: words.next()?.parse().ok()?,
            client_ip_preserved: match words.next()? {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            id: words.next()?.to_owned(),
        };
        words.next().is_none().then_some(noted)
    }

    fn value(&self) -> String {
        let place = self.group.split_once(LISTENER).map_or("", |(_, place)| place).replace(GROUP, "/");
        let preserved = match self.client_ip_preserved {
            Some(true) => "true",
            Some(false) => "false",
            None => "default",
        };
        format!("{place} {} {preserved} {}", self.weight, self.id)
    }
}

#[cfg(test)]
mod tests;
