//! S3 as a person's credentials allow it: holds, and the deletion of objects. No function has these rights.

use std::env;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_types::byte_stream::ByteStream;
use futures_util::future::join_all;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::Latches;
use crate::cli::screen::say;
use crate::latch::config::{Bucket, HOLDS, KEYS, Latch};
use crate::latch::decide::Put;
use crate::latch::release::{Deletion, Held};
use crate::latch::s3::{S3, SIGNATURE, checksum, refusal, signature};
use crate::latch::seen::{HOLD, Object, shown};
use crate::remote::aws::chain;

/// How many times a hold is tried to be put in the place of another one, or to be deleted.
const TRIES: u32 = 3;
/// The pause before another try.
const SOON: Duration = Duration::from_millis(500);
/// How long a bucket has for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// After so long a request that was signed before a hold was put, or replaced, cannot land: its signature, and 5 s between
/// clocks.
pub(super) const LATE: Duration = Duration::from_secs(SIGNATURE.as_secs() + 5);

/// The buckets, in the hands of a person.
pub(super) struct Hands<'a> {
    s3: &'a S3,
    buckets: &'a [Bucket],
    owner: Option<&'a str>,
    /// What for, as its holds say it to others.
    purpose: &'static str,
    /// The id of its holds.
    id: String,
}

/// Why a hold was not put.
#[derive(Debug, Error)]
enum NotHeld {
    #[error("{0}")]
    Refused(String),
    /// It may be there all the same.
    #[error("{0}")]
    Unclear(String),
}

/// What [`Hands::take_over`] met.
#[derive(Debug, Default)]
pub(super) struct TakenOver {
    /// Who held the latch.
    pub from: Option<String>,
    /// Why it is not known in a bucket whether someone still does.
    pub unknown: Option<String>,
    /// Whether a hold of this command may land yet.
    pub may_land: bool,
}

/// A text of an object's body that a terminal shows as it is, cut to a line.
pub(super) fn harmless(text: &str) -> String {
    let is_harmless = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    text.chars().take(100).map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Who releases or locks, for the people who read an object.
pub(super) fn person() -> String {
    let of = |names: [&str; 2]| names.into_iter().find_map(|name| env::var(name).ok());
    let user = of(["USER", "LOGNAME"]).unwrap_or_else(|| "unknown".to_owned());
    of(["HOSTNAME", "HOST"]).map_or(user.clone(), |host| format!("{user}@{host}"))
}

/// A random id.
pub(super) fn id() -> String {
    let mut id = String::new();
    for _ in 0..2 {
        let _ = write!(id, "{:016x}", fastrand::u64(..));
    }
    id
}

/// Now, for people.
pub(super) fn now() -> String {
    shown(SystemTime::now())
}

/// A hold of this command that may be left in a bucket, and why.
enum Left {
    Stands(String),
    Unseen(String),
}

// === impl Hands ===

impl<'a> Hands<'a> {
    /// For one command.
    pub fn new(latches: &'a Latches, purpose: &'static str) -> Self {
        Self {
            s3: &latches.s3,
            buckets: &latches.config.buckets,
            owner: latches.config.bucket_owner.as_deref(),
            purpose,
            id: id(),
        }
    }

    /// Reads a latch's hold in each bucket, and whose it is; and S3's time at that.
    pub async fn holds(&self, latch: &Latch) -> (Vec<Held>, SystemTime) {
        let holds = join_all((0..self.buckets.len()).map(|bucket| self.held(bucket, latch))).await;
        let (holds, dates): (Vec<_>, Vec<_>) = holds.into_iter().unzip();
        (holds, dates.into_iter().flatten().min().unwrap_or_else(SystemTime::now))
    }

    async fn held(&self, bucket: usize, latch: &Latch) -> (Held, Option<SystemTime>) {
        let read = self.s3.read(bucket, HOLDS, &[&latch.name]).await;
        let held = match &read.objects[0] {
            Object::Absent => Held::Absent,
            Object::Invisible(cause) | Object::Silent(cause) => Held::Unreadable(cause.clone()),
            Object::Present(stored) => match self.s3.body(bucket, &latch.hold()).await {
                Ok(body) => {
                    let body: Value = serde_json::from_str(&body).unwrap_or_default();
                    if body["id"] == self.id.as_str() {
                        Held::Own(stored.clone())
                    } else {
                        let text = |key: &str| harmless(body[key].as_str().unwrap_or("unknown"));
                        let (by, at, purpose) = (text("by"), text("at"), text("for"));
                        Held::Other(stored.clone(), format!("{by} since {at}, for: {purpose}"))
                    }
                }
                Err(failure) => Held::Unreadable(failure.to_string()),
            },
        };
        (held, read.date())
    }

    /// Puts a hold into every bucket, or none. Each replaces what was left behind there, by its `ETag`.
    ///
    /// # Errors
    /// A bucket refuses, does not answer, or has another hold by now.
    pub async fn hold(&self, latch: &Latch, replaces: &[Option<String>]) -> Result<(), String> {
        for (bucket, replaces) in replaces.iter().enumerate() {
            // S3's time now: a person may have taken their time to agree.
            let now = self.s3.read(bucket, HOLDS, &[&latch.name]).await.date();
            let read_at = now.unwrap_or_else(SystemTime::now);
            if let Err(cause) = self.put_hold(bucket, latch, replaces.as_deref(), read_at).await {
                self.remove_holds(latch).await;
                if matches!(cause, NotHeld::Unclear(_)) {
                    say(&format!("waiting {} s, until no hold from before can land", LATE.as_secs()));
                    sleep(LATE).await;
                    self.remove_holds(latch).await;
                }
                return Err(cause.to_string());
            }
        }
        Ok(())
    }

    /// Puts a hold into every bucket that takes it, in the place of anyone's: without a hold of its own a release deletes no
    /// object.
    pub async fn take_over(&self, latch: &Latch) -> TakenOver {
        let mut taken = TakenOver::default();
        let buckets = (0..self.buckets.len()).map(|bucket| self.take_over_in(bucket, latch));
        for (held, may_land) in join_all(buckets).await {
            taken.may_land |= may_land;
            match held {
                Ok(from) => taken.from = taken.from.or(from),
                Err(cause) => taken.unknown = Some(cause),
            }
        }
        taken
    }

    /// Returns who held the latch in this bucket, and whether a hold may land yet.
    async fn take_over_in(&self, bucket: usize, latch: &Latch) -> (Result<Option<String>, String>, bool) {
        let (mut from, mut may_land) = (None, false);
        let mut last = String::new();
        for _ in 0..TRIES {
            let (held, date) = self.held(bucket, latch).await;
            let replaces = match held {
                Held::Own(_) => return (Ok(from), may_land),
                Held::Absent => None,
                Held::Other(stored, holder) => {
                    from = Some(holder).filter(|_| stored.age <= HOLD).or(from);
                    Some(stored.etag)
                }
                Held::Unreadable(cause) => {
                    last = cause;
                    sleep(SOON).await;
                    continue;
                }
            };
            let read_at = date.unwrap_or_else(SystemTime::now);
            match self.put_hold(bucket, latch, replaces.as_deref(), read_at).await {
                Ok(()) => return (Ok(from), may_land),
                Err(cause) => {
                    may_land |= matches!(cause, NotHeld::Unclear(_));
                    last = cause.to_string();
                }
            }
        }
        (Err(last), may_land)
    }

    /// Deletes this command's own holds. One that cannot be deleted, or seen, grows old, and that is said.
    pub async fn remove_holds(&self, latch: &Latch) {
        let buckets = (0..self.buckets.len()).map(|bucket| self.remove_hold(bucket, latch));
        for left in join_all(buckets).await.into_iter().flatten() {
            let name = &latch.name;
            say(&match left {
                Left::Stands(cause) => {
                    format!(
                        "a hold could not be deleted, and keeps the watchers off {name} for 10 minutes: {cause}"
                    )
                }
                Left::Unseen(cause) => format!(
                    "it is not known whether a hold of this command is left, which would keep the watchers off {name} for 10 \
                     minutes: {cause}"
                ),
            });
        }
    }

    /// Returns why an own hold may be left in this bucket.
    async fn remove_hold(&self, bucket: usize, latch: &Latch) -> Option<Left> {
        let mut left = None;
        for _ in 0..TRIES {
            let (held, date) = self.held(bucket, latch).await;
            left = match held {
                Held::Absent | Held::Other(..) => return None,
                Held::Unreadable(cause) => Some(Left::Unseen(cause)),
                Held::Own(stored) => {
                    let read_at = date.unwrap_or_else(SystemTime::now);
                    match self.delete(bucket, &latch.hold(), &stored.etag, read_at).await {
                        Deletion::Gone | Deletion::Changed => return None,
                        Deletion::Unconfirmed(cause) => Some(Left::Stands(cause)),
                    }
                }
            };
            sleep(SOON).await;
        }
        left
    }

    /// Puts a hold where there is none, or in the place of the one with this `ETag`. S3 refuses it when it arrives later than
    /// 15 s after `read_at`.
    async fn put_hold(
        &self,
        bucket: usize,
        latch: &Latch,
        replaces: Option<&str>,
        read_at: SystemTime,
    ) -> Result<(), NotHeld> {
        let name = &self.buckets[bucket].name;
        let body = json!({ "id": self.id, "by": person(), "at": now(), "for": self.purpose }).to_string();
        let put = self.put(bucket, latch.hold(), body.clone());
        let put = match replaces {
            None => put.if_none_match("*"),
            Some(etag) => put.if_match(etag),
        };
        let signed = put.presigned(signature(read_at)).await;
        let signed = signed.map_err(|error| NotHeld::Refused(format!("{name}: {}", chain(&error))))?;
        let sent = timeout(ANSWER, self.s3.send(&signed, &body)).await;
        let unclear = |cause: String| NotHeld::Unclear(format!("{name}: {cause}"));
        let answer = sent.map_err(|_| unclear("no answer".to_owned()))?.map_err(unclear)?;
        match answer.status().as_u16() {
            200..=299 if answer.headers().contains_key("etag") => Ok(()),
            status @ 200..=299 => {
                Err(unclear(format!("HTTP {status} without an ETag, which is not S3's answer")))
            }
            409 | 412 => Err(NotHeld::Refused(format!("{name}: another hold is there by now"))),
            status @ 500.. => Err(unclear(refusal(status, answer).await)),
            status => Err(NotHeld::Refused(format!("{name}: {}", refusal(status, answer).await))),
        }
    }

    /// Puts back an object that was deleted, with an id of its own: a deletion of the old one that arrives late does not
    /// delete it. One that is there already is as good.
    ///
    /// # Errors
    /// The bucket refuses, or does not answer.
    pub async fn put_back(&self, bucket: usize, latch: &Latch, body: &str) -> Result<(), String> {
        let mut body = match serde_json::from_str(body) {
            Ok(Value::Object(body)) => Value::Object(body),
            _ => json!({ "body": body }),
        };
        (body["id"], body["putBackAt"]) = (json!(id()), json!(now()));
        let body = body.to_string();
        // As a watcher's write: it must not lock later, after another release.
        match self.create(bucket, latch, &body).await {
            Put::Created | Put::AlreadyThere => Ok(()),
            Put::Conflict => Err("another request met the write".to_owned()),
            Put::Failed(cause) => Err(cause),
        }
    }

    /// Creates the object of a latch, unless there is one. S3 refuses the write when it arrives 15 s late, by its own clock: this
    /// machine's may be off.
    pub async fn create(&self, bucket: usize, latch: &Latch, body: &str) -> Put {
        let now = self.s3.read(bucket, KEYS, &[&latch.name]).await.date().unwrap_or_else(SystemTime::now);
        self.s3.create(bucket, &latch.key(), body, now).await.unwrap_or_else(Put::Failed)
    }

    fn put(&self, bucket: usize, key: String, body: String) -> PutObjectFluentBuilder {
        let (bucket, client) = self.s3.bucket(bucket);
        client
            .put_object()
            .bucket(&bucket.name)
            .key(key)
            .server_side_encryption(ServerSideEncryption::Aes256)
            .set_expected_bucket_owner(self.owner.map(str::to_owned))
            .checksum_sha256(checksum(&body))
            .body(ByteStream::from(body.into_bytes()))
    }

    /// Deletes an object, if it is still the one with this `ETag`. The request is signed for 15 s from `read_at`, S3's
    /// time when the `ETag` was read, so that S3 refuses it when it arrives later: after a computer's sleep, for example.
    pub async fn delete(&self, at: usize, key: &str, etag: &str, read_at: SystemTime) -> Deletion {
        let bucket = &self.s3.bucket(at).0.name;
        let unconfirmed = |cause: String| Deletion::Unconfirmed(format!("{bucket}: {cause}"));
        if etag.is_empty() {
            return unconfirmed(format!(
                "it gives no ETag of {key}, so that another object could be deleted"
            ));
        }
        let deletion = match timeout(ANSWER, self.try_delete(at, key, etag, read_at)).await {
            Ok(deletion) => deletion.unwrap_or_else(unconfirmed),
            Err(_) => unconfirmed(format!("no answer to the deletion of {key}")),
        };
        if deletion != Deletion::Changed {
            return deletion;
        }
        // S3 also answers so where the versions of the key end with a deletion, and where another request was faster.
        match &self.s3.read(at, "", &[key]).await.objects[0] {
            Object::Absent => Deletion::Gone,
            Object::Present(stored) if stored.etag == etag => {
                unconfirmed("another request met the deletion".to_owned())
            }
            Object::Present(_) => Deletion::Changed,
            Object::Invisible(cause) | Object::Silent(cause) => Deletion::Unconfirmed(cause.clone()),
        }
    }

    async fn try_delete(
        &self,
        at: usize,
        key: &str,
        etag: &str,
        read_at: SystemTime,
    ) -> Result<Deletion, String> {
        let (bucket, client) = self.s3.bucket(at);
        let signed = client
            .delete_object()
            .bucket(&bucket.name)
            .key(key)
            .if_match(etag)
            .set_expected_bucket_owner(self.owner.map(str::to_owned))
            .presigned(signature(read_at))
            .await
            .map_err(|error| chain(&error))?;
        let answer = self.s3.send(&signed, "").await?;
        match answer.status().as_u16() {
            204 => Ok(Deletion::Gone),
            409 | 412 => Ok(Deletion::Changed),
            status => {
                let cause = refusal(status, answer).await;
                // An answer to an earlier try was lost, or another person was faster.
                if cause.starts_with("NoSuchKey ") { Ok(Deletion::Gone) } else { Err(cause) }
            }
        }
    }
}
