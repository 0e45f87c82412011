//! The table that lets one execution at a time change an accelerator: the only place that knows `DynamoDB`'s SDK.
//!
//! | attribute | holds |
//! |---|---|
//! | `accelerator` (partition key) | the accelerator's ARN |
//! | `site` | the site that is taken out, or rejoined |
//! | `reporter` | the site that reported it; missing for a person's request |
//! | `at` | the time of the claim |
//! | `claim` | the execution that made it |
//! | `ends` | the time by which that execution has ended: the claim blocks no other one after it |
//! | `out` | the time at which the site was out, once it is |
//! | `rejoins` | the sites that were rejoined in the last minutes, each with its time: `site-b=2026-01-05T10:02:11Z` |
//!
//! A claim ends. An execution that succeeds sets `ends` to the time of its success, and the entry stays as a record. An
//! execution that fails puts the record back that was there before, or deletes its entry. One that dies leaves an entry that ends by itself. An entry without `ends`,
//! from an earlier version of this function, ends when the longest execution of Lambda would have, and one that claims to
//! end later, or is from the future, is none.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use chrono::{DateTime, SecondsFormat, Utc};

use super::config;
use super::site::Site;
use crate::program::text::Quoted;
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::deadline::Deadline;

const PUT: Call = Call::new("dynamodb:PutItem", "the table");
const GET: Call = Call::new("dynamodb:GetItem", "the table");
const DELETE: Call = Call::new("dynamodb:DeleteItem", "the table");
const KEY: &str = "accelerator";
/// Of a record that a site was taken out: when.
const OUT: &str = "out";
/// The last rejoins. A claim keeps those of the entry in whose place it is, and so does the record after it.
const REJOINS: &str = "rejoins";
/// How long they are kept.
const KEPT: Duration = Duration::from_mins(5);
/// There is no claim, or it has ended, or it is this one: the answer to an earlier try was lost.
const FREE_OR_OWN: &str = "attribute_not_exists(#key) OR #claim = :claim OR #ends <= :now OR #ends > :latest \
    OR (attribute_not_exists(#ends) \
        AND (attribute_not_exists(#at) OR #at < :longest_ago OR #at > :latest OR #site = :site))";
/// How much longer a claim lasts than its execution: for clocks that differ, and for calls that are on their way.
const MARGIN: Duration = Duration::from_secs(30);
/// The longest that an execution of Lambda [can take][1].
///
/// [1]: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
const LONGEST_EXECUTION: Duration = Duration::from_mins(15);

type Item = HashMap<String, AttributeValue>;

/// The table.
#[derive(Debug)]
pub struct Table {
    client: Client,
    name: String,
}

/// An execution's claim to change an accelerator until its deadline.
#[derive(Debug)]
pub struct Claim {
    id: String,
    item: Item,
    /// The record in whose place it is.
    former: Option<Item>,
}

/// Which execution may change the accelerator.
#[derive(Debug)]
pub enum First {
    /// This one. Its claim has taken the place of this record, if there was one.
    This(Option<Entry>),
    /// Another one, which may still run.
    Other(Entry),
}

/// A claim as it is in the table, also one that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The site that is taken out, or rejoined.
    pub site: String,
    /// The site that reported it; empty for a person's request.
    pub reporter: String,
    /// The time of the claim.
    pub at: String,
    /// The time by which its execution has ended; empty if the entry is from an earlier version.
    pub ends: String,
    /// The time at which the site was out; empty if it is not on record.
    pub out: String,
    /// When a person has rejoined a site in the last minutes.
    pub rejoins: BTreeMap<String, DateTime<Utc>>,
}

// === impl Table ===

impl Table {
    /// The table with this configuration, which must not retry by itself.
    #[must_use]
    pub fn new(aws: &SdkConfig, table: &config::Table) -> Self {
        let region = Region::new(table.region.clone());
        let client = Client::new(&aws.to_builder().region(region).build());
        Self { client, name: table.name.clone() }
    }

    /// Makes this claim. If the answer is lost, it may be made all the same: repeat it, or release it.
    ///
    /// What was read before the claim may have changed since: read again what a decision rests on.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn claim(&self, claim: &mut Claim, deadline: Deadline) -> Result<First, Failure> {
        // Also where the answer to a put is lost, which returns what was there before.
        let is_record = |item: &Item| item.contains_key(OUT) || !item.contains_key("claim");
        let accelerator = claim.item[KEY].as_s().cloned().unwrap_or_default();
        let read = self.item(&accelerator, deadline).await?;
        claim.item.extend(read.as_ref().and_then(|read| read.get_key_value(REJOINS)).map(owned));
        claim.former = read.filter(is_record).or(claim.former.take());
        let Claim { id, item, former } = claim;
        let (id, item) = (&*id, &*item);
        let now = Utc::now();
        let names = [("#key", KEY), ("#claim", "claim"), ("#ends", "ends"), ("#at", "at"), ("#site", "site")];
        let names = names.map(|(name, attribute)| (name.to_owned(), attribute.to_owned()));
        let values = [
            (":claim", text(id)),
            (":now", text(&written(now))),
            (":longest_ago", text(&written(now - LONGEST_EXECUTION))),
            (":latest", text(&written(now + LONGEST_EXECUTION + MARGIN))),
            (":site", item["site"].clone()),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        let put = deadline
            .persist(async |time| {
                let request = self.client.put_item().table_name(&self.name).set_item(Some(item.clone()));
                let request = request.condition_expression(FREE_OR_OWN);
                let request = request.set_expression_attribute_names(Some(names.clone().into()));
                let request = request.set_expression_attribute_values(Some(values.clone().into()));
                send(PUT, time, request.return_values(ReturnValue::AllOld).send()).await
            })
            .await;
        let conflict = match put {
            Ok(output) => {
                *former = output.attributes.filter(is_record).or(former.take());
                return Ok(First::This(former.as_ref().map(Entry::read)));
            }
            Err(failure) if failure.kind() == Kind::Conflict => failure,
            Err(failure) => return Err(failure),
        };
        // The claim may have been released since: then the caller decides again.
        let entry = self.entry(&accelerator, deadline).await?;
        entry.map(First::Other).ok_or(conflict)
    }

    /// Ends a claim whose execution has taken the site out, or may have; its entry stays as a record of that.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline: then the claim ends by itself.
    pub async fn keep(&self, claim: Claim, out: DateTime<Utc>, deadline: Deadline) -> Result<(), Failure> {
        let Claim { id, mut item, former: _ } = claim;
        item.remove("claim");
        item.extend([("ends".to_owned(), text(&written(Utc::now()))), (OUT.to_owned(), text(&written(out)))]);
        self.replace(&id, item, deadline).await
    }

    /// Ends a claim whose execution has rejoined the site, or may have, if it is not `done`. The record that it was taken out
    /// ends with that; another site's stays.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub async fn rejoined(
        &self,
        claim: Claim,
        at: DateTime<Utc>,
        done: bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let Claim { id, mut item, former } = claim;
        let mut rejoins = Entry::read(&item).rejoins;
        rejoins.insert(Entry::read(&item).site, at);
        rejoins.retain(|_, rejoined| *rejoined + KEPT > at);
        item.remove("claim");
        item.insert("ends".to_owned(), text(&written(Utc::now())));
        let stands =
            |former: &Item| former.contains_key(OUT) && !(done && former.get("site") == item.get("site"));
        let mut item = former.filter(stands).unwrap_or(item);
        let rejoins: Vec<_> = rejoins.iter().map(|(site, at)| format!("{site}={}", written(*at))).collect();
        item.insert(REJOINS.to_owned(), text(&rejoins.join(" ")));
        self.replace(&id, item, deadline).await
    }

    /// Ends a claim: puts the record back in whose place it is, or deletes its entry.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub async fn release(&self, claim: Claim, deadline: Deadline) -> Result<(), Failure> {
        match claim.former {
            Some(former) => self.replace(&claim.id, former, deadline).await,
            None => self.delete(claim, deadline).await,
        }
    }

    /// Ends a claim and deletes its entry.
    async fn delete(&self, claim: Claim, deadline: Deadline) -> Result<(), Failure> {
        let deleted = deadline
            .persist(async |time| {
                let request =
                    self.client.delete_item().table_name(&self.name).key(KEY, claim.item[KEY].clone());
                let request = request.condition_expression("#claim = :claim");
                let request = request.expression_attribute_names("#claim", "claim");
                send(DELETE, time, request.expression_attribute_values(":claim", text(&claim.id)).send())
                    .await
            })
            .await;
        unless_gone(deleted)
    }

    /// Puts this item in the place of a claim.
    async fn replace(&self, id: &str, item: Item, deadline: Deadline) -> Result<(), Failure> {
        let put = deadline
            .persist(async |time| {
                let request = self.client.put_item().table_name(&self.name).set_item(Some(item.clone()));
                let request = request.condition_expression("#claim = :claim");
                let request = request.expression_attribute_names("#claim", "claim");
                send(PUT, time, request.expression_attribute_values(":claim", text(id)).send()).await
            })
            .await;
        unless_gone(put)
    }

    /// The entry for an accelerator.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn entry(&self, accelerator: &str, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        Ok(self.item(accelerator, deadline).await?.as_ref().map(Entry::read))
    }

    async fn item(&self, accelerator: &str, deadline: Deadline) -> Result<Option<Item>, Failure> {
        let output = deadline
            .persist(async |time| {
                let request = self.client.get_item().table_name(&self.name).consistent_read(true);
                send(GET, time, request.key(KEY, text(accelerator)).send()).await
            })
            .await?;
        Ok(output.item)
    }
}

// === impl Claim ===

impl Claim {
    /// A claim for this execution, which ends at `deadline`. `reporter` is `None` for a person's request.
    #[must_use]
    pub fn new(accelerator: &str, site: &Site, reporter: Option<&Site>, deadline: Deadline) -> Self {
        let now = Utc::now();
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let ends = now + deadline.left() + MARGIN;
        let mut item = HashMap::from([
            (KEY.to_owned(), text(accelerator)),
            ("site".to_owned(), text(site.as_str())),
            ("at".to_owned(), text(&written(now))),
            ("claim".to_owned(), text(&id)),
            ("ends".to_owned(), text(&written(ends))),
        ]);
        item.extend(reporter.map(|reporter| ("reporter".to_owned(), text(reporter.as_str()))));
        Self { id, item, former: None }
    }
}

/// An entry that is gone, or is another execution's, needs no change.
fn unless_gone<T>(result: Result<T, Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.kind() != Kind::Conflict => Err(failure),
        _ => Ok(()),
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn owned((name, value): (&String, &AttributeValue)) -> (String, AttributeValue) {
    (name.clone(), value.clone())
}

/// A time that sorts as text.
fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

// === impl Entry ===

impl Entry {
    fn read(item: &Item) -> Self {
        let text = |name| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let [site, reporter, at, ends] = ["site", "reporter", "at", "ends"].map(text);
        let rejoins = text(REJOINS);
        let rejoins = rejoins.split(' ').filter_map(|rejoin| rejoin.split_once('='));
        let rejoins = rejoins.filter_map(|(site, at)| Some((site.to_owned(), at.parse().ok()?)));
        Self { site, reporter, at, ends, out: text(OUT), rejoins: rejoins.collect() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, reporter, at, ends: _, out, rejoins: _ } = self;
        if reporter.is_empty() && !out.is_empty() {
            return write!(f, "a person took {} out at {}", Quoted(site), Quoted(out));
        }
        if reporter.is_empty() {
            return write!(f, "a person rejoins {}, or takes it out, since {}", Quoted(site), Quoted(at));
        }
        write!(f, "{} reported {} at {}", Quoted(reporter), Quoted(site), Quoted(at))
    }
}
