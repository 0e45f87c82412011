//! How a person names a health check: by its id, or by its tag `Name`.

use std::collections::BTreeMap;
use std::str::FromStr;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::error::Error;
use super::guard::Guard;
use super::session::{AT_ONCE, shortly};
use super::text::plain;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::route53::MOST_TAGGED;
use crate::remote::aws::{Failure, Kind};

/// The tag that AWS's console shows as a health check's name.
const NAME: &str = "Name";

/// A check's tags, by key.
pub(super) type Tags = BTreeMap<String, String>;

/// A health check as a person has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// By its id.
    Id(HealthCheckId),
    /// By its tag `Name`.
    Name(String),
}

/// The name in these tags.
pub(super) fn of(tags: &Tags) -> Option<&str> {
    tags.get(NAME).map(String::as_str).filter(|name| !name.trim().is_empty())
}

/// The tags of a page of checks: in one call, or check by check where that call is not permitted, not known to an
/// emulator, or fails because one check is gone.
pub(super) async fn tags_of(
    guard: &Guard,
    page: &[HealthCheckId],
) -> Result<BTreeMap<HealthCheckId, Tags>, Failure> {
    match guard.route53.tags_of(page, shortly()).await {
        Err(failure)
            if matches!(failure.kind(), Kind::Denied | Kind::Refused | Kind::NotFound)
                && !failure.blames_credentials() =>
        {
            let read = page.iter().map(async |id| match guard.route53.tags(id, shortly()).await {
                Ok(tags) => Ok(Some((id.clone(), tags))),
                Err(gone) if gone.kind() == Kind::NotFound => Ok(None),
                Err(failure) => Err(failure),
            });
            let read: Vec<_> = stream::iter(read).buffered(AT_ONCE).try_collect().await?;
            Ok(read.into_iter().flatten().collect())
        }
        read => read,
    }
}

/// A check in a question, with its name if its tags were read and have one.
pub(super) fn title(id: &HealthCheckId, tags: Option<&Tags>) -> String {
    match tags.and_then(of) {
        Some(name) => format!("{} ({id})", plain(name)),
        None => id.to_string(),
    }
}

// === impl Named ===

impl Named {
    /// The id of the check.
    ///
    /// # Errors
    /// None, or more than one, has this name.
    pub async fn find(&self, guard: &Guard) -> Result<HealthCheckId, Error> {
        let name = match self {
            Self::Id(id) => return Ok(id.clone()),
            Self::Name(name) => name,
        };
        let checks = guard.route53.health_checks(shortly()).await.map_err(Error::Names)?;
        let ids: Vec<_> = checks.into_iter().map(|HealthCheck { id, .. }| id).collect();
        let read = ids.chunks(MOST_TAGGED).map(|page| tags_of(guard, page));
        let read: Vec<_> = stream::iter(read).buffered(AT_ONCE).try_collect().await.map_err(Error::Names)?;
        let tagged = read.into_iter().flatten().filter(|(_, tags)| of(tags) == Some(name));
        let mut found: Vec<_> = tagged.map(|(id, _)| id).collect();
        if found.is_empty() {
            found = ids.into_iter().filter(|id| id.as_str() == name).collect();
        }
        match found.len() {
            0 => {
                let context = guard.session.screen.context().await;
                let account = context.map(|context| context.account()).unwrap_or_default();
                Err(Error::NoCheck { name: name.clone(), account })
            }
            1 => Ok(found.swap_remove(0)),
            _ => Err(Error::SeveralChecks { name: name.clone(), ids: found }),
        }
    }
}

impl FromStr for Named {
    type Err = String;

    /// Route 53's ids are UUIDs; everything else is a name.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        match HealthCheckId::try_from(text.to_owned()) {
            Ok(id) if is_uuid => Ok(Self::Id(id)),
            _ if text.trim().is_empty() => Err("it is neither an id nor a name".to_owned()),
            _ => Ok(Self::Name(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_an_id_and_anything_else_a_name() {
        let id = "233e180f-f023-45a3-954e-415303f21eab";
        assert!(matches!(id.parse(), Ok(Named::Id(_))));
        for name in ["primary", "the primary", "233e180f", "233e180f-f023-45a3-954e-415303f21eax", "../x"] {
            assert_eq!(name.parse(), Ok(Named::Name(name.to_owned())));
        }
        assert!(" ".parse::<Named>().is_err());
    }
}
