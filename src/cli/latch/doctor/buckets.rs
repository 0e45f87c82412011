//! The buckets of a latch: what would open a lock by itself, or hide it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus};

use super::policy::{Denies, Key, Policy};
use super::{ANEW, DEPLOY, Doctor};
use crate::cli::policy::matches;
use crate::cli::session::patience;
use crate::latch::config::{Bucket, HOLDS};
use crate::latch::seen::Object;
use crate::remote::aws::{Call, send};

impl Doctor<'_> {
    /// What would open a lock by itself, or hide it.
    pub(super) async fn bucket(&mut self, at: usize, bucket: &Bucket) {
        const NAME: &str = "bucket";
        let (client, owner) =
            (self.latches.s3.bucket(at).1.clone(), self.latches.config.bucket_owner.clone());
        let control = self.latches.s3.read(at, "", &["control"]).await.objects.remove(0);
        match control {
            Object::Present(_) => self
                .findings
                .ok(NAME, format!("{bucket} in {} answers, and has its control object", bucket.region)),
            Object::Absent => self.findings.wrong(
                NAME,
                format!("{bucket} has no control object: whether the checkers see objects is unknown"),
                format!("{DEPLOY} {}", self.latch.name),
            ),
            Object::Invisible(cause) | Object::Silent(cause) => return self.findings.unknown(NAME, &cause),
        }
        let call = Call::new("s3:GetBucketVersioning", "the bucket");
        match send(call, patience().left(), client.get_bucket_versioning().bucket(&bucket.name).set_expected_bucket_owner(owner.clone()).send()).await {
            Ok(versioning) if versioning.status() == Some(&BucketVersioningStatus::Enabled) => {}
            Ok(_) => self.findings.wrong(
                NAME,
                format!("{bucket} keeps no versions: who opened a lock, and when, is lost"),
                format!("aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled --region {}", bucket.region),
            ),
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        let call = Call::new("s3:GetLifecycleConfiguration", "the bucket");
        let rules = client
            .get_bucket_lifecycle_configuration()
            .bucket(&bucket.name)
            .set_expected_bucket_owner(owner.clone())
            .send();
        match send(call, patience().left(), rules).await {
            Ok(rules) => {
                let expires = rules.rules().iter().find(|rule| {
                    rule.status() == &ExpirationStatus::Enabled
                        && (rule.expiration().is_some_and(|expiration| {
                            expiration.days().is_some() || expiration.date().is_some()
                        }) || !rule.transitions().is_empty())
                });
                if let Some(rule) = expires {
                    self.findings.wrong(
                        NAME,
                        format!(
                            "{bucket}: the lifecycle rule {:?} removes or moves objects, which opens a lock",
                            rule.id().unwrap_or("without a name")
                        ),
                        ANEW.to_owned(),
                    );
                }
            }
            Err(failure) if failure.to_string().contains("NoSuchLifecycleConfiguration") => {}
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        self.public_access(&client, bucket).await;
        self.policy(&client, bucket).await;
    }

    /// Whether a policy that is public would be refused. The latch's own names fixed ranges, which is not public.
    async fn public_access(&mut self, client: &aws_sdk_s3::Client, bucket: &Bucket) {
        const NAME: &str = "bucket";
        let owner = self.latches.config.bucket_owner.clone();
        let call = Call::new("s3:GetBucketPublicAccessBlock", "the bucket");
        let asked =
            client.get_public_access_block().bucket(&bucket.name).set_expected_bucket_owner(owner).send();
        let blocks = match send(call, patience().left(), asked).await {
            Ok(found) => found.public_access_block_configuration().is_some_and(|blocks| {
                [
                    blocks.block_public_acls(),
                    blocks.ignore_public_acls(),
                    blocks.block_public_policy(),
                    blocks.restrict_public_buckets(),
                ]
                .iter()
                .all(|on| *on == Some(true))
            }),
            Err(failure) if failure.to_string().contains("NoSuchPublicAccessBlockConfiguration") => false,
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        if !blocks {
            self.findings.wrong(
                NAME,
                format!("Block Public Access is not wholly on for {bucket}: a mistake in its policy would let everyone in"),
                format!(
                    "aws s3api put-public-access-block --bucket {bucket} --region {} --public-access-block-configuration \
                     BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true",
                    bucket.region
                ),
            );
        }
    }

    /// Adds the denials of a watcher's write that are not the template's.
    fn refused(&mut self, policy: &Policy, bucket: &Bucket, again: &str) {
        const NAME: &str = "policy";
        let latch = self.latch.key();
        let key = Key { bucket: &bucket.name, key: &latch };
        for denies in policy.denying("s3:PutObject", key) {
            let found = format!("{}, in the policy of {bucket}, denies s3:PutObject on {latch}", denies.sid);
            if denies.always {
                self.findings.wrong(NAME, format!("{found}: no lock is set there"), again.to_owned());
            } else if !is_templates(&denies) {
                let why =
                    format!("{found} under a condition, and whether a watcher meets that is not judged here");
                self.findings.unknown(NAME, &why);
            }
        }
    }

    /// Whether every checker may read the objects, and whether a late write is refused.
    async fn policy(&mut self, client: &aws_sdk_s3::Client, bucket: &Bucket) {
        const NAME: &str = "policy";
        let again = format!("{DEPLOY} {}; if that changes nothing: {ANEW}", self.latch.name);
        let owner = self.latches.config.bucket_owner.clone();
        let account = owner.as_deref().unwrap_or("000000000000");
        let anyone = format!("arn:aws:iam::{account}:role/of-no-one");
        let by_others: Fits<'_> = &|operator, name, values| is_by_others(&anyone, operator, name, values);
        let call = Call::new("s3:GetBucketPolicy", "the bucket");
        let policy = send(
            call,
            patience().left(),
            client.get_bucket_policy().bucket(&bucket.name).set_expected_bucket_owner(owner).send(),
        )
        .await;
        let policy = match policy {
            Ok(policy) => policy.policy.unwrap_or_default(),
            Err(failure) if failure.to_string().contains("NoSuchBucketPolicy") => String::new(),
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        let policy = Policy::of(&policy);
        let latch = self.latch.key();
        let hold = format!("{HOLDS}{}", self.latch.name);
        let key = |key| Key { bucket: &bucket.name, key };
        for (action, of, fits, what) in [
            ("s3:PutObject", &latch, &is_age as Fits<'_>, "a write that outlives its look"),
            ("s3:PutObject", &latch, &is_presigned, "a write that is not presigned"),
            ("s3:PutObject", &latch, &is_new, "a write that replaces an object"),
            (
                "s3:DeleteObject",
                &latch,
                by_others,
                "a deletion by another principal than the people, which opens a lock",
            ),
            (
                "s3:DeleteObjectVersion",
                &latch,
                by_others,
                "a deletion of a version by another principal than the people",
            ),
            (
                "s3:PutObject",
                &hold,
                by_others,
                "a hold by another principal than the people, under which nothing locks",
            ),
        ] {
            if !policy.denies(action, key(of), fits, by_others) {
                self.findings.wrong(NAME, format!("{bucket} does not deny {what}"), again.clone());
            }
        }
        self.refused(&policy, bucket, &again);
        let hiding = policy.denying("s3:GetObject", key(&latch));
        for denies in &hiding {
            let found = format!("{}, in the policy of {bucket}, denies s3:GetObject on {latch}", denies.sid);
            if denies.always {
                let found = format!("{found}: the checkers see no lock there");
                self.findings.wrong(NAME, found, again.clone());
            } else {
                let why =
                    format!("{found} under a condition, and whether a checker meets that is not judged here");
                self.findings.unknown(NAME, &why);
            }
        }
        let (of_latch, of_control) = (policy.shown_to(key(&latch)), policy.shown_to(key("control")));
        let call = Call::new("route53:GetCheckerIpRanges", "Route 53");
        let route53 = aws_sdk_route53::Client::new(&self.latches.control_plane());
        match send(call, patience().left(), route53.get_checker_ip_ranges().send()).await {
            Ok(current) => {
                let missing: Vec<_> = current
                    .checker_ip_ranges()
                    .iter()
                    .filter(|range| {
                        range.contains('.') && !(is_shown(&of_latch, range) && is_shown(&of_control, range))
                    })
                    .cloned()
                    .collect();
                // Block Public Access takes a range of more than a /8 for public, and refuses it.
                // https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html
                let public = of_latch.iter().find(|range| bits(range).is_some_and(|bits| bits < 8));
                if let Some(range) = public {
                    let found = format!(
                        "{bucket} names {range}, which Block Public Access takes for public, and refuses"
                    );
                    self.findings.wrong(NAME, found, again);
                } else if missing.is_empty() && hiding.is_empty() {
                    self.findings
                        .ok(NAME, format!("{bucket} shows its objects to all of Route 53's checkers"));
                } else if !missing.is_empty() {
                    self.findings.wrong(
                        NAME,
                        format!("{bucket} hides its objects from the checkers in {}", missing.join(", ")),
                        again,
                    );
                }
            }
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
    }
}

/// Whether a condition, by operator, key and values, is a certain one.
type Fits<'a> = &'a dyn Fn(&str, &str, &[&str]) -> bool;

/// How a watcher's write is made: signature and encryption. It names no storage class.
const MADE: [(&str, &str); 2] =
    [("s3:signatureversion", "AWS4-HMAC-SHA256"), ("s3:x-amz-server-side-encryption", "AES256")];

/// Whether a denial of a write is one of the template's, which a watcher's write meets.
fn is_templates(denies: &Denies<'_>) -> bool {
    // What a write needs from its signing to its arrival.
    let is_long = |age: &&str| age.parse::<u64>().is_ok_and(|age| age >= 5_000);
    denies.conditions.iter().any(|(operator, name, values)| {
        (is_age(operator, name, values) && values.iter().all(is_long))
            || is_presigned(operator, name, values)
            || is_new(operator, name, values)
            || (*operator == "Null"
                && name.eq_ignore_ascii_case("s3:x-amz-storage-class")
                && *values == ["false"])
            || MADE.iter().any(|(of, value)| {
                *operator == "StringNotEquals" && name.eq_ignore_ascii_case(of) && *values == [*value]
            })
    })
}

/// A signature older than a look, in milliseconds.
fn is_age(operator: &str, name: &str, values: &[&str]) -> bool {
    let is_short = |age: &&str| age.parse::<u64>().is_ok_and(|age| age <= 15_000);
    !values.is_empty()
        && operator.starts_with("NumericGreaterThan")
        && name.eq_ignore_ascii_case("s3:signatureAge")
        && values.iter().all(is_short)
}

fn is_presigned(operator: &str, name: &str, values: &[&str]) -> bool {
    operator == "StringNotEquals"
        && name.eq_ignore_ascii_case("s3:authType")
        && values == ["REST-QUERY-STRING"]
}

fn is_new(operator: &str, name: &str, values: &[&str]) -> bool {
    operator == "Null" && name.eq_ignore_ascii_case("s3:if-none-match") && values == ["true"]
}

/// Every principal but some, and not all of them.
fn is_by_others(anyone: &str, operator: &str, name: &str, values: &[&str]) -> bool {
    // Whatever the partition.
    let all = |arn: &str| arn.split_once(":iam::").map_or(arn, |(_, rest)| rest).to_owned();
    let is_anyone = |pattern: &&str| matches(pattern, anyone) || matches(&all(pattern), &all(anyone));
    let excepts = ["ArnNotLike", "ArnNotEquals", "StringNotLike", "StringNotEquals"].contains(&operator);
    excepts && name.eq_ignore_ascii_case("aws:PrincipalArn") && !values.iter().any(is_anyone)
}

/// The length of a range's prefix.
fn bits(range: &str) -> Option<u32> {
    range.split_once('/')?.1.parse().ok()
}

/// Whether one of these ranges of addresses contains all of another one.
fn is_shown(ranges: &BTreeSet<String>, range: &str) -> bool {
    ranges.iter().any(|shown| covers(shown, range))
}

/// Whether a range of addresses contains all of another one.
fn covers(range: &str, other: &str) -> bool {
    let read = |text: &str| {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        Some((
            u32::from(address.parse::<Ipv4Addr>().ok()?),
            bits.parse::<u32>().ok().filter(|bits| *bits <= 32)?,
        ))
    };
    let (Some((first, bits)), Some((other, of_other))) = (read(range), read(other)) else { return false };
    let network = |address: u32| address.checked_shr(32 - bits).unwrap_or(0);
    bits <= of_other && network(first) == network(other)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_templates_denials_are_met_by_a_watchers_write_and_others_may_not_be() {
        let template =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/infra/latch-region.yaml")).unwrap();
        for (name, value) in MADE {
            assert!(template.contains(name) && template.contains(value), "{name}");
        }
        let denies = |operator: &str, name: &str, value: &str| {
            let conditions = vec![(operator, name, vec![value])];
            is_templates(&Denies { sid: String::new(), always: false, conditions })
        };
        for (operator, name, value, is_met) in [
            ("NumericGreaterThan", "s3:signatureAge", "15000", true),
            ("NumericGreaterThan", "s3:signatureAge", "0", false),
            ("StringNotEquals", "s3:authType", "REST-QUERY-STRING", true),
            ("Null", "s3:if-none-match", "true", true),
            ("StringNotEquals", "s3:signatureversion", "AWS4-HMAC-SHA256", true),
            ("StringNotEquals", "s3:x-amz-server-side-encryption", "AES256", true),
            ("StringNotEquals", "s3:x-amz-server-side-encryption", "aws:kms", false),
            ("Null", "s3:x-amz-storage-class", "false", true),
            // True also of a request that names no class.
            ("StringNotEquals", "s3:x-amz-storage-class", "STANDARD", false),
            ("StringNotEquals", "aws:SourceVpce", "vpce-1", false),
        ] {
            assert_eq!(denies(operator, name, value), is_met, "{operator} {name} {value}");
        }
    }

    #[test]
    fn a_range_covers_the_ranges_inside_it() {
        for (range, other, covered) in [
            ("15.177.0.0/18", "15.177.0.0/18", true),
            ("15.177.0.0/18", "15.177.63.192/26", true),
            ("15.177.0.0/18", "15.177.64.0/26", false),
            ("15.177.0.0/26", "15.177.0.0/18", false),
            ("0.0.0.0/0", "54.183.255.128/26", true),
            ("15.177.0.1", "15.177.0.1/32", true),
            ("nonsense", "15.177.0.1/32", false),
            ("15.177.0.0/99", "15.177.0.1/32", false),
        ] {
            assert_eq!(covers(range, other), covered, "{range} {other}");
        }
    }
}
