//! The table that keeps leases: the only place that knows DynamoDB's SDK.
//!
//! | attribute | type | holds |
//! |---|---|---|
//! | `leaseName` (partition key) | S | the lease |
//! | `leaseOwner` | S | the owner; empty if the lease has none |
//! | `updatedTime` | N | when the record was written, in seconds since 1970, for people and for Admiral |
//! | `notes` | S | a person's notes |
//! | `leaseWriter` | S | the process that wrote it |
//! | `leaseBeat` | N | that process's count of its writes |
//! | `leaseEpoch` | N | the fencing token |
//! | `leaseTerm` | N | the writer's term, in milliseconds |
//! | `leaseReleased` | BOOL | true after the holder released the lease; otherwise absent |
//! | `leaseHandover` | S | the candidate for whom the holder is asked to release the lease; empty or `*` for any other |
//!
//! The first four are Admiral's. Its checker expects all of them: for a missing one it uses the value of the item
//! before. A person writes the last one: no write is conditional on it, a holder's writes leave it, and the write that
//! takes the lease removes it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeySchemaElement, KeyType, MultiRegionConsistency, ReturnValue, ScalarAttributeType,
    TableDescription,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::claim::{Record, Write};
use super::config::Config;
use super::credentials::Source;
use super::error::Error;
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::sdk::InvalidSetting;

const DESCRIBE: Call = Call::new("dynamodb:DescribeTable", "the table");
const GET: Call = Call::new("dynamodb:GetItem", "the table");
const UPDATE: Call = Call::new("dynamodb:UpdateItem", "the table");

pub(crate) const NAME: &str = "leaseName";
pub(crate) const OWNER: &str = "leaseOwner";
const UPDATED_TIME: &str = "updatedTime";
pub(crate) const NOTES: &str = "notes";
pub(crate) const WRITER: &str = "leaseWriter";
const BEAT: &str = "leaseBeat";
pub(crate) const EPOCH: &str = "leaseEpoch";
pub(crate) const TERM: &str = "leaseTerm";
pub(crate) const RELEASED: &str = "leaseReleased";
pub(crate) const HANDOVER: &str = "leaseHandover";
/// The prefix of attributes that DynamoDB's first kind of global tables, of 2017, adds to an item; the table's
/// description does not show this kind.
const REPLICATED: &str = "aws:rep:";

/// The highest number that every JSON parser reads exactly.
const HIGHEST_EPOCH: u64 = 1 << 53;

/// An item's attributes.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// What the table holds after a write, beside what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrote {
    /// For whom a person asks the holder to release the lease.
    pub handover: Option<String>,
}

/// One lease in a table.
#[derive(Clone, Debug)]
pub struct Table {
    aws: SdkConfig,
    client: Client,
    name: String,
    lease: String,
    one_region: bool,
    /// The ARN of the table that was seen first: other credentials may lead to another one of its name.
    arn: Option<String>,
    /// The access key with which it was seen last.
    key: Option<String>,
    /// From where the client has its credentials, if they can be read anew.
    source: Option<Source>,
}

// === impl Table ===

impl Table {
    /// The lease of this name in the table of this name or ARN.
    #[must_use]
    pub fn new(aws: &SdkConfig, table: &str, lease: &str) -> Self {
        let (name, lease) = (table.to_owned(), lease.to_owned());
        let (aws, client) = (aws.clone(), client(aws));
        Self { aws, client, name, lease, one_region: false, arn: None, key: None, source: None }
    }

    /// The lease of this configuration, with credentials from all of the SDKs' sources.
    ///
    /// A `credential_process` that takes longer than two fifths of a period is killed. So are other processes that the
    /// polling thread has started meanwhile, unless they are in a process group of their own.
    ///
    /// # Errors
    /// The profile has an empty endpoint.
    pub async fn open(config: &Config, http: SharedHttpClient) -> Result<Self, InvalidSetting> {
        let source = Source::new(config, http);
        let table = Self::new(&source.load().await?, &config.table, &config.lease);
        Ok(Self { source: Some(source), ..table })
    }

    /// Reads the credentials anew from their source: the environment, and the files as they are now. Returns `false`
    /// for a table that was not opened with a configuration.
    ///
    /// # Errors
    /// They cannot be used, and the former ones stay.
    pub(super) async fn reread_credentials(&mut self) -> Result<bool, Box<dyn StdError + Send + Sync>> {
        let Some(source) = self.source.clone() else { return Ok(false) };
        // The SDK panics at some contents of files.
        let aws = tokio::spawn(async move { source.load().await }).await??;
        (self.client, self.aws) = (client(&aws), aws);
        Ok(true)
    }

    /// The table, used in the same Region by all candidates, so that its replicas do not matter.
    #[must_use]
    pub fn in_one_region(self) -> Self {
        Self { one_region: true, ..self }
    }

    /// The lease's name.
    #[must_use]
    pub fn lease(&self) -> &str {
        &self.lease
    }

    /// Whether the name of the table leads to one table alone, whatever the credentials are.
    pub(super) fn is_by_arn(&self) -> bool {
        self.name.starts_with("arn:")
    }

    /// Whether other credentials are used by now than those with which the table was seen. Where its name alone leads to it, they may
    /// lead to another account's.
    pub(super) fn has_other_credentials(&self) -> bool {
        !self.is_by_arn() && self.key() != self.key
    }

    /// The access key of the credentials that were loaded last.
    pub(super) fn key(&self) -> Option<String> {
        self.source.as_ref().and_then(Source::key)
    }

    /// Checks that this table can keep a lease, and is the one that was seen first.
    ///
    /// # Errors
    /// It is another table, or another kind of table, or the call failed.
    pub(super) async fn check(&mut self, time: Duration) -> Result<(), Error> {
        let table = self.same(&self.client, time).await?;
        self.is_seen(table, self.key())
    }

    /// Checks the same with the credentials with which it was read last, whatever their source gives next.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) async fn check_as_it_was_read(&mut self, time: Duration) -> Result<(), Error> {
        let (client, key) = (self.with_the_last(), self.key());
        let table = self.same(&client, time).await?;
        self.is_seen(table, key)
    }

    fn is_seen(&mut self, table: TableDescription, key: Option<String>) -> Result<(), Error> {
        keeps_leases(&table, self.one_region)?;
        (self.arn, self.key) = (self.arn.take().or(table.table_arn), key);
        Ok(())
    }

    /// Describes the table, which has to be the one that was seen first.
    async fn same(&self, client: &Client, time: Duration) -> Result<TableDescription, Error> {
        let request = client.describe_table().table_name(&self.name);
        let table = send(DESCRIBE, time, request.send()).await?.table;
        let table = table
            .filter(|table| !table.key_schema().is_empty())
            .ok_or_else(|| Failure::unclear(DESCRIBE, "the answer does not describe the table".to_owned()))?;
        match (&self.arn, table.table_arn()) {
            (Some(first), Some(now)) if first != now => {
                Err(Error::OtherTable { first: first.clone(), now: now.to_owned() })
            }
            _ => Ok(table),
        }
    }

    /// A client that creates the record in no other table of this name: it has credentials with which the table was seen, whatever
    /// their source gives next by itself.
    async fn surely_here(&self, time: Duration) -> Result<Client, Error> {
        if self.is_by_arn() {
            return Ok(self.client.clone());
        }
        let fixed = self.with_the_last();
        if self.has_other_credentials() {
            self.same(&fixed, time).await?;
        }
        Ok(fixed)
    }

    /// A client with the credentials that were loaded last.
    fn with_the_last(&self) -> Client {
        let Some(last) = self.source.as_ref().and_then(Source::last) else { return self.client.clone() };
        client(&self.aws.to_builder().credentials_provider(SharedCredentialsProvider::new(last)).build())
    }

    /// Reads the record, consistently, and whether it is one of a global table in eventual mode, as far as it shows that.
    pub(super) async fn look(&self, time: Duration) -> Result<(Option<Record>, bool), Error> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key(NAME, AttributeValue::S(self.lease.clone()));
        let item = send(GET, time, request.send()).await?.item;
        let Some(item) = item else { return Ok((None, false)) };
        let is_eventual = item.keys().any(|attribute| attribute.starts_with(REPLICATED)) && !self.one_region;
        Ok((Some(read(&item)?), is_eventual))
    }

    /// Writes a record if the table holds the expected one. Returns `None` if it holds another one.
    pub(super) async fn write(&self, write: &Write, time: Duration) -> Result<Option<Wrote>, Error> {
        let mut values = Values::default();
        let condition = match &write.expected {
            None => format!("attribute_not_exists({NAME})"),
            Some(expected) => {
                let same = |(name, value): (&str, Option<_>)| match value {
                    Some(value) => format!("{name} = {}", values.add(value)),
                    None => format!("attribute_not_exists({name})"),
                };
                attributes(expected).map(same).join(" AND ")
            }
        };
        if write.record.epoch > HIGHEST_EPOCH {
            let cause = format!(
                "{EPOCH} would be beyond 2^53, and no other candidate could read it: write a lower one, and restart every lease-keeper"
            );
            return Err(Failure::refused(UPDATE, cause).into());
        }
        let update = update(write, &mut values);
        let client = match &write.expected {
            None => self.surely_here(time).await?,
            Some(_) => self.client.clone(),
        };
        let request = client.update_item().table_name(&self.name);
        let request = request.key(NAME, AttributeValue::S(self.lease.clone()));
        let request = request.update_expression(update).condition_expression(condition);
        let request =
            request.set_expression_attribute_values(Some(values.0)).return_values(ReturnValue::AllNew);
        match send(UPDATE, time, request.send()).await {
            Ok(output) => {
                // Without the record as it was written, something else than the table has answered.
                let after = output.attributes().filter(|item| {
                    let written = attributes(&write.record);
                    written.into_iter().all(|(name, value)| item.get(name) == value.as_ref())
                });
                let cause = || "the answer does not show the record as it was written".to_owned();
                let after = after.ok_or_else(|| Failure::unclear(UPDATE, cause()))?;
                Ok(Some(Wrote { handover: handover(after) }))
            }
            Err(failure) if failure.kind() == Kind::Conflict => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Tries a write whose condition is never true, and so whether writes are allowed.
    ///
    /// # Errors
    /// They are not, or the table does not answer.
    pub(super) async fn try_write(&self, time: Duration) -> Result<(), Failure> {
        let request = self.client.update_item().table_name(&self.name);
        let request = request.key(NAME, AttributeValue::S(self.lease.clone()));
        let request = request.update_expression(format!("REMOVE {HANDOVER}")).condition_expression(NEVER);
        match send(UPDATE, time, request.send()).await {
            Err(failure) if failure.kind() != Kind::Conflict => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Never so: every record has its key.
const NEVER: &str = "attribute_exists(leaseName) AND attribute_not_exists(leaseName)";

fn client(aws: &SdkConfig) -> Client {
    // A keeper makes its own retries, and counts its calls.
    Client::new(&aws.to_builder().retry_config(RetryConfig::disabled()).build())
}

fn keeps_leases(table: &TableDescription, one_region: bool) -> Result<(), Error> {
    let key = |key: &KeySchemaElement| {
        let name = key.attribute_name();
        let of_name =
            table.attribute_definitions().iter().find(|attribute| attribute.attribute_name() == name);
        let is_string = of_name.is_some_and(|it| *it.attribute_type() == ScalarAttributeType::S);
        (name == NAME && is_string && *key.key_type() == KeyType::Hash, name.to_owned())
    };
    let keys: Vec<_> = table.key_schema().iter().map(key).collect();
    if !matches!(&keys[..], [(true, _)]) {
        let names: Vec<_> = keys.into_iter().map(|(_, name)| name).collect();
        return Err(Error::NotALeaseTable(names.join(", ")));
    }
    let is_global = !table.replicas().is_empty() || table.global_table_version().is_some();
    let is_strong = table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong);
    if is_global && !is_strong && !one_region { Err(Error::EventualTable) } else { Ok(()) }
}

/// Returns what a write changes.
fn update(write: &Write, values: &mut Values) -> String {
    let notes = values.add(AttributeValue::S("kept by lease-keeper".to_owned()));
    let (mut set, mut remove) = (vec![format!("{NOTES} = if_not_exists({NOTES}, {notes})")], Vec::new());
    for (name, value) in attributes(&write.record) {
        match value {
            Some(value) => set.push(format!("{name} = {}", values.add(value))),
            None => remove.push(name),
        }
    }
    // The epoch grows with the owner: the holder that was asked to release the lease no longer has it.
    if write.expected.as_ref().is_some_and(|expected| expected.epoch != write.record.epoch) {
        remove.push(HANDOVER);
    }
    let remove = if remove.is_empty() { String::new() } else { format!(" REMOVE {}", remove.join(", ")) };
    format!("SET {}{remove}", set.join(", "))
}

/// Returns each attribute of a record as it is in the table, `None` if it is absent. A write is conditional on these.
fn attributes(record: &Record) -> [(&'static str, Option<AttributeValue>); 7] {
    let number = |number: &dyn Display| AttributeValue::N(number.to_string());
    let counted = |count: u64| (count > 0).then(|| number(&count));
    [
        (OWNER, Some(AttributeValue::S(record.owner.clone()))),
        (UPDATED_TIME, Some(number(&record.updated_time))),
        (WRITER, record.writer.clone().map(AttributeValue::S)),
        (BEAT, counted(record.beat)),
        (EPOCH, counted(record.epoch)),
        (TERM, counted(u64::try_from(record.term.as_millis()).unwrap_or(u64::MAX))),
        (RELEASED, record.released.then_some(AttributeValue::Bool(true))),
    ]
}

/// Reads a record from its item.
pub(crate) fn read(item: &Item) -> Result<Record, Error> {
    let owner = text(item, OWNER)?.ok_or_else(|| unreadable(OWNER, "is missing"))?;
    let updated_time = number(item, UPDATED_TIME)?.ok_or_else(|| unreadable(UPDATED_TIME, "is missing"))?;
    let released = match item.get(RELEASED) {
        None => false,
        Some(AttributeValue::Bool(true)) => true,
        Some(_) => return Err(unreadable(RELEASED, "is present but not true")),
    };
    let record = Record {
        owner,
        updated_time,
        writer: text(item, WRITER)?,
        beat: number(item, BEAT)?.unwrap_or(0),
        epoch: number(item, EPOCH)?.unwrap_or(0),
        released,
        term: Duration::from_millis(number(item, TERM)?.unwrap_or(0)),
        handover: handover(item),
    };
    if record.epoch > HIGHEST_EPOCH {
        return Err(unreadable(EPOCH, "is beyond 2^53"));
    }
    // Otherwise no condition would ever match the record.
    match attributes(&record).into_iter().find(|(name, value)| item.contains_key(*name) != value.is_some()) {
        Some((attribute, _)) => Err(unreadable(attribute, "is 0")),
        None => Ok(record),
    }
}

/// A value of another type asks for nothing, and does not cost the lease.
fn handover(item: &Item) -> Option<String> {
    item.get(HANDOVER)?.as_s().ok().cloned()
}

fn text(item: &Item, attribute: &'static str) -> Result<Option<String>, Error> {
    match item.get(attribute) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
        Some(_) => Err(unreadable(attribute, "is not a string")),
    }
}

fn number<N: FromStr>(item: &Item, attribute: &'static str) -> Result<Option<N>, Error> {
    match item.get(attribute) {
        None => Ok(None),
        Some(AttributeValue::N(number)) => match number.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(unreadable(attribute, &format!("is {number}, which is out of range or not whole"))),
        },
        Some(_) => Err(unreadable(attribute, "is not a number")),
    }
}

fn unreadable(attribute: &'static str, problem: &str) -> Error {
    Error::Unreadable { attribute, problem: problem.to_owned() }
}

/// The values of a request's expressions, by their placeholders.
#[derive(Default)]
struct Values(Item);

impl Values {
    fn add(&mut self, value: AttributeValue) -> String {
        let name = format!(":v{}", self.0.len());
        self.0.insert(name.clone(), value);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: &str, epoch: u64) -> Record {
        Record {
            owner: owner.to_owned(),
            updated_time: 1,
            writer: Some("pod/1".to_owned()),
            beat: 1,
            epoch,
            released: false,
            term: Duration::from_secs(45),
            handover: None,
        }
    }

    #[test]
    fn a_request_to_hand_over_is_removed_by_the_write_that_takes_the_lease_and_by_no_other() {
        let asked = Record { handover: Some("site-b".to_owned()), ..record("site-a", 7) };
        let renewed = Record { beat: 2, ..record("site-a", 7) };
        let released = Record { owner: String::new(), released: true, ..asked.clone() };
        for (next, removed) in [(renewed, false), (released, false), (record("site-b", 8), true)] {
            let write = Write { expected: Some(asked.clone()), record: next };
            let update = update(&write, &mut Values::default());
            assert_eq!(update.contains(HANDOVER), removed, "{update}");
        }
        assert!(attributes(&asked).iter().all(|(name, _)| *name != HANDOVER), "no condition depends on it");
    }

    #[test]
    fn a_request_to_hand_over_that_is_not_a_string_asks_for_nothing() {
        let asked = |value| {
            let owner = (OWNER.to_owned(), AttributeValue::S("site-a".to_owned()));
            let time = (UPDATED_TIME.to_owned(), AttributeValue::N("1".to_owned()));
            read(&Item::from([owner, time, (HANDOVER.to_owned(), value)])).unwrap().handover
        };
        assert_eq!(asked(AttributeValue::S("*".to_owned())).as_deref(), Some("*"));
        assert_eq!(asked(AttributeValue::Bool(true)), None);
    }
}
