//! S3: the objects in the buckets, as a watcher reads and creates them.
//!
//! A watcher reads objects and creates them. It deletes none: what it calls here is all that its role allows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Region};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::base64;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::date_time::DateTime;
use aws_types::SdkConfig;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::config::Bucket;
use super::decide::Put;
use super::seen::{Clock, Object, Stored};
use crate::remote::aws::{self, Call, Failure, Kind, chain};
use crate::remote::date::Date;
use crate::remote::https::Https;

/// The service's name, as the SDKs' variables have it.
pub const SERVICE: &str = "S3";
/// How long a bucket has for an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a write may land after its look began; S3's own clock decides. The bucket's policy has the same number.
pub const SIGNATURE: Duration = Duration::from_secs(15);
/// A page of keys costs as much as reading twelve objects.
const PAGE: usize = 12;
/// The longest body that is read.
const BODY: i64 = 64 * 1024;

const GET: Call = Call::new("s3:GetObject", "the bucket");
const LIST: Call = Call::new("s3:ListBucket", "the bucket");

/// The buckets, each in its Region.
#[derive(Clone, Debug)]
pub struct S3 {
    buckets: Arc<[(Bucket, Client)]>,
    owner: Option<String>,
    https: Https,
}

/// What one bucket shows of some keys.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The object of each key.
    pub objects: Vec<Object>,
    /// S3's time with each answer.
    pub clocks: Vec<Clock>,
}

// === impl S3 ===

impl S3 {
    /// These buckets, on the AWS that `aws` reaches.
    #[must_use]
    pub fn new(aws: &SdkConfig, https: Https, buckets: &[Bucket], owner: Option<String>) -> Self {
        let client = |bucket: &Bucket| {
            let region = Region::new(bucket.region.clone());
            (bucket.clone(), Client::from_conf(Builder::from(aws).region(region).build()))
        };
        Self { buckets: buckets.iter().map(client).collect(), owner, https }
    }

    /// A bucket, and the client for its Region.
    #[must_use]
    pub fn bucket(&self, at: usize) -> &(Bucket, Client) {
        &self.buckets[at]
    }

    /// Reads the objects `prefix` + `name` of a bucket.
    pub async fn read(&self, bucket: usize, prefix: &str, names: &[&str]) -> Shown {
        let (objects, clocks) = if names.len() > PAGE {
            self.list(bucket, prefix, names).await
        } else {
            let objects = names.iter().map(|name| self.object(bucket, format!("{prefix}{name}")));
            join_all(objects).await.into_iter().unzip()
        };
        Shown { objects, clocks: clocks.into_iter().flatten().collect() }
    }

    /// Reads an object's body.
    ///
    /// # Errors
    /// The bucket does not answer or refuses, or the body is longer than 64 KiB.
    pub async fn body(&self, bucket: usize, key: &str) -> Result<String, Failure> {
        let body = async {
            let Some(output) = self.get(bucket, key, Date::default()).await? else {
                return Err(Failure::refused(GET, format!("{key} is gone")));
            };
            if output.content_length().is_none_or(|length| length > BODY) {
                return Err(Failure::refused(GET, format!("{key} is longer than 64 KiB")));
            }
            let body = ByteStream::collect(output.body).await;
            let body = body.map_err(|error| Failure::unclear(GET, error.to_string()))?.to_vec();
            Ok(String::from_utf8_lossy(&body).into_owned())
        };
        let late = |_| Err(Failure::unclear(GET, format!("{key} did not arrive in time")));
        timeout(ANSWER, body).await.unwrap_or_else(late)
    }

    /// Creates an object, unless there is one. The request is signed for 15 s from `start`, so that S3 refuses it when
    /// it arrives later.
    ///
    /// # Errors
    /// The bucket did not answer.
    pub async fn create(
        &self,
        bucket: usize,
        key: &str,
        body: &str,
        start: SystemTime,
    ) -> Result<Put, String> {
        let silent =
            |cause: &str| format!("{} did not answer the write of {key}: {cause}", self.buckets[bucket].0);
        match timeout(ANSWER, self.put(bucket, key, body, start)).await {
            Ok(put) => put.map_err(|cause| silent(&cause)),
            Err(_) => Err(silent("it took longer than 3 s")),
        }
    }

    async fn put(&self, bucket: usize, key: &str, body: &str, start: SystemTime) -> Result<Put, String> {
        let (bucket, client) = &self.buckets[bucket];
        let failed = |cause| Put::Failed(format!("{key} was not written to {bucket}: {cause}"));
        let signed = client
            .put_object()
            .bucket(&bucket.name)
            .key(key)
            .if_none_match("*")
            .checksum_sha256(checksum(body))
            .server_side_encryption(ServerSideEncryption::Aes256)
            .set_expected_bucket_owner(self.owner.clone())
            .presigned(signature(start))
            .await;
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => return Ok(failed(chain(&error))),
        };
        let answer = self.send(&signed, body).await?;
        match answer.status().as_u16() {
            // https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html: with each object comes its tag.
            200..=299 if answer.headers().contains_key("etag") => Ok(Put::Created),
            status @ 200..=299 => Err(format!("HTTP {status} without an ETag, which is not S3's answer")),
            412 => Ok(Put::AlreadyThere),
            409 => Ok(Put::Conflict),
            status => Ok(failed(refusal(status, answer).await)),
        }
    }

    /// Sends a request that was signed for a short time.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn send(&self, signed: &PresignedRequest, body: &str) -> Result<HttpResponse, String> {
        let request = request(signed, body).map_err(|error| chain(&*error))?;
        self.https.send(request).await.map_err(|error| chain(&error))
    }

    async fn object(&self, bucket: usize, key: String) -> (Object, Option<Clock>) {
        let (date, sent) = (Date::default(), SystemTime::now());
        let object = self.get(bucket, &key, date.clone()).await;
        let clock = clock(&date, sent);
        let object = match object {
            Ok(None) => Object::Absent,
            Ok(Some(output)) => Object::Present(Stored::new(output.e_tag(), output.last_modified(), clock)),
            Err(failure) => self.unseen(bucket, &failure),
        };
        (object, clock)
    }

    /// Gets an object, without its body; `None` if there is none.
    async fn get(&self, bucket: usize, key: &str, date: Date) -> Result<Option<GetObjectOutput>, Failure> {
        let (bucket, client) = &self.buckets[bucket];
        let get = client
            .get_object()
            .bucket(&bucket.name)
            .key(key)
            .set_expected_bucket_owner(self.owner.clone())
            .customize()
            .interceptor(date);
        let get = async {
            match get.send().await {
                Ok(output) => Ok(Some(output)),
                Err(error) if error.as_service_error().is_some_and(GetObjectError::is_no_such_key) => {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        };
        aws::send(GET, ANSWER, get).await
    }

    /// Lists the keys with a prefix, page by page.
    async fn list(&self, at: usize, prefix: &str, names: &[&str]) -> (Vec<Object>, Vec<Option<Clock>>) {
        let (bucket, client) = &self.buckets[at];
        let mut objects = vec![Object::Absent; names.len()];
        let mut clocks = Vec::new();
        let mut token = None;
        loop {
            let (date, sent) = (Date::default(), SystemTime::now());
            let page = client
                .list_objects_v2()
                .bucket(&bucket.name)
                .prefix(prefix)
                .set_continuation_token(token)
                .set_expected_bucket_owner(self.owner.clone())
                .customize()
                .interceptor(date.clone());
            let page = match aws::send(LIST, ANSWER, page.send()).await {
                Ok(page) => page,
                Err(failure) => {
                    clocks.push(clock(&date, sent));
                    return (vec![self.unseen(at, &failure); names.len()], clocks);
                }
            };
            let clock = clock(&date, sent);
            clocks.push(clock);
            for object in page.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(prefix));
                if let Some(found) = names.iter().position(|listed| Some(*listed) == name) {
                    objects[found] =
                        Object::Present(Stored::new(object.e_tag(), object.last_modified(), clock));
                }
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return (objects, clocks);
            }
        }
    }

    /// An object that could not be read.
    fn unseen(&self, bucket: usize, failure: &Failure) -> Object {
        let cause = format!("{}: {failure}", self.buckets[bucket].0);
        match failure.kind() {
            Kind::Throttled | Kind::Unclear => Object::Silent(cause),
            Kind::Conflict | Kind::NotFound | Kind::Denied | Kind::Refused => Object::Invisible(cause),
        }
    }
}

/// A signature of 15 s from this time on.
pub(crate) fn signature(start: SystemTime) -> PresigningConfig {
    let signature = PresigningConfig::builder().start_time(start).expires_in(SIGNATURE).build();
    signature.expect("15 s are less than a week")
}

/// A request that is already signed.
fn request(signed: &PresignedRequest, body: &str) -> Result<HttpRequest, BoxError> {
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method(signed.method())?;
    request.set_uri(signed.uri().to_owned())?;
    for (name, value) in signed.headers() {
        request.headers_mut().try_append(name.to_owned(), value.to_owned())?;
    }
    Ok(request)
}

/// Describes S3's refusal in one line.
pub(crate) async fn refusal(status: u16, answer: HttpResponse) -> String {
    let body = ByteStream::new(answer.into_body()).collect().await;
    let body = body.map(|body| String::from_utf8_lossy(&body.to_vec()).into_owned()).unwrap_or_default();
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code} (HTTP {status}): {message}"),
        _ => format!("HTTP {status}"),
    }
}

// === impl Shown ===

impl Shown {
    /// The earliest time that S3 has given with these answers.
    #[must_use]
    pub fn date(&self) -> Option<SystemTime> {
        self.clocks.iter().map(|clock| clock.date).min()
    }
}

// === impl Stored ===

impl Stored {
    /// An object of this tag and time, as an answer of this time shows it. Without a time it counts as new.
    fn new(etag: Option<&str>, modified: Option<&DateTime>, clock: Option<Clock>) -> Self {
        let modified = modified.and_then(|time| SystemTime::try_from(*time).ok());
        let age = clock.zip(modified).and_then(|(clock, modified)| clock.date.duration_since(modified).ok());
        Self { etag: etag.unwrap_or_default().to_owned(), age: age.unwrap_or_default() }
    }
}

/// A body's checksum in Base64, without which S3 refuses to write into a bucket whose [Object Lock gives each object a retention][1].
///
/// [1]: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock-managing.html
#[must_use]
pub fn checksum(body: &str) -> String {
    let mut checksum = ChecksumAlgorithm::Sha256.into_impl();
    checksum.update(body.as_bytes());
    base64::encode(checksum.finalize())
}

/// S3's time with an answer to what was sent then, which comes now.
fn clock(date: &Date, sent: SystemTime) -> Option<Clock> {
    Some(Clock { date: date.get()?, sent, received: SystemTime::now() })
}
