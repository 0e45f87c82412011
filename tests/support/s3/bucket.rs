//! A bucket: its objects with their versions, and what each operation does to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use aws_smithy_types::base64;
use hyper::body::Bytes;
use ring::digest::{SHA256, digest};

use super::super::rest_xml::escape;
use super::Down;
use super::access::Rights;
use super::wire::{Asked, Done, Failed, http_date, iso_date};

/// How many keys a list has at most.
const PAGE: usize = 1000;

pub struct Bucket {
    pub region: String,
    pub versioned: bool,
    /// Whether its Object Lock gives each object a retention.
    pub retains: bool,
    pub lifecycle: Option<String>,
    pub blocks_public_access: bool,
    pub policy: Option<String>,
    pub rights: Rights,
    pub down: Option<Down>,
    /// Seconds by which its clock is ahead.
    pub ahead: i64,
    /// By key, the oldest version first. Deletions are kept for tests in a bucket without versions, too.
    objects: BTreeMap<String, Vec<Version>>,
    /// How many versions it has had.
    versions: u64,
}

/// A version of an object, or a deletion.
#[derive(Clone, Debug)]
pub struct Version {
    pub id: String,
    /// In quotes. Equal bodies have equal `ETag`s, as S3's have.
    pub etag: String,
    pub modified: SystemTime,
    /// `None` for a deletion.
    pub body: Option<Bytes>,
    pub content_type: String,
    /// `AES256` unless set.
    pub encryption: String,
    /// The access key id of its writer; `test` for the test itself.
    pub by: String,
}

// === impl Version ===

impl Version {
    pub fn new(body: Bytes, modified: SystemTime) -> Self {
        Self {
            id: String::new(),
            etag: etag(&body),
            modified,
            body: Some(body),
            content_type: "binary/octet-stream".to_owned(),
            encryption: "AES256".to_owned(),
            by: "test".to_owned(),
        }
    }

    /// The body as text; empty for a deletion.
    pub fn text(&self) -> String {
        self.body.as_ref().map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default()
    }

    pub fn is_deletion(&self) -> bool {
        self.body.is_none()
    }

    /// Whether `If-Match` with this value lets a write pass.
    fn matches(&self, wanted: &str) -> bool {
        wanted == "*" || wanted.trim_matches('"') == self.etag.trim_matches('"')
    }
}

/// S3's is the MD5 of the body with this encryption; all that a client may count on is that the body decides.
fn etag(body: &[u8]) -> String {
    let mut etag = "\"".to_owned();
    for byte in &digest(&SHA256, body).as_ref()[..16] {
        let _ = write!(etag, "{byte:02x}");
    }
    etag + "\""
}

// === impl Bucket ===

impl Bucket {
    pub fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            versioned: true,
            retains: false,
            lifecycle: None,
            blocks_public_access: true,
            policy: None,
            rights: Rights::default(),
            down: None,
            ahead: 0,
            objects: BTreeMap::new(),
            versions: 0,
        }
    }

    pub fn history(&self, key: &str) -> &[Version] {
        self.objects.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn object(&self, key: &str) -> Option<&Version> {
        self.history(key).last().filter(|version| !version.is_deletion())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str).filter(|key| self.object(key).is_some())
    }

    pub fn put(&mut self, key: &str, version: Version) -> Version {
        self.versions += 1;
        let version = Version { id: format!("version-{}", self.versions), ..version };
        self.objects.entry(key.to_owned()).or_default().push(version.clone());
        version
    }

    pub fn delete(&mut self, key: &str, now: SystemTime, by: &str) -> Version {
        let deletion = Version { body: None, by: by.to_owned(), ..Version::new(Bytes::new(), now) };
        self.put(key, Version { etag: String::new(), ..deletion })
    }

    /// Does what a call asks for that was let in.
    pub fn perform(&mut self, asked: &Asked, now: SystemTime) -> Result<Done, Failed> {
        match asked.operation {
            "HeadObject" | "GetObject" => self.get(asked),
            "PutObject" => self.put_object(asked, now),
            "DeleteObject" => self.delete_object(asked, now),
            "ListObjectsV2" => self.list(asked),
            "GetBucketLocation" => {
                // The first Region has no name here.
                let region = if self.region == "us-east-1" { "" } else { self.region.as_str() };
                Ok(Done::xml("LocationConstraint", region))
            }
            "GetBucketVersioning" => {
                let status = if self.versioned { "<Status>Enabled</Status>" } else { "" };
                Ok(Done::xml("VersioningConfiguration", status))
            }
            "GetBucketLifecycleConfiguration" => {
                let rules = self.lifecycle.as_deref().ok_or_else(|| {
                    Failed::new(
                        404,
                        "NoSuchLifecycleConfiguration",
                        "The lifecycle configuration does not exist",
                    )
                })?;
                Ok(Done::xml("LifecycleConfiguration", rules))
            }
            "GetPublicAccessBlock" => {
                let blocks = self.blocks_public_access;
                Ok(Done::xml(
                    "PublicAccessBlockConfiguration",
                    &format!(
                        "<BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls>\
                         <BlockPublicPolicy>{blocks}</BlockPublicPolicy>\
                         <RestrictPublicBuckets>true</RestrictPublicBuckets>"
                    ),
                ))
            }
            "GetBucketPolicy" => {
                let policy = self.policy.clone().ok_or_else(|| {
                    Failed::new(404, "NoSuchBucketPolicy", "The bucket policy does not exist")
                })?;
                Ok(Done::new(200).with("content-type", "application/json").body(policy.into()))
            }
            _ => Err(Failed::not_served()),
        }
    }

    fn get(&self, asked: &Asked) -> Result<Done, Failed> {
        let Some((version, body)) = self.object(&asked.key).and_then(|one| Some((one, one.body.clone()?)))
        else {
            return Err(self.absent(asked));
        };
        if version.encryption.starts_with("aws:kms") && asked.signed.is_none() {
            let message = "Requests specifying Server Side Encryption with AWS KMS managed keys require AWS \
                           Signature Version 4.";
            return Err(Failed::new(400, "InvalidArgument", message));
        }
        let done = Done::new(200)
            .with("etag", &version.etag)
            .with("last-modified", &http_date(version.modified))
            .with("content-type", &version.content_type)
            .with("x-amz-server-side-encryption", &version.encryption);
        Ok(self.of_version(done, version).body(body))
    }

    /// 404 only for a caller that may list the whole bucket; a right to list below a prefix does not count here.
    fn absent(&self, asked: &Asked) -> Failed {
        if !self.rights.allow(asked.role(), "s3:ListBucket", None) {
            return Failed::denied("Access Denied");
        }
        match self.history(&asked.key).last() {
            Some(deletion) if self.versioned => Failed::no_such_key()
                .with("x-amz-delete-marker", "true")
                .with("x-amz-version-id", &deletion.id),
            _ => Failed::no_such_key(),
        }
    }

    fn put_object(&mut self, asked: &Asked, now: SystemTime) -> Result<Done, Failed> {
        let hash = base64::encode(digest(&SHA256, &asked.body));
        match asked.header("x-amz-checksum-sha256") {
            Some(given) if given != hash => {
                return Err(Failed::new(
                    400,
                    "BadDigest",
                    "The SHA256 you specified did not match the calculated checksum.",
                ));
            }
            None if self.retains => {
                let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
                return Err(Failed::new(400, "InvalidRequest", message));
            }
            _ => {}
        }
        let current = self.object(&asked.key);
        match asked.header("if-none-match") {
            Some("*") if current.is_some() => return Err(Failed::precondition("If-None-Match")),
            Some("*") | None => {}
            Some(_) => return Err(Failed::not_implemented("If-None-Match")),
        }
        match (asked.header("if-match"), current) {
            (Some(_), None) => return Err(Failed::no_such_key()),
            (Some(wanted), Some(current)) if !current.matches(wanted) => {
                return Err(Failed::precondition("If-Match"));
            }
            _ => {}
        }
        let mut version = Version { by: asked.by().to_owned(), ..Version::new(asked.body.clone(), now) };
        if let Some(content_type) = asked.header("content-type") {
            content_type.clone_into(&mut version.content_type);
        }
        if let Some(encryption) = asked.header("x-amz-server-side-encryption") {
            encryption.clone_into(&mut version.encryption);
        }
        let version = self.put(&asked.key, version);
        let done = Done::new(200)
            .with("etag", &version.etag)
            .with("x-amz-server-side-encryption", &version.encryption);
        Ok(self.of_version(done, &version))
    }

    fn delete_object(&mut self, asked: &Asked, now: SystemTime) -> Result<Done, Failed> {
        if let Some(wanted) = asked.header("if-match") {
            match self.history(&asked.key).last() {
                None => return Err(Failed::no_such_key()),
                Some(current) if current.is_deletion() && !self.versioned => {
                    return Err(Failed::no_such_key());
                }
                Some(current) if current.is_deletion() || !current.matches(wanted) => {
                    return Err(Failed::precondition("If-Match"));
                }
                Some(_) => {}
            }
        }
        let done = Done::new(204);
        if !self.versioned {
            if self.object(&asked.key).is_some() {
                self.delete(&asked.key, now, asked.by());
            }
            return Ok(done);
        }
        // A versioned bucket adds a marker whether there was an object or not.
        let marker = self.delete(&asked.key, now, asked.by());
        Ok(self.of_version(done.with("x-amz-delete-marker", "true"), &marker))
    }

    fn list(&self, asked: &Asked) -> Result<Done, Failed> {
        let invalid = |what: &str| Failed::new(400, "InvalidArgument", what);
        if asked.parameter("delimiter").is_some() {
            return Err(Failed::not_implemented("delimiter"));
        }
        let limit = match asked.parameter("max-keys") {
            Some(text) => text.parse::<usize>().map_err(|_| invalid("Provided max-keys not an integer"))?,
            None => PAGE,
        };
        let limit = limit.min(PAGE);
        let after = match asked.parameter("continuation-token") {
            Some(token) => token
                .strip_prefix("after:")
                .ok_or_else(|| invalid("The continuation token provided is incorrect"))?,
            None => asked.parameter("start-after").unwrap_or_default(),
        };
        let found = self.keys().filter(|key| key.starts_with(&asked.key) && *key > after);
        let found: Vec<_> = found.take(limit + 1).collect();
        let is_truncated = found.len() > limit && limit > 0;
        let page = &found[..found.len().min(limit)];
        let mut list = format!("<Prefix>{}</Prefix>", escape(&asked.key));
        let _ = write!(list, "<Name>{}</Name><MaxKeys>{limit}</MaxKeys>", asked.bucket);
        let _ = write!(list, "<KeyCount>{}</KeyCount><IsTruncated>{is_truncated}</IsTruncated>", page.len());
        if let Some(last) = page.last().filter(|_| is_truncated) {
            let _ = write!(list, "<NextContinuationToken>after:{}</NextContinuationToken>", escape(last));
        }
        for (key, version) in page.iter().filter_map(|key| Some((key, self.object(key)?))) {
            let size = version.body.as_ref().map_or(0, Bytes::len);
            let _ = write!(
                list,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{size}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                escape(key),
                iso_date(version.modified),
                version.etag
            );
        }
        Ok(Done::xml("ListBucketResult", &list))
    }

    fn of_version(&self, done: Done, version: &Version) -> Done {
        if self.versioned { done.with("x-amz-version-id", &version.id) } else { done }
    }
}
