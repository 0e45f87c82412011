//! The room for the record on a check, which may have ten tags, and what a write of it removes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{FORMER, IN, OUT, RESTORED_AT, Record};

/// [How many tags a health check may have][1].
///
/// [1]: https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeTagsForResource.html
const MOST_TAGS: usize = 10;

/// Whether the tag `key` can be written to a check with these tags while all of them stay.
#[must_use]
pub fn fits_beside(tags: &BTreeMap<String, String>, key: &str) -> bool {
    tags.contains_key(key) || tags.len() < MOST_TAGS
}

/// Whether a check with these tags has no room for the tag `key`, when those of the former record are removed.
#[must_use]
pub fn has_no_room(tags: &BTreeMap<String, String>, key: &str) -> bool {
    let others = tags.keys().filter(|other| *other != key && !FORMER.contains(&other.as_str()));
    others.count() >= MOST_TAGS
}

/// Whether no lock can be recorded on a check with these tags. A lock's record takes the place of a restore's, if it must.
#[must_use]
pub fn takes_no_lock(tags: &BTreeMap<String, String>) -> bool {
    has_no_room(tags, OUT) && !tags.contains_key(IN)
}

/// The tags to remove when a tag of this record is written: those of the former record, and `other`. A restore by hand
/// that is newer than `since` stays.
#[must_use]
pub fn removed(record: Option<&Record>, since: Option<DateTime<Utc>>, other: Option<&str>) -> Vec<String> {
    let former = record.is_none_or(|record| record.former);
    let by_hand = record.and_then(|record| record.by_hand).is_some_and(|at| Some(at) > since);
    let former = FORMER.into_iter().filter(|key| former && !(by_hand && *key == RESTORED_AT));
    former.chain(other).map(str::to_owned).collect()
}
