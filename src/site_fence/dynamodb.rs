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
//! | `former` | of a claim: the record that was there before, with these attributes |
//!
//! A claim ends. An execution that succeeds sets `ends` to the time of its success, and the entry stays as a record. An
//! execution that fails puts the record back that was there before, or deletes its entry. One that dies leaves an entry that ends by
//! itself, with the record before it. An entry without `ends`, from an earlier version of this function, ends when the longest
//! execution of Lambda would have, and one that claims to end later, or is from the future, is none.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
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
/// Of a claim: the record in whose place it is.
const FORMER: &str = "former";
/// How long rejoins are kept.
const KEPT: Duration = Duration::from_mins(5);
/// There is no claim, or it has ended.
const FREE: &str = "attribute_not_exists(#key) OR #ends <= :now OR #ends > :latest \
    OR (attribute_not_exists(#ends) \
        AND (attribute_not_exists(#at) OR #at < :longest_ago OR #at > :latest OR #site = :to))";
/// The attributes by which an entry that was read is the one that is there still.
const OF_ENTRY: [&str; 7] = ["site", "reporter", "at", "claim", "ends", OUT, REJOINS];
/// How often an entry that others change meanwhile is read again.
const READS: usize = 5;
/// How much longer a claim lasts than its execution: for clocks that differ, for calls that are on their way, and because Global
/// Accelerator may show for a minute what the execution has removed before it died.
const MARGIN: Duration = Duration::from_secs(90);
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
        let accelerator = claim.item[KEY].as_s().cloned().unwrap_or_default();
        let mut read = self.item(&accelerator, deadline).await?;
        let mut reads = 1;
        loop {
            // The answer to an earlier try was lost.
            let is_made = read.as_ref().and_then(|read| read.get("claim")) == claim.item.get("claim");
            claim.replace(read.as_ref());
            if !is_made {
                match self.put_in_place_of(read.as_ref(), claim, deadline).await {
                    Ok(()) => {}
                    Err(failure) if failure.kind() == Kind::Conflict => {
                        let now = self.item(&accelerator, deadline).await?;
                        if let Some(entry) = now.as_ref().filter(|_| now == read) {
                            return Ok(First::Other(Entry::read(entry)));
                        }
                        if reads == READS {
                            return Err(failure);
                        }
                        // Someone else has changed it since it was read.
                        (read, reads) = (now, reads + 1);
                        continue;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            return Ok(First::This(claim.former.as_ref().map(Entry::read)));
        }
    }

    /// Puts a claim in the place of exactly the entry that was read, if that has ended: of what was not read, the claim would know
    /// nothing, and what came after it neither.
    async fn put_in_place_of(
        &self,
        read: Option<&Item>,
        claim: &Claim,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let now = Utc::now();
        let mut names: HashMap<_, _> = HashMap::from([("#key".to_owned(), KEY.to_owned())]);
        let mut values = HashMap::from([
            (":own".to_owned(), text(&claim.id)),
            (":now".to_owned(), text(&written(now))),
            (":longest_ago".to_owned(), text(&written(now - LONGEST_EXECUTION))),
            (":latest".to_owned(), text(&written(now + LONGEST_EXECUTION + MARGIN))),
            (":to".to_owned(), claim.item["site"].clone()),
        ]);
        let mut unchanged = Vec::new();
        for name in OF_ENTRY {
            names.insert(format!("#{name}"), name.to_owned());
            unchanged.push(match read.and_then(|read| read.get(name)) {
                Some(value) => {
                    values.insert(format!(":{name}"), value.clone());
                    format!("#{name} = :{name}")
                }
                None => format!("attribute_not_exists(#{name})"),
            });
        }
        let condition = format!("#claim = :own OR (({FREE}) AND {})", unchanged.join(" AND "));
        deadline
            .persist(async |time| {
                let request = self.client.put_item().table_name(&self.name);
                let request = request.set_item(Some(claim.item.clone())).condition_expression(&condition);
                let request = request.set_expression_attribute_names(Some(names.clone()));
                send(PUT, time, request.set_expression_attribute_values(Some(values.clone())).send()).await
            })
            .await
            .map(|_| ())
    }

    /// Ends a claim whose execution has taken the site out, or may have; its entry stays as a record of that.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline: then the claim ends by itself.
    pub async fn keep(&self, claim: Claim, out: DateTime<Utc>, deadline: Deadline) -> Result<(), Failure> {
        let Claim { id, mut item, former: _ } = claim;
        item.retain(|name, _| name != "claim" && name != FORMER);
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
        item.retain(|name, _| name != "claim" && name != FORMER);
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
        let item = self.item(accelerator, deadline).await?;
        let is_over = |item: &&Item| item.contains_key("claim") && Entry::read(item).has_ended();
        // Of an execution that has died, the record before it counts.
        let former = item.as_ref().filter(is_over).and_then(|item| {
            let rejoins = item.get_key_value(REJOINS).map(|(name, value)| (name.clone(), value.clone()));
            Some(item.get(FORMER)?.as_m().ok()?.clone().into_iter().chain(rejoins).collect())
        });
        Ok(former.or(item).as_ref().map(Entry::read))
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

    /// Takes over what this entry knows, in whose place the claim is to be, or is already: the record, and the rejoins.
    fn replace(&mut self, entry: Option<&Item>) {
        let record = entry.filter(|entry| entry.contains_key(OUT) || !entry.contains_key("claim"));
        let of_claim = || entry?.get(FORMER)?.as_m().ok().cloned();
        self.former = record.cloned().or_else(of_claim);
        let rejoins = entry.and_then(|entry| entry.get(REJOINS)).cloned();
        let former = self.former.clone().map(AttributeValue::M);
        for (name, value) in [(REJOINS, rejoins), (FORMER, former)] {
            match value {
                Some(value) => drop(self.item.insert(name.to_owned(), value)),
                None => drop(self.item.remove(name)),
            }
        }
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

/// A time that sorts as text.
fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

// === impl Entry ===

impl Entry {
    /// Whether the execution of the claim has ended.
    fn has_ended(&self) -> bool {
        self.ends.parse::<DateTime<Utc>>().is_ok_and(|ends| ends <= Utc::now())
    }

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
