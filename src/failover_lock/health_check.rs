//! A Route 53 health check: its identifier, its paths, its endpoint.

use std::fmt;
use std::str::FromStr;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::program::text::Quoted;

/// A health check's identifier: 1 to 64 ASCII letters, digits and hyphens.
///
/// Route 53 assigns UUIDs and allows at most 64 characters. The check of the alphabet keeps other texts of an
/// alarm message out of request paths, log lines and ARNs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct HealthCheckId(String);

/// A text that is not a health check's identifier.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} is not a health check id (1 to 64 letters, digits and hyphens)", Quoted(.0))]
pub struct InvalidId(String);

/// The path that a health check requests: starts with `/`, at most 255 visible ASCII characters,
/// may hold a query.
///
/// The length and the leading slash are Route 53's own rules for `ResourcePath`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ResourcePath(String);

/// A text that is not a valid path of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidPath {
    /// Route 53 requires a leading slash.
    #[error("{} does not start with /", Quoted(.0))]
    NoLeadingSlash(String),
    /// Route 53 allows at most 255 characters.
    #[error("it has {0} characters; Route 53 allows at most 255")]
    TooLong(usize),
    /// A character is invalid in a request line.
    #[error("{text} contains {bad:?}, which is invalid in a request path", text = Quoted(.0), bad = .1)]
    BadCharacter(String, char),
}

/// A health check as it is in Route 53.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Its identifier.
    pub id: HealthCheckId,
    /// The version that an update must name: it starts at 1 and each update adds one.
    pub version: i64,
    /// Its type as Route 53 spells it, for example `HTTPS_STR_MATCH`.
    pub check_type: String,
    /// The endpoint that it requests; `None` for types that request no path.
    pub endpoint: Option<Endpoint>,
    /// Whether unhealthy counts as healthy.
    pub inverted: bool,
    /// Whether Route 53 has stopped checking and treats it as healthy.
    pub disabled: bool,
    /// How long its checkers need to change their verdict: `FailureThreshold` × `RequestInterval`, in both
    /// directions.
    pub turns_within: TimeDelta,
}

/// The endpoint of a health check of a type with a path, and how it is requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The path it requests at present.
    pub path: String,
    /// Whether it speaks TLS.
    pub https: bool,
    /// The address it connects to; without one, the domain name is resolved.
    pub ip_address: Option<String>,
    /// The name it sends as `Host` and, where `sni` is set, in the TLS handshake.
    pub domain_name: Option<String>,
    /// The TCP port.
    pub port: u16,
    /// Whether the TLS handshake names `domain_name`.
    pub sni: bool,
    /// The text that the first 5,120 bytes of the body must hold.
    pub search_string: Option<String>,
}

// === impl HealthCheckId ===

impl HealthCheckId {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HealthCheckId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let fits = (1..=64).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(text))
        } else {
            Err(InvalidId(text))
        }
    }
}

impl FromStr for HealthCheckId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl fmt::Display for HealthCheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ResourcePath ===

impl ResourcePath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ResourcePath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        if !text.starts_with('/') {
            return Err(InvalidPath::NoLeadingSlash(text));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            return Err(InvalidPath::BadCharacter(text, bad));
        }
        if text.len() > 255 {
            return Err(InvalidPath::TooLong(text.len()));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    /// The version that a check is created with.
    pub const FIRST_VERSION: i64 = 1;

    /// The path it requests at present; `None` for types that request none.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|endpoint| endpoint.path.as_str())
    }

    /// Whether it is as it was created: no call ever set its path, including a lock and a restore.
    ///
    /// The version is [1 at first and grows with each update][1].
    ///
    /// [1]: https://docs.aws.amazon.com/Route53/latest/APIReference/API_UpdateHealthCheck.html
    #[must_use]
    pub fn was_never_changed(&self) -> bool {
        self.version == Self::FIRST_VERSION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_letters_digits_and_hyphens_only() {
        for good in ["233e180f-f023-45a3-954e-415303f21eab", "a", &"x".repeat(64)] {
            assert!(HealthCheckId::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in
            ["", "../hostedzone/Z1", "a/b", "a?b", "a%2fb", "a b", "a\r\nb", "a\0", "ａ", &"x".repeat(65)]
        {
            assert!(HealthCheckId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_follows_route_53s_rules() {
        let parse = |text: &str| ResourcePath::try_from(text.to_owned());
        assert_eq!(parse("/lb-check?deep=1").unwrap().as_str(), "/lb-check?deep=1");
        assert_eq!(parse("lb-check"), Err(InvalidPath::NoLeadingSlash("lb-check".to_owned())));
        assert_eq!(parse(""), Err(InvalidPath::NoLeadingSlash(String::new())));
        assert!(parse(&format!("/{}", "a".repeat(254))).is_ok());
        assert_eq!(parse(&format!("/{}", "a".repeat(255))), Err(InvalidPath::TooLong(256)));
        assert!(matches!(parse("/a b"), Err(InvalidPath::BadCharacter(_, ' '))));
    }
}
