//! Who may do what: signatures, the rights of each role, and what the bucket's policy denies the watcher.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{PercentEncodingMode, SignableBody, SigningSettings, UriPathNormalizationMode};
use hyper::header::HeaderName;
use ring::digest::{SHA256, digest};

use super::super::signature::Signed;
use super::bucket::Bucket;
use super::wire::{Asked, Failed};

/// The account that owns the buckets.
pub const OWNER: &str = "123456789012";
/// Access key ids. One with a suffix, such as `person-eve`, has the same role.
pub const WATCHER: &str = "watcher";
pub const PERSON: &str = "person";
pub const CONTROL: &str = "control";
/// A caller without credentials.
pub const ANONYMOUS: &str = "anonymous";

/// By how much the date of a signed header may be off.
const SKEW: Duration = Duration::from_mins(15);
/// The longest time for which a request can be presigned.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// How old the signature of a watcher's write may be: `s3:signatureAge` in the bucket's policy.
const AGE: Duration = Duration::from_secs(15);

/// The rights of the latch's own roles.
const RIGHTS: &[(&str, &str, &[&str])] = &[
    (WATCHER, "s3:GetObject", &["latches/", "holds/", "control"]),
    (WATCHER, "s3:ListBucket", &[""]),
    (WATCHER, "s3:PutObject", &["latches/"]),
    (PERSON, "s3:GetObject", &["latches/", "holds/", "control"]),
    (PERSON, "s3:PutObject", &["latches/", "holds/"]),
    (PERSON, "s3:DeleteObject", &["latches/", "holds/"]),
    (PERSON, "s3:ListBucket", &[""]),
    (PERSON, "s3:GetBucketLocation", &[""]),
    (PERSON, "s3:GetBucketVersioning", &[""]),
    (PERSON, "s3:GetLifecycleConfiguration", &[""]),
    (PERSON, "s3:GetBucketPolicy", &[""]),
    (PERSON, "s3:GetBucketPublicAccessBlock", &[""]),
    (CONTROL, "s3:PutObject", &["control"]),
    (ANONYMOUS, "s3:GetObject", &["latches/", "control"]),
];

/// Who may do what in a bucket: by role, actions and the prefix of the keys that each covers.
#[derive(Clone, Debug)]
pub struct Rights(BTreeMap<&'static str, Vec<(&'static str, &'static str)>>);

// === impl Rights ===

impl Default for Rights {
    /// The rights that the latch's own roles have.
    fn default() -> Self {
        let mut rights = Self(BTreeMap::new());
        for (role, action, prefixes) in RIGHTS {
            for prefix in *prefixes {
                rights.grant(role, action, prefix);
            }
        }
        rights
    }
}

impl Rights {
    pub fn grant(&mut self, role: &'static str, action: &'static str, prefix: &'static str) {
        self.0.entry(role).or_default().push((action, prefix));
    }

    pub fn revoke(&mut self, role: &str, action: &str) {
        if let Some(rights) = self.0.get_mut(role) {
            rights.retain(|(granted, _)| *granted != action);
        }
    }

    /// Whether the role has the action on this key; on the whole bucket, if there is none.
    pub fn allow(&self, role: &str, action: &str, key: Option<&str>) -> bool {
        let mut granted = self.0.get(role).into_iter().flatten().filter(|(granted, _)| *granted == action);
        granted.any(|(_, prefix)| key.unwrap_or_default().starts_with(prefix))
    }
}

/// The role of an access key id.
pub fn role(key: &str) -> &str {
    key.split('-').next().unwrap_or(key)
}

/// Lets a call in: its signature is right and not too old, the bucket is where the caller takes it to be, and the
/// caller may do this.
pub fn admit(asked: &Asked, bucket: Option<&Bucket>, now: SystemTime) -> Result<(), Failed> {
    if asked.is_signed() {
        authenticate(asked, now)?;
    }
    let bucket =
        bucket.ok_or_else(|| Failed::new(404, "NoSuchBucket", "The specified bucket does not exist"))?;
    if asked.signed.as_ref().is_some_and(|signed| signed.region != bucket.region) {
        return Err(Failed::elsewhere(&bucket.region));
    }
    if asked.header("x-amz-expected-bucket-owner").is_some_and(|owner| owner != OWNER) {
        return Err(Failed::denied("Access Denied"));
    }
    authorize(asked, bucket, now)
}

fn authenticate(asked: &Asked, now: SystemTime) -> Result<(), Failed> {
    let malformed =
        || Failed::new(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.");
    let signed = asked.signed.as_ref().filter(|signed| signed.service == "s3").ok_or_else(malformed)?;
    if ![WATCHER, PERSON, CONTROL].contains(&role(&signed.key)) {
        let message = "The AWS Access Key Id you provided does not exist in our records.";
        return Err(Failed::new(403, "InvalidAccessKeyId", message));
    }
    // The SDKs leave two out of a presigned request's signature, and S3 accepts that.
    let may_be_unsigned = ["x-amz-checksum-mode", "x-amz-user-agent"];
    let is_signed =
        |name: &str| signed.headers.iter().any(|header| header == name) || may_be_unsigned.contains(&name);
    let names = asked.parts.headers.keys().map(HeaderName::as_str);
    if names.filter(|name| name.starts_with("x-amz-")).any(|name| !is_signed(name)) {
        let message = "There were headers present in the request which were not signed";
        return Err(Failed::new(403, "AccessDenied", message));
    }
    in_time(signed, now)?;

    let payload = match (signed.valid_for, asked.header("x-amz-content-sha256")) {
        (Some(_), _) | (None, Some("UNSIGNED-PAYLOAD")) => SignableBody::UnsignedPayload,
        (None, Some(hash)) if hash.starts_with("STREAMING-") => {
            return Err(Failed::not_implemented("x-amz-content-sha256"));
        }
        (None, Some(hash)) if !is_hash_of(hash, &asked.body) => {
            let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Err(Failed::new(400, "XAmzContentSHA256Mismatch", message));
        }
        (None, Some(hash)) => SignableBody::Precomputed(hash.to_owned()),
        (None, None) => {
            let message = "Missing required header for this request: x-amz-content-sha256";
            return Err(Failed::new(400, "InvalidRequest", message));
        }
    };
    let mut settings = SigningSettings::default();
    // Unlike other services, S3 takes the path as it is.
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    if !signed.is_of(&asked.parts, payload, settings) {
        let message = "The request signature we calculated does not match the signature you provided. Check your \
                       key and signing method.";
        return Err(Failed::new(403, "SignatureDoesNotMatch", message));
    }
    Ok(())
}

/// Whether the signature is neither too old nor from the future.
fn in_time(signed: &Signed, now: SystemTime) -> Result<(), Failed> {
    let refused = |message| Err(Failed::new(403, "AccessDenied", message));
    match signed.valid_for {
        Some(valid_for) if valid_for > WEEK => Err(Failed::new(
            400,
            "AuthorizationQueryParametersError",
            "X-Amz-Expires must be less than a week (in seconds) that is 604800",
        )),
        Some(valid_for) if now > signed.at + valid_for => refused("Request has expired"),
        Some(_) if signed.at > now + SKEW => refused("Request is not yet valid"),
        None if signed.at > now + SKEW || now > signed.at + SKEW => Err(Failed::new(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )),
        _ => Ok(()),
    }
}

fn authorize(asked: &Asked, bucket: &Bucket, now: SystemTime) -> Result<(), Failed> {
    let role = asked.role();
    for (action, key) in actions(asked) {
        if !bucket.rights.allow(role, action, key) {
            return Err(Failed::denied(&format!(
                "User: {} is not authorized to perform: {action} on resource: \"arn:aws:s3:::{}/{}\" because no \
                 identity-based policy allows the {action} action",
                asked.by(),
                asked.bucket,
                asked.key
            )));
        }
    }
    if role == WATCHER && asked.operation == "PutObject" {
        let signed_at = asked.signed.as_ref().filter(|signed| signed.valid_for.is_some()).map(|one| one.at);
        let is_fresh = signed_at.is_some_and(|at| now <= at + AGE);
        let creates = !asked.key.starts_with("latches/") || asked.header("if-none-match").is_some();
        if !is_fresh || !creates {
            return Err(Failed::denied(&format!(
                "User: {} is not authorized to perform: s3:PutObject on resource: \"arn:aws:s3:::{}/{}\" with an \
                 explicit deny in a resource-based policy",
                asked.by(),
                asked.bucket,
                asked.key
            )));
        }
    }
    Ok(())
}

/// The actions that a call needs, each with the key, or the prefix of a list, that it is needed on.
fn actions(asked: &Asked) -> Vec<(&'static str, Option<&str>)> {
    let key = Some(asked.key.as_str());
    // To compare an ETag is to read it.
    let compares = asked.header("if-match").is_some_and(|etag| etag != "*");
    let read = compares.then_some(("s3:GetObject", key));
    match asked.operation {
        "HeadObject" | "GetObject" => vec![("s3:GetObject", key)],
        "PutObject" => [("s3:PutObject", key)].into_iter().chain(read).collect(),
        "DeleteObject" => [("s3:DeleteObject", key)].into_iter().chain(read).collect(),
        "ListObjectsV2" => vec![("s3:ListBucket", key)],
        "GetBucketLocation" => vec![("s3:GetBucketLocation", None)],
        "GetBucketVersioning" => vec![("s3:GetBucketVersioning", None)],
        "GetBucketLifecycleConfiguration" => vec![("s3:GetLifecycleConfiguration", None)],
        "GetPublicAccessBlock" => vec![("s3:GetBucketPublicAccessBlock", None)],
        "GetBucketPolicy" => vec![("s3:GetBucketPolicy", None)],
        _ => Vec::new(),
    }
}

fn is_hash_of(hash: &str, body: &[u8]) -> bool {
    let computed = digest(&SHA256, body);
    let digits = computed.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect::<String>() == hash
}
