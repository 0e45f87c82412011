//! The notes of this system on an accelerator, in its tags: the sites that it took out, and the settings of their
//! endpoints, so that `rejoin` can add them as they were.
//!
//! ```text
//! site-fence:site-b    2026-11-21T03:08:09Z site-a
//! site-fence:site-b:0  LISTENER/GROUP WEIGHT true|false|default ENDPOINT
//! ```

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::site::{Endpoint, EndpointGroup, Site};

const PREFIX: &str = "site-fence:";
const LISTENER: &str = "/listener/";
const GROUP: &str = "/endpoint-group/";

/// The notes, by site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(BTreeMap<Site, Note>);

/// A site that was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When it was last taken out, and which site reported it.
    pub by: Option<(DateTime<Utc>, Site)>,
    /// Its endpoints.
    pub endpoints: Vec<Noted>,
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
        let mut notes: BTreeMap<Site, Note> = BTreeMap::new();
        for (key, value) in tags {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let (site, number) = name.split_once(':').map_or((name, None), |(site, n)| (site, Some(n)));
            let Ok(site) = site.parse::<Site>() else { continue };
            let note = notes.entry(site).or_default();
            match number {
                None => note.by = read_by(value),
                Some(_) => note.endpoints.extend(Noted::read(accelerator, value)),
            }
        }
        Self(notes)
    }

    /// The note of a site.
    #[must_use]
    pub fn of(&self, site: &Site) -> Option<&Note> {
        self.0.get(site)
    }

    /// All notes.
    pub fn iter(&self) -> impl Iterator<Item = (&Site, &Note)> {
        self.0.iter()
    }
}

// === impl Note ===

impl Note {
    /// Returns the note with these endpoints added, reported by `reporter`.
    #[must_use]
    pub fn with(
        mut self,
        leaving: &[(&EndpointGroup, Vec<&Endpoint>)],
        reporter: &Site,
        now: DateTime<Utc>,
    ) -> Self {
        self.by = Some((now, reporter.clone()));
        for (group, endpoints) in leaving {
            for endpoint in endpoints {
                self.endpoints.retain(|noted| noted.group != group.arn || noted.id != endpoint.id);
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

    /// The tags that hold the note.
    #[must_use]
    pub fn tags(&self, site: &Site) -> Vec<(String, String)> {
        let by = self.by.as_ref().map(|(at, reporter)| {
            (
                format!("{PREFIX}{site}"),
                format!("{} {reporter}", at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            )
        });
        let endpoints = self.endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(n, noted)| (format!("{PREFIX}{site}:{n}"), noted.value()));
        by.into_iter().chain(endpoints).collect()
    }

    /// The keys of the tags that may hold it: all tags of a site, whatever their values.
    #[must_use]
    pub fn keys(site: &Site, tags: &BTreeMap<String, String>) -> Vec<String> {
        let (by, of_endpoints) = (format!("{PREFIX}{site}"), format!("{PREFIX}{site}:"));
        tags.keys().filter(|key| **key == by || key.starts_with(&of_endpoints)).cloned().collect()
    }
}

fn read_by(value: &str) -> Option<(DateTime<Utc>, Site)> {
    let (at, reporter) = value.split_once(' ')?;
    Some((at.parse().ok()?, reporter.parse().ok()?))
}

// === impl Noted ===

impl Noted {
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
mod tests {
    use super::super::site::Owner;
    use super::*;

    const ACCELERATOR: &str =
        "arn:aws:globalaccelerator::123456789012:accelerator/1234abcd-abcd-1234-abcd-1234abcdefgh";

    fn noted() -> Note {
        let group = EndpointGroup {
            arn: format!("{ACCELERATOR}/listener/0123vxyz/endpoint-group/098765zyxwvu"),
            endpoints: vec![Endpoint {
                id: format!(
                    "arn:aws:elasticloadbalancing:ap-southeast-4:123456789012:loadbalancer/net/{}/50dc6c495c0c9188",
                    "n".repeat(32)
                ),
                weight: 200,
                client_ip_preserved: Some(false),
                healthy: false,
                owner: Owner::Unknown,
            }],
        };
        let leaving = [(&group, group.endpoints.iter().collect())];
        let now = "2026-11-21T03:08:09.5Z".parse().unwrap();
        Note::default().with(&leaving, &"site-a".parse().unwrap(), now)
    }

    #[test]
    fn a_note_fits_into_tags_and_is_read_back() {
        let site: Site = "x".repeat(64).parse().unwrap();
        let tags: BTreeMap<_, _> = noted().tags(&site).into_iter().collect();
        for (key, value) in &tags {
            let fits =
                |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c));
            assert!(key.len() <= 128 && value.len() <= 256 && fits(key) && fits(value), "{key} {value}");
        }
        assert_eq!(tags[&format!("site-fence:{site}")], "2026-11-21T03:08:09Z site-a");
        let notes = Notes::read(ACCELERATOR, &tags);
        let note = notes.of(&site).unwrap();
        assert_eq!(note.endpoints, noted().endpoints);
        assert_eq!(note.by.as_ref().unwrap().1.as_str(), "site-a");
    }

    #[test]
    fn an_endpoint_is_noted_once_with_its_last_settings() {
        let first = noted();
        let group = EndpointGroup { arn: first.endpoints[0].group.clone(), endpoints: Vec::new() };
        let changed = Endpoint {
            id: first.endpoints[0].id.clone(),
            weight: 7,
            client_ip_preserved: None,
            healthy: true,
            owner: Owner::Unknown,
        };
        let again = first.clone().with(&[(&group, vec![&changed])], &"site-c".parse().unwrap(), Utc::now());
        assert_eq!(again.by.unwrap().1.as_str(), "site-c");
        assert_eq!(again.endpoints.len(), 1);
        assert_eq!((again.endpoints[0].weight, again.endpoints[0].client_ip_preserved), (7, None));
    }

    #[test]
    fn other_tags_are_not_notes() {
        let tags = [
            ("Name", "x"),
            ("site-fence:a/b", "2026-11-21T03:08:09Z site-a"),
            ("site-fence:site-b:0", "not what was written"),
        ];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let notes = Notes::read(ACCELERATOR, &tags);
        assert_eq!(notes.iter().count(), 1);
        assert_eq!(notes.of(&"site-b".parse().unwrap()), Some(&Note::default()));
        assert_eq!(Note::keys(&"site-b".parse().unwrap(), &tags), ["site-fence:site-b:0"]);
    }
}
