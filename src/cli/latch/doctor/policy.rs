//! What a bucket's policy says of one key, as far as a checker without credentials is concerned.
//!
//! The rules are IAM's: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html>.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::policy::{conditions, is_everyone, matches, statements, texts};

/// A bucket's policy.
pub(super) struct Policy(Vec<Value>);

/// A key of a bucket, in a policy's terms.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
}

/// A statement that denies an action on an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denies<'a> {
    /// Its `Sid`, or `a statement without a Sid`.
    pub sid: String,
    /// Whether it does so under no condition.
    pub always: bool,
    /// Its conditions.
    pub conditions: Vec<Part<'a>>,
}

// === impl Policy ===

impl Policy {
    /// The policy of this document; one that is no policy has no statement.
    pub fn of(document: &str) -> Self {
        Self(statements(document))
    }

    /// The ranges of addresses from which everyone may read this object.
    pub fn shown_to(&self, key: Key<'_>) -> BTreeSet<String> {
        let allows = |statement: &&Value| {
            statement["Effect"] == "Allow"
                && is_everyone(&statement["Principal"])
                && covers(statement, "s3:GetObject", key)
        };
        // Under a further condition, no one knows whether a checker meets it.
        let ranges = |statement: &Value| {
            let conditions = statement["Condition"].as_object().filter(|conditions| conditions.len() == 1)?;
            let addresses = conditions.get("IpAddress")?.as_object().filter(|keys| keys.len() == 1)?;
            let (name, ranges) = addresses.iter().next()?;
            name.eq_ignore_ascii_case("aws:SourceIp")
                .then(|| texts(ranges).map(str::to_owned).collect::<Vec<_>>())
        };
        self.0.iter().filter(allows).filter_map(ranges).flatten().collect()
    }

    /// The statements that deny this action on this object to those who request it over TLS.
    pub fn denying(&self, action: &str, key: Key<'_>) -> Vec<Denies<'_>> {
        let hides = |statement: &&Value| {
            let of_all = |name: &str, not: &str, fits: bool| {
                fits || !statement[not].is_null() && statement[name].is_null()
            };
            statement["Effect"] == "Deny"
                && of_all("Principal", "NotPrincipal", is_everyone(&statement["Principal"]))
                && of_all("Action", "NotAction", fits_any(&statement["Action"], action))
                && of_all("Resource", "NotResource", is_in(&statement["Resource"], key))
                && !requires_tls(&statement["Condition"])
        };
        let denying = self.0.iter().filter(hides).map(|statement| {
            let is_whole =
                ["NotPrincipal", "NotAction", "NotResource"].iter().all(|not| statement[not].is_null());
            let sid = statement["Sid"].as_str().map_or("a statement without a Sid".to_owned(), str::to_owned);
            Denies {
                sid,
                conditions: parts(statement),
                always: is_whole && statement["Condition"].as_object().is_none_or(serde_json::Map::is_empty),
            }
        });
        denying.collect()
    }

    /// Whether everyone is denied this action on this object, by a condition that fits: its operator, its key and its values. Of
    /// several conditions each has to be met, so each other one has to fit `beside`.
    pub fn denies(
        &self,
        action: &str,
        key: Key<'_>,
        fits: impl Fn(&str, &str, &[&str]) -> bool,
        beside: impl Fn(&str, &str, &[&str]) -> bool,
    ) -> bool {
        self.0.iter().any(|statement| {
            let parts = parts(statement);
            let is_one = |(operator, name, values): &Part<'_>| fits(operator, name, values);
            let is_other = |(operator, name, values): &Part<'_>| beside(operator, name, values);
            statement["Effect"] == "Deny"
                && is_everyone(&statement["Principal"])
                && covers(statement, action, key)
                && parts.iter().any(is_one)
                && parts.iter().all(|part| is_one(part) || is_other(part))
        })
    }
}

/// A condition: operator, key and values.
pub(super) type Part<'a> = (&'a str, &'a str, Vec<&'a str>);

/// The conditions of a statement.
fn parts(statement: &Value) -> Vec<Part<'_>> {
    conditions(statement).map(|(operator, name, values)| (operator, name, texts(values).collect())).collect()
}

/// Whether a statement is about this action on this object.
fn covers(statement: &Value, action: &str, key: Key<'_>) -> bool {
    fits_any(&statement["Action"], action) && is_in(&statement["Resource"], key)
}

/// Whether a condition is only that the request does not use TLS, as no checker's request is.
fn requires_tls(condition: &Value) -> bool {
    let Some((operator, keys)) =
        condition.as_object().filter(|all| all.len() == 1).and_then(|all| all.iter().next())
    else {
        return false;
    };
    let is_tls = |(name, value): (&String, &Value)| {
        name.eq_ignore_ascii_case("aws:SecureTransport") && texts(value).all(|text| text == "false")
    };
    operator == "Bool" && keys.as_object().is_some_and(|keys| keys.len() == 1 && keys.iter().all(is_tls))
}

fn is_in(resources: &Value, Key { bucket, key }: Key<'_>) -> bool {
    texts(resources).any(|resource| {
        // Whatever the partition.
        let object = resource.split_once(":s3:::").map_or(resource, |(_, object)| object);
        matches(object, &format!("{bucket}/{key}"))
    })
}

fn fits_any(patterns: &Value, text: &str) -> bool {
    texts(patterns).any(|pattern| matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATCH: Key<'_> = Key { bucket: "acme", key: "latches/app" };
    const READ: &str = r#""Effect": "Allow", "Action": "s3:GetObject", "Condition": {"IpAddress": {"aws:SourceIp": ["15.177.0.0/18"]}}"#;

    fn policy(statement: &str) -> Policy {
        Policy::of(&format!(r#"{{"Statement": [{{{statement}}}]}}"#))
    }

    #[test]
    fn an_object_is_shown_to_those_ranges_that_everyone_may_read_it_from() {
        let all = r#""Principal": "*", "Resource": "arn:aws:s3:::acme/latches/*""#;
        for (statement, shown) in [
            (format!("{READ}, {all}"), true),
            (format!("{READ}, {}", all.replace(r#""*""#, r#"{"AWS": ["*"]}"#)), true),
            (format!("{READ}, {}", all.replace("arn:aws:", "arn:aws-cn:")), true),
            (format!("{READ}, {all}").replace("s3:GetObject", "s3:Get*"), true),
            (format!("{READ}, {}", all.replace("latches/*", "latches/app")), true),
            (format!("{READ}, {}", all.replace("latches/*", "control")), false),
            (format!("{READ}, {}", all.replace(r#""*""#, r#"{"AWS": "123456789012"}"#)), false),
            (format!("{READ}, {all}").replace("s3:GetObject", "s3:GetObjectVersion"), false),
            (format!("{READ}, {all}").replace("IpAddress", "NotIpAddress"), false),
            (format!("{READ}, {all}").replace("]}}", r#"]}, "Bool": {"aws:ViaAWSService": "true"}}"#), false),
            (format!("{READ}, {all}").replace("Allow", "Deny"), false),
        ] {
            assert_eq!(policy(&statement).shown_to(LATCH).contains("15.177.0.0/18"), shown, "{statement}");
        }
        assert!(Policy::of("").shown_to(LATCH).is_empty());
    }

    #[test]
    fn a_denial_hides_an_object_unless_it_is_about_plain_http() {
        let statement = |condition: &str, rest: &str| {
            policy(&format!(
                r#""Sid": "S", "Effect": "Deny", "Principal": "*", {rest}, "Condition": {condition}"#
            ))
        };
        let whole = r#""Action": "s3:*", "Resource": "arn:aws:s3:::acme/*""#;
        let hides =
            |policy: Policy| policy.denying("s3:GetObject", LATCH).first().map(|denies| denies.always);
        assert_eq!(hides(statement("{}", whole)), Some(true));
        assert_eq!(hides(statement(r#"{"Bool": {"aws:SecureTransport": "false"}}"#, whole)), None);
        assert_eq!(hides(statement(r#"{"Bool": {"aws:SecureTransport": "true"}}"#, whole)), Some(false));
        assert_eq!(hides(statement(r#"{"Bool": {"aws:SecureTransport": false}}"#, whole)), None);
        assert_eq!(hides(statement(r#"{"Bool": {"aws:SecureTransport": true}}"#, whole)), Some(false));
        assert_eq!(
            hides(statement(r#"{"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}"#, whole)),
            Some(false)
        );
        assert_eq!(
            hides(statement("{}", r#""Action": "s3:PutObject", "Resource": "arn:aws:s3:::acme/*""#)),
            None
        );
        assert_eq!(
            hides(statement("{}", r#""Action": "s3:*", "Resource": "arn:aws:s3:::acme/holds/*""#)),
            None
        );
        assert_eq!(hides(statement("{}", r#""NotAction": "s3:PutObject", "Resource": "*""#)), Some(false));
    }

    #[test]
    fn a_denial_is_of_everyone_and_of_that_key() {
        let denial = r#""Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": ["arn:aws:s3:::acme/latches/*"],
            "Condition": {"Null": {"s3:if-none-match": "true"}}"#;
        let is_null = |operator: &str, name: &str, values: &[&str]| {
            operator == "Null" && name.eq_ignore_ascii_case("s3:If-None-Match") && values == ["true"]
        };
        let denies =
            |statement: &str| policy(statement).denies("s3:PutObject", LATCH, is_null, |_, _, _| false);
        assert!(denies(denial));
        assert!(!denies(&denial.replace("latches", "holds")));
        assert!(!denies(
            &denial.replace(r#""Principal": "*""#, r#""Principal": {"AWS": "arn:aws:iam::1:user/x"}"#)
        ));
        assert!(!denies(&denial.replace("s3:PutObject", "s3:DeleteObject")));
        assert!(!denies(&denial.replace("if-none-match", "if-match")));
        assert!(!denies(&denial.replace("Deny", "Allow")));
        assert!(!denies(&denial.replace(r#""true""#, r#""false""#)));
        let narrowed =
            denial.replace(r#""true"}"#, r#""true"}, "StringEquals": {"aws:SourceVpce": "vpce-1"}"#);
        assert!(narrowed != denial && !denies(&narrowed));
    }
}
