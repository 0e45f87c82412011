//! The rules of S3 on which the latch rests, as the stand-in enforces them: each with the page of AWS's
//! documentation that it comes from, through the SDK's own client and through presigned requests. And what the
//! stand-in itself has to do: the rights of the latch's roles, faults, and a clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::aws::{aws_at, credentials};
use crate::support::s3::{ANONYMOUS, CONTROL, Down, Fault, OWNER, PERSON, S3, WATCHER};

const A: &str = "acme-latch-a";
const B: &str = "acme-latch-b";
const LATCH: &str = "latches/app";
const HOLD: &str = "holds/app";
const SECOND: Duration = Duration::from_secs(1);

// Pages of AWS's documentation.
const API: &str = "https://docs.aws.amazon.com/AmazonS3/latest/API/";
const GUIDE: &str = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/";

/// A step of a rule's example, in bucket A.
enum Do {
    Head(&'static str),
    Get(&'static str),
    /// Without credentials.
    AnonymousGet(&'static str),
    Put(&'static str, &'static str),
    /// `If-None-Match: *`.
    Create(&'static str, &'static str),
    /// `If-Match` with the `ETag` of the object whose body is the last.
    Replace(&'static str, &'static str, &'static str),
    Delete(&'static str),
    /// `If-Match` with the `ETag` of the object whose body is the last.
    DeleteIf(&'static str, &'static str),
    /// Creates an object with a request that was signed so many seconds ago, for so many.
    Presigned(&'static str, u64, u64),
    /// The same, signed so many seconds from now.
    PresignedAhead(&'static str, u64, u64),
    List(&'static str),
    Location,
    Versioning,
    Lifecycle,
    Policy,
    /// For this account.
    HeadOf(&'static str, &'static str),
    /// S3's clock goes forward by so many seconds.
    Advance(u64),
    Unversioned,
    Encrypted(&'static str),
    /// The watcher may list below `latches/` alone.
    ListsBelowLatches,
    MayNotList,
}

/// A rule, where it is documented, and an example: who does what, and the answer.
type Rule = (&'static str, &'static str, &'static str, &'static [(&'static str, Do, &'static str)]);

use Do::{
    Advance, AnonymousGet, Create, Delete, DeleteIf, Encrypted, Get, Head, HeadOf, Lifecycle, List,
    ListsBelowLatches, Location, MayNotList, Policy, Presigned, PresignedAhead, Put, Replace, Unversioned,
    Versioning,
};

const RULES: &[Rule] = &[
    (
        "a key is created once",
        GUIDE,
        "conditional-writes.html",
        &[
            (PERSON, Create(LATCH, "one"), "200"),
            (PERSON, Create(LATCH, "two"), "412 PreconditionFailed"),
            (PERSON, Get(LATCH), "200 one"),
        ],
    ),
    (
        "a key whose object was deleted is created again, and a delete marker is no object",
        GUIDE,
        "conditional-writes.html",
        &[
            (PERSON, Put(LATCH, "one"), "200"),
            (PERSON, Delete(LATCH), "204"),
            (PERSON, Create(LATCH, "two"), "200"),
            (PERSON, Get(LATCH), "200 two"),
        ],
    ),
    (
        "an object is replaced if its ETag is the one that was read",
        GUIDE,
        "conditional-writes.html",
        &[
            (PERSON, Replace(HOLD, "two", "one"), "404 NoSuchKey"),
            (PERSON, Put(HOLD, "one"), "200"),
            (PERSON, Replace(HOLD, "two", "other"), "412 PreconditionFailed"),
            (PERSON, Replace(HOLD, "two", "one"), "200"),
            (PERSON, Delete(HOLD), "204"),
            (PERSON, Replace(HOLD, "three", "two"), "404 NoSuchKey"),
        ],
    ),
    (
        "an object is deleted if its ETag is the one that was read",
        GUIDE,
        "conditional-deletes.html",
        &[
            (PERSON, DeleteIf(LATCH, "one"), "404 NoSuchKey"),
            (PERSON, Put(LATCH, "one"), "200"),
            (PERSON, DeleteIf(LATCH, "other"), "412 PreconditionFailed"),
            (PERSON, DeleteIf(LATCH, "one"), "204"),
            (PERSON, Head(LATCH), "404"),
        ],
    ),
    (
        "a body decides its ETag, so an object with the same body as a deleted one is deleted by the old ETag",
        API,
        "API_Object.html",
        &[
            (PERSON, Create(LATCH, "one"), "200"),
            (PERSON, Delete(LATCH), "204"),
            (PERSON, Create(LATCH, "one"), "200"),
            (PERSON, DeleteIf(LATCH, "one"), "204"),
        ],
    ),
    (
        "a delete without a condition succeeds also where there is no object",
        API,
        "API_DeleteObject.html",
        &[(PERSON, Delete(LATCH), "204"), (PERSON, Unversioned, ""), (PERSON, Delete(LATCH), "204")],
    ),
    (
        "a caller that may list sees that a key is absent",
        API,
        "API_HeadObject.html",
        &[
            (WATCHER, Head(LATCH), "404"),
            (WATCHER, Get(LATCH), "404 NoSuchKey"),
            (PERSON, Put(LATCH, "one"), "200"),
            (WATCHER, Head(LATCH), "200"),
            (WATCHER, Get(LATCH), "200 one"),
        ],
    ),
    (
        "a caller that may not list cannot tell absent from invisible",
        API,
        "API_GetObject.html",
        &[
            (WATCHER, MayNotList, ""),
            (WATCHER, Head(LATCH), "403"),
            (WATCHER, Get(LATCH), "403 AccessDenied"),
            (WATCHER, List("latches/"), "403 AccessDenied"),
            (PERSON, Put(LATCH, "one"), "200"),
            (WATCHER, Head(LATCH), "200"),
        ],
    ),
    (
        "without credentials an absent key is forbidden",
        API,
        "API_GetObject.html",
        &[
            (ANONYMOUS, AnonymousGet(LATCH), "403 AccessDenied"),
            (PERSON, Put(LATCH, "one"), "200"),
            (ANONYMOUS, AnonymousGet(LATCH), "200 one"),
            (PERSON, Put(HOLD, "one"), "200"),
            (ANONYMOUS, AnonymousGet(HOLD), "403 AccessDenied"),
        ],
    ),
    (
        "an object that KMS has encrypted is not read without a signature",
        GUIDE,
        "UsingKMSEncryption.html",
        &[
            (PERSON, Encrypted(LATCH), ""),
            (ANONYMOUS, AnonymousGet(LATCH), "400 InvalidArgument"),
            (WATCHER, Get(LATCH), "200 encrypted"),
        ],
    ),
    (
        "a list shows the keys with a prefix",
        API,
        "API_ListObjectsV2.html",
        &[
            (WATCHER, List("latches/"), "200"),
            (PERSON, Put("latches/b", "one"), "200"),
            (PERSON, Put("latches/a", "one"), "200"),
            (PERSON, Put(HOLD, "one"), "200"),
            (WATCHER, List("latches/"), "200 latches/a latches/b"),
            (PERSON, Delete("latches/a"), "204"),
            (WATCHER, List(""), "200 holds/app latches/b"),
        ],
    ),
    (
        "a presigned request is valid for the time that it says",
        API,
        "sigv4-query-string-auth.html",
        &[
            (PERSON, Presigned(LATCH, 70, 60), "403 AccessDenied Request has expired"),
            (PERSON, Presigned(LATCH, 50, 60), "200"),
            (PERSON, Presigned(LATCH, 50, 60), "412 PreconditionFailed"),
        ],
    ),
    (
        "s3:signatureAge restricts a presigned request further than its own time",
        API,
        "bucket-policy-s3-sigv4-conditions.html",
        &[
            (WATCHER, Presigned(LATCH, 17, 3600), "403 AccessDenied"),
            (WATCHER, Presigned(LATCH, 13, 3600), "200"),
        ],
    ),
    (
        "s3:authType can demand a presigned request",
        API,
        "bucket-policy-s3-sigv4-conditions.html",
        &[(WATCHER, Create(LATCH, "one"), "403 AccessDenied"), (WATCHER, Presigned(LATCH, 0, 15), "200")],
    ),
    (
        "a signed header's date is off by no more than a quarter of an hour",
        API,
        "ErrorResponses.html",
        &[
            (PERSON, Advance(14 * 60), ""),
            (PERSON, Put(LATCH, "one"), "200"),
            (PERSON, Advance(2 * 60), ""),
            (PERSON, Put(LATCH, "two"), "403 RequestTimeTooSkewed"),
            (WATCHER, Head(LATCH), "403"),
        ],
    ),
    (
        "a bucket of another owner than expected is refused",
        GUIDE,
        "bucket-owner-condition.html",
        &[
            (PERSON, Put(LATCH, "one"), "200"),
            (WATCHER, HeadOf(LATCH, OWNER), "200"),
            (WATCHER, HeadOf(LATCH, "999999999999"), "403"),
        ],
    ),
    (
        "a bucket's location and versioning are readable; rules and a policy that were never set are not found",
        API,
        "API_Operations_Amazon_Simple_Storage_Service.html",
        &[
            (PERSON, Location, "200 eu-central-1"),
            (PERSON, Versioning, "200 Enabled"),
            (PERSON, Lifecycle, "404 NoSuchLifecycleConfiguration"),
            (PERSON, Policy, "404 NoSuchBucketPolicy"),
            (PERSON, Unversioned, ""),
            (PERSON, Versioning, "200"),
            (WATCHER, Policy, "403 AccessDenied"),
        ],
    ),
];

/// What the pages leave open, as the stand-in decides it: for the worse, or as others have seen it.
const OPEN: &[Rule] = &[
    (
        "a right to list with a condition on s3:prefix is a right to lists with that prefix: a read has no prefix",
        GUIDE,
        "amazon-s3-policy-keys.html",
        &[
            (WATCHER, ListsBelowLatches, ""),
            (WATCHER, List("latches/"), "200"),
            (WATCHER, List("holds/"), "403 AccessDenied"),
            (WATCHER, Get(LATCH), "403 AccessDenied"),
        ],
    ),
    (
        "a presigned request is valid before its time by no more than a quarter of an hour",
        API,
        "sigv4-query-string-auth.html",
        &[
            (PERSON, PresignedAhead(LATCH, 960, 60), "403 AccessDenied Request is not yet valid"),
            (PERSON, PresignedAhead(LATCH, 840, 60), "200"),
        ],
    ),
    (
        "an ETag matches no delete marker",
        GUIDE,
        "conditional-deletes.html",
        &[
            (PERSON, Put(LATCH, "one"), "200"),
            (PERSON, DeleteIf(LATCH, "one"), "204"),
            (PERSON, DeleteIf(LATCH, "one"), "412 PreconditionFailed"),
            (PERSON, Unversioned, ""),
            (PERSON, DeleteIf(LATCH, "one"), "404 NoSuchKey"),
        ],
    ),
];

async fn buckets() -> S3 {
    S3::start(&[("eu-central-1", A), ("eu-west-1", B)]).await
}

async fn client(s3: &S3, region: &'static str, key: &str) -> Client {
    let aws = aws_at(&s3.url()).await.into_builder();
    Client::new(&aws.region(Region::new(region)).credentials_provider(credentials(key)).build())
}

/// The person's client in bucket A's Region.
async fn person(s3: &S3) -> Client {
    client(s3, "eu-central-1", PERSON).await
}

/// The watcher's client in bucket A's Region.
async fn watcher(s3: &S3) -> Client {
    client(s3, "eu-central-1", WATCHER).await
}

/// The status and the code of an answer, and what `text` takes from a good one.
fn said<T, E: ProvideErrorMetadata>(
    answer: Result<T, SdkError<E, HttpResponse>>,
    text: impl FnOnce(T) -> String,
) -> String {
    match answer {
        Ok(output) => format!("200 {}", text(output)).trim_end().to_owned(),
        Err(error) => {
            let Some(status) = error.raw_response().map(|response| response.status().as_u16()) else {
                return "no answer".to_owned();
            };
            // The answer to HEAD has no body, and so no code.
            let code = error.code().filter(|code| *code != "NotFound").unwrap_or_default();
            format!("{status} {code}").trim_end().to_owned()
        }
    }
}

/// A request that creates the key, signed at this time.
async fn presigned(client: &Client, key: &str, at: SystemTime, valid_for: u64) -> PresignedRequest {
    presigned_put(client.put_object().bucket(A).key(key).if_none_match("*"), at, valid_for).await
}

async fn presigned_put(put: PutObjectFluentBuilder, at: SystemTime, valid_for: u64) -> PresignedRequest {
    let signature = PresigningConfig::builder().start_time(at).expires_in(Duration::from_secs(valid_for));
    let signature = signature.build().expect("less than a week");
    put.server_side_encryption(ServerSideEncryption::Aes256)
        .presigned(signature)
        .await
        .expect("it can be signed")
}

fn request_of(presigned: &PresignedRequest, body: &str) -> Request<Full<Bytes>> {
    let uri = presigned.uri();
    let path = &uri[uri.find("/acme-").expect("path style")..];
    let mut request = Request::builder().method(presigned.method()).uri(path);
    for (name, value) in presigned.headers() {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).expect("a valid request")
}

/// The status, and the error's code or the body.
async fn sent(s3: &S3, mut request: Request<Full<Bytes>>) -> String {
    let host = s3.address.to_string().parse().expect("an address is a valid header");
    request.headers_mut().insert("host", host);
    let stream = TcpStream::connect(s3.address).await.expect("it listens");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
    // With this set, the connection ends, also when the caller does not wait for the answer.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let Ok(answer) = sender.send_request(request).await else { return "no answer".to_owned() };
    let status = answer.status().as_u16();
    let Ok(body) = answer.into_body().collect().await else { return format!("{status} broken off") };
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        Some(rest.split('<').next().unwrap_or_default().to_owned())
    };
    let text = match (element("Code"), element("Message")) {
        // The messages that have no code of their own.
        (Some(code), Some(message)) if message.starts_with("Request ") => format!("{code} {message}"),
        (Some(code), _) => code,
        (None, _) => body.clone(),
    };
    format!("{status} {text}").trim_end().to_owned()
}

async fn anonymous_get(s3: &S3, bucket: &str, key: &str) -> String {
    let request = Request::builder().method(Method::GET).uri(format!("/{bucket}/{key}"));
    sent(s3, request.body(Full::default()).expect("a valid request")).await
}

/// The `ETag` of an object with this body, or of none.
fn etag(s3: &S3, key: &str, body: &str) -> String {
    let versions = s3.history(A, key);
    let version = versions.iter().find(|version| version.text() == body && !version.is_deletion());
    version.map_or("\"0123456789abcdef0123456789abcdef\"".to_owned(), |version| version.etag.clone())
}

/// The status of the last answer, which the SDK does not show of a good one.
fn last_status(s3: &S3) -> String {
    let status = s3.calls().last().and_then(|call| call.status);
    status.map(|status| status.to_string()).unwrap_or_default()
}

async fn step(s3: &S3, client: &Client, step: &Do) -> String {
    let nothing = String::new;
    let put = |key: &str, body: &'static str| {
        client.put_object().bucket(A).key(key).body(Bytes::from_static(body.as_bytes()).into())
    };
    match *step {
        Head(key) => said(client.head_object().bucket(A).key(key).send().await, |_| nothing()),
        HeadOf(key, owner) => {
            let head = client.head_object().bucket(A).key(key).expected_bucket_owner(owner);
            said(head.send().await, |_| nothing())
        }
        Get(key) => match client.get_object().bucket(A).key(key).send().await {
            Ok(output) => {
                let body = output.body.collect().await.expect("a whole body").to_vec();
                format!("200 {}", String::from_utf8_lossy(&body))
            }
            Err(error) => said(Err::<(), _>(error), |()| nothing()),
        },
        AnonymousGet(key) => anonymous_get(s3, A, key).await,
        Put(key, body) => said(put(key, body).send().await, |_| nothing()),
        Create(key, body) => said(put(key, body).if_none_match("*").send().await, |_| nothing()),
        Replace(key, body, read) => {
            said(put(key, body).if_match(etag(s3, key, read)).send().await, |_| nothing())
        }
        Delete(key) => {
            let answer = client.delete_object().bucket(A).key(key).send().await;
            said(answer, |_| nothing()).replace("200", &last_status(s3))
        }
        DeleteIf(key, read) => {
            let delete = client.delete_object().bucket(A).key(key).if_match(etag(s3, key, read));
            said(delete.send().await, |_| nothing()).replace("200", &last_status(s3))
        }
        Presigned(key, ago, valid_for) => {
            let presigned = presigned(client, key, s3.now() - Duration::from_secs(ago), valid_for).await;
            sent(s3, request_of(&presigned, "presigned")).await
        }
        PresignedAhead(key, ahead, valid_for) => {
            let presigned = presigned(client, key, s3.now() + Duration::from_secs(ahead), valid_for).await;
            sent(s3, request_of(&presigned, "presigned")).await
        }
        List(prefix) => said(client.list_objects_v2().bucket(A).prefix(prefix).send().await, |list| {
            list.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>().join(" ")
        }),
        Location => said(client.get_bucket_location().bucket(A).send().await, |location| {
            location.location_constraint().map(ToString::to_string).unwrap_or_default()
        }),
        Versioning => said(client.get_bucket_versioning().bucket(A).send().await, |versioning| {
            versioning.status().map(ToString::to_string).unwrap_or_default()
        }),
        Lifecycle => {
            let rules = client.get_bucket_lifecycle_configuration().bucket(A).send().await;
            said(rules, |rules| rules.rules().len().to_string())
        }
        Policy => said(client.get_bucket_policy().bucket(A).send().await, |policy| {
            policy.policy().unwrap_or_default().to_owned()
        }),
        Advance(seconds) => {
            s3.advance(Duration::from_secs(seconds));
            nothing()
        }
        Unversioned => {
            s3.set_versioned(A, false);
            nothing()
        }
        Encrypted(key) => {
            s3.put_encrypted(A, key, "encrypted", "aws:kms");
            nothing()
        }
        MayNotList => {
            s3.revoke(A, WATCHER, "s3:ListBucket");
            nothing()
        }
        ListsBelowLatches => {
            s3.revoke(A, WATCHER, "s3:ListBucket");
            s3.grant(A, WATCHER, "s3:ListBucket", "latches/");
            nothing()
        }
    }
}

#[tokio::test]
async fn every_documented_rule_holds_through_the_sdk() {
    for (rule, place, page, example) in RULES.iter().chain(OPEN) {
        let s3 = buckets().await;
        for (number, (who, what, expected)) in example.iter().enumerate() {
            let client = client(&s3, "eu-central-1", who).await;
            let answer = step(&s3, &client, what).await;
            assert_eq!(answer, *expected, "{rule}, step {}; see {place}{page}", number + 1);
        }
    }
}

#[tokio::test]
async fn an_answer_has_the_time_of_s3s_clock_and_says_what_was_stored() {
    let s3 = buckets().await;
    s3.advance(SECOND * 120);
    let put = person(&s3).await.put_object().bucket(A).key(LATCH).body(Bytes::from_static(b"one").into());
    let put = put.content_type("application/json").server_side_encryption(ServerSideEncryption::Aes256);
    let put = put.send().await.unwrap();
    s3.advance(SECOND * 30);
    let head = watcher(&s3).await.head_object().bucket(A).key(LATCH).send().await.unwrap();
    assert_eq!((head.e_tag(), head.version_id()), (put.e_tag(), put.version_id()));
    assert_eq!((head.content_length(), head.content_type()), (Some(3), Some("application/json")));
    assert_eq!(head.server_side_encryption(), Some(&ServerSideEncryption::Aes256));
    let modified = SystemTime::try_from(*head.last_modified().unwrap()).unwrap();
    let age = s3.now().duration_since(modified).unwrap();
    assert!((SECOND * 30..SECOND * 40).contains(&age), "{age:?}");
    assert_eq!(s3.object(A, LATCH).unwrap().by, PERSON);
}

#[tokio::test]
async fn a_clock_can_run_at_another_rate_and_one_bucket_can_be_ahead() {
    let s3 = buckets().await;
    let before = s3.now();
    s3.run_at(0.0);
    let stands = s3.now();
    assert_eq!(s3.now(), stands);
    assert!(stands.duration_since(before).unwrap() < SECOND * 10);
    s3.set_ahead(B, -90);
    let [a, b] = [A, B].map(|bucket| s3.put(bucket, LATCH, "one").modified);
    assert_eq!((a, b), (stands, stands - SECOND * 90));
    assert_eq!(s3.put_aged(A, HOLD, "one", SECOND * 600).modified, stands - SECOND * 600);
}

#[tokio::test]
async fn a_history_has_every_version_and_every_deletion() {
    let s3 = buckets().await;
    s3.put(A, LATCH, "one");
    let person = client(&s3, "eu-central-1", "person-eve").await;
    person.delete_object().bucket(A).key(LATCH).send().await.unwrap();
    s3.put(A, LATCH, "two");
    s3.remove(A, LATCH);
    let history = s3.history(A, LATCH);
    let history: Vec<_> = history.iter().map(|one| (one.by.as_str(), one.text())).collect();
    let expected = [("test", "one"), ("person-eve", ""), ("test", "two"), ("test", "")];
    assert_eq!(history, expected.map(|(by, text)| (by, text.to_owned())));
    assert!(s3.object(A, LATCH).is_none() && s3.history(B, LATCH).is_empty());
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let s3 = buckets().await;
    let names = ["latches/a", "latches/b & <c>", "latches/d", "latches/e"];
    for name in names {
        s3.put(A, name, "one");
    }
    let watcher = watcher(&s3).await;
    let pages = watcher.list_objects_v2().bucket(A).prefix("latches/").into_paginator().page_size(3);
    let mut pages = pages.send();
    let mut seen = Vec::new();
    while let Some(page) = pages.next().await {
        seen.push(
            page.unwrap().contents().iter().map(|one| one.key().unwrap().to_owned()).collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen, [names[..3].to_vec(), names[3..].to_vec()]);
}

#[tokio::test]
async fn a_bucket_says_in_which_region_it_is() {
    let s3 = buckets().await;
    let watcher = watcher(&s3).await;
    let error = watcher.head_object().bucket(B).key(LATCH).send().await.unwrap_err();
    let response = error.raw_response().unwrap();
    assert_eq!(response.status().as_u16(), 301);
    assert_eq!(response.headers().get("x-amz-bucket-region"), Some("eu-west-1"));
    let error = watcher.head_object().bucket("another").key(LATCH).send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 404);
}

#[tokio::test]
async fn a_signature_is_of_this_request_by_a_known_key() {
    let s3 = buckets().await;
    let stranger = client(&s3, "eu-central-1", "stranger").await;
    let answer = stranger.get_object().bucket(A).key(LATCH).send().await;
    assert_eq!(said(answer, |_| String::new()), "403 InvalidAccessKeyId");

    let person = person(&s3).await;
    let good = presigned(&person, LATCH, s3.now(), 60).await;
    let changed = |change: &dyn Fn(&mut Request<Full<Bytes>>)| {
        let mut request = request_of(&good, "one");
        change(&mut request);
        request
    };
    let other_key = changed(&|request| {
        let uri = request.uri().to_string().replace("latches/app", "latches/other");
        *request.uri_mut() = uri.parse().expect("a valid path");
    });
    let longer = changed(&|request| {
        let uri = request.uri().to_string().replace("X-Amz-Expires=60", "X-Amz-Expires=600");
        *request.uri_mut() = uri.parse().expect("a valid path");
    });
    let unconditional = changed(&|request| {
        request.headers_mut().remove("if-none-match");
    });
    let get = changed(&|request| *request.method_mut() = Method::GET);
    for request in [other_key, longer, unconditional, get] {
        assert_eq!(sent(&s3, request).await, "403 SignatureDoesNotMatch");
    }
    let more = changed(&|request| {
        request.headers_mut().insert("x-amz-acl", "public-read".parse().expect("a valid header"));
    });
    assert_eq!(sent(&s3, more).await, "403 AccessDenied");
    let unreadable =
        Request::builder().uri(format!("/{A}/{LATCH}")).header("authorization", "AWS4-HMAC-SHA256");
    let unreadable = unreadable.body(Full::default()).expect("a valid request");
    assert_eq!(sent(&s3, unreadable).await, "400 AuthorizationHeaderMalformed");
    assert!(s3.keys(A).is_empty());
    assert_eq!(sent(&s3, request_of(&good, "one")).await, "200");
    assert!(s3.denied().is_empty(), "these are no matter of rights");
}

#[tokio::test]
async fn a_role_can_do_no_more_than_it_may_and_each_refusal_is_counted() {
    let s3 = buckets().await;
    for (key, body) in [(LATCH, "one"), (HOLD, "one"), ("control", "old")] {
        s3.put(A, key, body);
    }
    let before = s3.history(A, LATCH).len();
    let watcher = watcher(&s3).await;
    for what in [Delete(LATCH), Delete(HOLD), Put(HOLD, "two"), DeleteIf(LATCH, "one")] {
        assert_eq!(step(&s3, &watcher, &what).await, "403 AccessDenied");
    }
    let unconditional = watcher.put_object().bucket(A).key("latches/other");
    let unconditional = presigned_put(unconditional, s3.now(), 15).await;
    assert_eq!(sent(&s3, request_of(&unconditional, "two")).await, "403 AccessDenied");
    for key in [HOLD, "control", "elsewhere"] {
        let presigned = presigned(&watcher, key, s3.now(), 15).await;
        assert_eq!(sent(&s3, request_of(&presigned, "two")).await, "403 AccessDenied", "{key}");
    }
    assert_eq!(
        s3.denied(),
        [
            "DeleteObject acme-latch-a/latches/app 403",
            "DeleteObject acme-latch-a/holds/app 403",
            "PutObject acme-latch-a/holds/app 403",
            &format!("DeleteObject acme-latch-a/latches/app if-match={} 403", etag(&s3, LATCH, "one")),
            "PutObject acme-latch-a/latches/other presigned 403",
            "PutObject acme-latch-a/holds/app presigned if-none-match=* 403",
            "PutObject acme-latch-a/control presigned if-none-match=* 403",
            "PutObject acme-latch-a/elsewhere presigned if-none-match=* 403",
        ]
    );
    assert_eq!(s3.calls_by(WATCHER), s3.denied());
    assert_eq!(s3.history(A, LATCH).len(), before);

    let person = person(&s3).await;
    for (what, expected) in [
        (Put("control", "two"), "403 AccessDenied"),
        (Put("elsewhere", "two"), "403 AccessDenied"),
        (Delete("control"), "403 AccessDenied"),
        (Get("control"), "200 old"),
    ] {
        assert_eq!(step(&s3, &person, &what).await, expected);
    }
    let control = client(&s3, "eu-central-1", CONTROL).await;
    for (what, expected) in [
        (Put("control", "new"), "200"),
        (Put(LATCH, "two"), "403 AccessDenied"),
        (Get("control"), "403 AccessDenied"),
        (Delete("control"), "403 AccessDenied"),
    ] {
        assert_eq!(step(&s3, &control, &what).await, expected);
    }
    assert_eq!(anonymous_get(&s3, A, "control").await, "200 new");
    let denied = s3.denied().len();
    assert_eq!(anonymous_get(&s3, A, HOLD).await, "403 AccessDenied");
    assert_eq!(s3.denied().len(), denied, "a checker is no caller of ours");
    assert_eq!(s3.calls_by(ANONYMOUS).len(), 2);
}

#[tokio::test]
async fn a_fault_happens_to_the_operation_and_the_bucket_that_it_is_meant_for() {
    for (fault, expected, is_done) in [
        (Fault::CONFLICT, "409 ConditionalRequestConflict", false),
        (Fault::FORBIDDEN, "403 AccessDenied", false),
        (Fault::INTERNAL, "500 InternalError", false),
        (Fault::SLOW_DOWN, "503 SlowDown", false),
        (Fault::Redirect("eu-north-1"), "301 PermanentRedirect", false),
        (Fault::CloseBefore, "no answer", false),
        (Fault::CloseAfter, "no answer", true),
        (Fault::INTERNAL_AFTER, "500 InternalError", true),
        (Fault::Late(Duration::from_millis(1)), "200", true),
        (Fault::Pass, "200", true),
    ] {
        let s3 = buckets().await;
        s3.fail("PutObject", A, fault);
        let person = person(&s3).await;
        assert_eq!(step(&s3, &person, &Head(LATCH)).await, "404", "another operation");
        assert_eq!(step(&s3, &person, &Create(LATCH, "one")).await, expected);
        assert_eq!(s3.object(A, LATCH).is_some(), is_done, "{expected}");
        assert_eq!(step(&s3, &person, &Put(LATCH, "two")).await, "200", "the next call");
        assert!(s3.denied().is_empty());
    }
    let s3 = buckets().await;
    s3.fail_always("GetObject", A, Fault::SLOW_DOWN);
    s3.put(A, LATCH, "one");
    let watcher = watcher(&s3).await;
    for _ in 0..2 {
        assert_eq!(step(&s3, &watcher, &Get(LATCH)).await, "503 SlowDown");
    }
    assert_eq!(anonymous_get(&s3, A, LATCH).await, "200 one", "a checker");
    s3.fail_never("GetObject", A);
    assert_eq!(step(&s3, &watcher, &Get(LATCH)).await, "200 one");
    s3.fail("Anonymous", A, Fault::SLOW_DOWN);
    assert_eq!(anonymous_get(&s3, A, LATCH).await, "503 SlowDown");
}

#[tokio::test]
async fn another_caller_can_come_first() {
    let s3 = buckets().await;
    let meddle = Fault::Meddle(Arc::new(|s3: &S3| {
        s3.put(A, LATCH, "first");
    }));
    s3.fail("PutObject", A, meddle);
    let answer = step(&s3, &person(&s3).await, &Create(LATCH, "second")).await;
    assert_eq!(
        (answer.as_str(), s3.object(A, LATCH).unwrap().text().as_str()),
        ("412 PreconditionFailed", "first")
    );
}

#[tokio::test]
async fn a_body_can_come_slowly() {
    let s3 = buckets().await;
    s3.put(A, LATCH, "0123456789");
    s3.fail("Anonymous", A, Fault::SlowBody(Duration::from_millis(5)));
    let start = Instant::now();
    assert_eq!(anonymous_get(&s3, A, LATCH).await, "200 0123456789");
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_write_that_is_held_back_lands_without_its_caller() {
    let s3 = buckets().await;
    let held = s3.hold("PutObject", A);
    let presigned = presigned(&watcher(&s3).await, LATCH, s3.now(), 15).await;
    let sending = sent(&s3, request_of(&presigned, "late"));
    tokio::select! {
        answer = sending => panic!("it was not held back: {answer}"),
        () = held.reached() => {}
    }
    assert!(s3.object(A, LATCH).is_none());
    assert_eq!(
        s3.calls_by(WATCHER),
        ["PutObject acme-latch-a/latches/app presigned if-none-match=* unanswered"]
    );
    timeout(SECOND * 10, s3.until(|s3| s3.callers() == 0)).await.expect("the caller has gone");
    held.release();
    timeout(SECOND * 10, s3.until(|s3| s3.object(A, LATCH).is_some())).await.expect("it lands");
}

#[tokio::test]
async fn a_write_that_arrives_after_its_time_is_refused_and_one_that_s3_has_let_in_is_not() {
    for (is_let_in, expected) in [(false, "403 AccessDenied Request has expired"), (true, "200")] {
        let s3 = buckets().await;
        let held = if is_let_in { s3.hold_admitted("PutObject", A) } else { s3.hold("PutObject", A) };
        let presigned = presigned(&watcher(&s3).await, LATCH, s3.now(), 15).await;
        let late = async {
            held.reached().await;
            s3.advance(SECOND * 16);
            held.release();
        };
        let both = async { tokio::join!(sent(&s3, request_of(&presigned, "late")), late) };
        let (answer, ()) = timeout(SECOND * 10, both).await.expect("it is held back");
        assert_eq!((answer.as_str(), s3.object(A, LATCH).is_some()), (expected, is_let_in));
    }
}

#[tokio::test]
async fn a_bucket_goes_down_alone_and_comes_back() {
    let s3 = buckets().await;
    let (a, b) = (watcher(&s3).await, client(&s3, "eu-west-1", WATCHER).await);
    s3.down(A, Down::Refused);
    assert_eq!(step(&s3, &a, &Head(LATCH)).await, "no answer");
    assert_eq!(anonymous_get(&s3, A, LATCH).await, "no answer");
    s3.down(A, Down::Silent);
    let silence = timeout(Duration::from_millis(50), step(&s3, &a, &Head(LATCH))).await;
    assert!(silence.is_err());
    let head = b.head_object().bucket(B).key(LATCH).send().await;
    assert_eq!(said(head, |_| String::new()), "404");
    s3.up(A);
    assert_eq!(step(&s3, &a, &Head(LATCH)).await, "404");
}

#[tokio::test]
async fn the_port_can_be_closed_and_opened_again() {
    let s3 = buckets().await;
    let watcher = watcher(&s3).await;
    assert_eq!(step(&s3, &watcher, &Head(LATCH)).await, "404");
    s3.stop().await;
    assert_eq!(step(&s3, &watcher, &Head(LATCH)).await, "no answer");
    assert!(TcpStream::connect(s3.address).await.is_err());
    s3.start_again().await;
    assert_eq!(step(&s3, &watcher, &Head(LATCH)).await, "404");
}

#[tokio::test]
async fn a_bucket_reports_the_rules_and_the_policy_that_a_test_gives_it() {
    let s3 = buckets().await;
    s3.set_lifecycle(A, Some("<Rule><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>"));
    s3.set_policy(A, Some("{\"Version\":\"2012-10-17\"}"));
    let person = person(&s3).await;
    assert_eq!(step(&s3, &person, &Lifecycle).await, "200 1");
    assert_eq!(step(&s3, &person, &Policy).await, "200 {\"Version\":\"2012-10-17\"}");
}
