//! Basic authentication of the sender of alerts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use thiserror::Error;

/// A request's credentials. They have no `Debug`: no part of them is ever logged.
pub struct Credentials {
    user: String,
    password: String,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// It has no credentials, or none for basic authentication.
    #[error("the request has no credentials for basic authentication")]
    None,
    /// The credentials are wrong.
    #[error("the user name or the password is wrong")]
    Wrong,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the header `Authorization`, as [RFC 7617][1] has it.
    ///
    /// # Errors
    /// The header is missing, or it is not for basic authentication.
    ///
    /// [1]: https://www.rfc-editor.org/rfc/rfc7617
    pub fn read(header: Option<&[u8]>) -> Result<Self, Denied> {
        let read = || {
            let (scheme, encoded) = str::from_utf8(header?).ok()?.trim().split_once(' ')?;
            let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()))?;
            let decoded = String::from_utf8(decoded.ok()?).ok()?;
            let (user, password) = decoded.split_once(':')?;
            Some(Self { user: user.to_owned(), password: password.to_owned() })
        };
        read().ok_or(Denied::None)
    }

    /// Whether both are right. The time that this takes depends on their lengths, but not on where they differ, and
    /// a wrong user name takes as long as a wrong password.
    #[must_use]
    pub fn are(&self, user: &str, password: &str) -> bool {
        let user = self.user.as_bytes().ct_eq(user.as_bytes());
        let password = self.password.as_bytes().ct_eq(password.as_bytes());
        (user & password).into()
    }
}

/// The header `Authorization` of basic authentication.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_must_be_right() {
        let sent = |user, password| {
            let header = basic(user, password);
            Credentials::read(Some(header.as_bytes())).unwrap().are("alertmanager", "s3:cret")
        };
        assert!(sent("alertmanager", "s3:cret"));
        for (user, password) in [
            ("alertmanager", "changeme"),
            ("alertmanager", ""),
            ("alertmanager", "s3:cre"),
            ("other", "s3:cret"),
            ("", ""),
        ] {
            assert!(!sent(user, password), "{user} {password}");
        }
    }

    #[test]
    fn a_header_that_is_not_basic_authentication_is_refused() {
        let latin1 = format!("Basic {}", STANDARD.encode(b"user:\xff"));
        for header in [
            None,
            Some(""),
            Some("Basic"),
            Some("Basic %%%"),
            Some("Bearer dXNlcjpwYXNz"),
            Some("Basic dXNlcg=="),
            Some(latin1.as_str()),
        ] {
            assert_eq!(Credentials::read(header.map(str::as_bytes)).err(), Some(Denied::None), "{header:?}");
        }
        assert!(Credentials::read(Some(b"basic  dXNlcjpwYXNz ")).unwrap().are("user", "pass"));
    }
}
