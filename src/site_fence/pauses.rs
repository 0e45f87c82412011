//! Pauses for planned work: until when no report takes a site out. They are tags of the accelerator, and end by themselves.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::site::Site;
use crate::program::text::fitting_a_tag;

/// Not the prefix of notes: an earlier version, which knows no pauses, leaves these tags alone.
const PREFIX: &str = "site-fence-paused:";
/// Not a site's name.
const ALL: &str = "+all";
/// The longest pause. One that ends later is none: a tag that was written by hand pauses nothing for years.
pub const LONGEST: TimeDelta = TimeDelta::days(15);
/// What [a tag's value][1] has room for behind the time.
///
/// [1]: https://docs.aws.amazon.com/global-accelerator/latest/api/API_Tag.html
const ROOM: usize = 256 - "2026-11-28T14:00:00Z ".len();

/// The pauses in an accelerator's tags, by site; `None` for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<Option<Site>, Pause>);

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ends.
    pub until: DateTime<Utc>,
    /// Why, for people.
    pub reason: String,
}

// === impl Pauses ===

impl Pauses {
    /// Reads the tags of an accelerator: the pauses that last. One that an edit has made unreadable is ignored.
    #[must_use]
    pub fn read(tags: &BTreeMap<String, String>, now: DateTime<Utc>) -> Self {
        let pauses = tags.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(PREFIX)?;
            let site = if name == ALL { None } else { Some(name.parse().ok()?) };
            let (until, reason) = value.split_once(' ').unwrap_or((value, ""));
            let pause = Pause { until: until.parse().ok()?, reason: reason.to_owned() };
            pause.lasts(now).then_some((site, pause))
        });
        Self(pauses.collect())
    }

    /// The pause of this site, or of all sites: the one that ends last.
    #[must_use]
    pub fn of(&self, site: &Site) -> Option<&Pause> {
        [self.0.get(&Some(site.clone())), self.0.get(&None)]
            .into_iter()
            .flatten()
            .max_by_key(|pause| pause.until)
    }

    /// Each of them in words; `None` if there are none.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let name = |site: &Option<Site>| site.as_ref().map_or("all sites".to_owned(), ToString::to_string);
        let all: Vec<_> = self.0.iter().map(|(site, pause)| format!("{} {pause}", name(site))).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The pause of exactly this site, or of exactly all sites.
    #[must_use]
    pub fn exactly(&self, site: Option<&Site>) -> Option<&Pause> {
        self.0.get(&site.cloned())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The key of the tag that holds the pause of this site, or of all sites.
    #[must_use]
    pub fn key(site: Option<&Site>) -> String {
        format!("{PREFIX}{}", site.map_or(ALL, Site::as_str))
    }
}

// === impl Pause ===

impl Pause {
    /// The value of the tag that holds it: without the characters that a tag's value may not have.
    #[must_use]
    pub fn value(&self) -> String {
        let reason = fitting_a_tag(&self.reason).take(ROOM);
        format!("{} {}", self.written(), reason.collect::<String>())
    }

    fn lasts(&self, now: DateTime<Utc>) -> bool {
        self.until > now && self.until <= now + LONGEST
    }

    fn written(&self) -> String {
        self.until.to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until {}: {}", self.written(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_from_its_tag_as_long_as_it_lasts() {
        let (b, c): (Site, Site) = ("site-b".parse().unwrap(), "site-c".parse().unwrap());
        let now: DateTime<Utc> = "2026-11-28T14:00:00Z".parse().unwrap();
        let pause = |minutes, reason: &str| Pause {
            until: now + TimeDelta::minutes(minutes),
            reason: reason.to_owned(),
        };
        let of_b = pause(120, "upgrade, CHG-42");
        assert_eq!(of_b.value(), "2026-11-28T16:00:00Z upgrade_ CHG-42");
        let mut tags = BTreeMap::from([(Pauses::key(Some(&b)), of_b.value())]);
        let pauses = Pauses::read(&tags, now);
        assert_eq!(pauses.of(&b).unwrap().to_string(), "until 2026-11-28T16:00:00Z: upgrade_ CHG-42");
        assert_eq!((pauses.of(&c), pauses.exactly(None), pauses.count()), (None, None, 1));
        assert_eq!(Pauses::read(&tags, of_b.until).count(), 0, "it has ended by itself");
        tags.insert(Pauses::key(None), pause(180, "all").value());
        let pauses = Pauses::read(&tags, now);
        assert_eq!(
            (pauses.of(&b).unwrap().reason.as_str(), pauses.of(&c).unwrap().reason.as_str()),
            ("all", "all")
        );
        for none in ["", "tomorrow x", "2036-11-28T16:00:00Z forgotten", "2026-11-28T13:59:59Z over"] {
            let tags = BTreeMap::from([(Pauses::key(Some(&b)), none.to_owned())]);
            assert_eq!(Pauses::read(&tags, now).of(&b), None, "{none}");
        }
        let long = pause(1, &"ü".repeat(300)).value();
        assert_eq!(long.chars().count(), 256);
    }
}
