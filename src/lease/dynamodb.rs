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
//!
//! The first four are Admiral's. Its checker expects all of them: for a missing one it uses the value of the item
//! before.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeySchemaElement, KeyType, MultiRegionConsistency, ScalarAttributeType, TableDescription,
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::claim::{Record, Write};
use super::config::Config;
use super::error::Error;
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::sdk;

const DESCRIBE: Call = Call::new("dynamodb:DescribeTable", "the table");
const GET: Call = Call::new("dynamodb:GetItem", "the table");
const UPDATE: Call = Call::new("dynamodb:UpdateItem", "the table");

const NAME: &str = "leaseName";
const OWNER: &str = "leaseOwner";
const UPDATED_TIME: &str = "updatedTime";
const NOTES: &str = "notes";
const WRITER: &str = "leaseWriter";
const BEAT: &str = "leaseBeat";
const EPOCH: &str = "leaseEpoch";
const TERM: &str = "leaseTerm";
const RELEASED: &str = "leaseReleased";
/// The prefix of attributes that DynamoDB's first kind of global tables, of 2017, adds to an item; the table's
/// description does not show this kind.
const REPLICATED: &str = "aws:rep:";

/// The highest number that every JSON parser reads exactly.
const HIGHEST_EPOCH: u64 = 1 << 53;

type Item = HashMap<String, AttributeValue>;

/// One lease in a table.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
    lease: String,
    one_region: bool,
}

/// Returns AWS with this configuration: its Region, and its role if it names one.
pub async fn aws(config: &Config, client: SharedHttpClient) -> SdkConfig {
    let region = Region::new(config.region.clone());
    let own = sdk::aws_config(client).region(region.clone()).load().await;
    let Some(role) = &config.role else { return own };
    let role = AssumeRoleProvider::builder(role).session_name("lease-keeper").region(region).configure(&own);
    let credentials = SharedCredentialsProvider::new(role.build().await);
    own.into_builder().credentials_provider(credentials).build()
}

// === impl Table ===

impl Table {
    /// The lease of this name in the table of this name or ARN.
    #[must_use]
    pub fn new(aws: &SdkConfig, table: &str, lease: &str) -> Self {
        // A keeper makes its own retries, and counts its calls.
        let aws = aws.to_builder().retry_config(RetryConfig::disabled()).build();
        Self { client: Client::new(&aws), name: table.to_owned(), lease: lease.to_owned(), one_region: false }
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

    /// Checks that this table can keep a lease.
    ///
    /// # Errors
    /// It is another kind of table, or the call failed.
    pub(super) async fn check(&self, time: Duration) -> Result<(), Error> {
        let request = self.client.describe_table().table_name(&self.name);
        let table = send(DESCRIBE, time, request.send()).await?.table;
        let table = table
            .ok_or_else(|| Failure::unclear(DESCRIBE, "the answer does not describe the table".to_owned()))?;
        keeps_leases(&table, self.one_region)
    }

    /// Reads the record, consistently.
    pub(super) async fn look(&self, time: Duration) -> Result<Option<Record>, Error> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key(NAME, AttributeValue::S(self.lease.clone()));
        let item = send(GET, time, request.send()).await?.item;
        let Some(item) = item else { return Ok(None) };
        if !self.one_region && item.keys().any(|attribute| attribute.starts_with(REPLICATED)) {
            return Err(Error::EventualTable);
        }
        read(&item).map(Some)
    }

    /// Writes a record if the table holds the expected one. Returns `false` if it holds another one.
    pub(super) async fn write(&self, write: &Write, time: Duration) -> Result<bool, Failure> {
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
        let notes = values.add(AttributeValue::S("kept by lease-keeper".to_owned()));
        let (mut set, mut remove) = (vec![format!("{NOTES} = if_not_exists({NOTES}, {notes})")], Vec::new());
        for (name, value) in attributes(&write.record) {
            match value {
                Some(value) => set.push(format!("{name} = {}", values.add(value))),
                None => remove.push(name),
            }
        }
        let remove = if remove.is_empty() { String::new() } else { format!(" REMOVE {}", remove.join(", ")) };
        let update = format!("SET {}{remove}", set.join(", "));
        let request = self.client.update_item().table_name(&self.name);
        let request = request.key(NAME, AttributeValue::S(self.lease.clone()));
        let request = request.update_expression(update).condition_expression(condition);
        let request = request.set_expression_attribute_values(Some(values.0));
        match send(UPDATE, time, request.send()).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind() == Kind::Conflict => Ok(false),
            Err(failure) => Err(failure),
        }
    }
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

/// Returns each attribute of a record as it is in the table, `None` if it is absent.
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

fn read(item: &Item) -> Result<Record, Error> {
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
