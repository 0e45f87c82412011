//! DynamoDB in failoverctl's terms: the only place that knows its SDK. `lease/dynamodb.rs` describes the attributes.

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, KeySchemaElement, MultiRegionConsistency, ScalarAttributeType,
    TableStatus,
};

use super::context::SHORTLY;
use super::error::Error;
use super::session::{if_there, patience};
use crate::lease::claim::{NOBODY_MAY, Record};
use crate::lease::dynamodb::{EPOCH, HANDOVER, Item, NAME, NOTES, OWNER, RELEASED, TERM, WRITER, read};
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::deadline::{Deadline, MayPass as _};

const GET: Call = Call::new("dynamodb:GetItem", "the table");
const UPDATE: Call = Call::new("dynamodb:UpdateItem", "the record");

/// The attributes that a renewal leaves as they are. An active holder renews every period, and a person may need longer
/// to confirm a change: what the person has seen is unchanged as long as these are.
const LASTING: [&str; 8] = [OWNER, NOTES, WRITER, EPOCH, TERM, RELEASED, HANDOVER, CHANGE];

/// The unique id of the last change by a person. A try of an earlier change that arrives late changes nothing any more,
/// although the record may be again as it was then.
const CHANGE: &str = "leaseChange";

/// A lease in a table.
pub(super) struct Lease {
    client: Client,
    /// The table's name or ARN.
    pub table: String,
    pub region: String,
    pub name: String,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub record: Record,
    /// A person's notes, or lease-keeper's.
    pub notes: Option<String>,
    item: Item,
}

/// A change to a record by a person.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// Keeps all candidates passive, for this reason.
    Pin(Option<&'a str>),
    /// Ends a pin, for this reason: the lease has no owner, and is not released.
    Unpin(Option<&'a str>),
    /// Asks the holder to release the lease for this candidate.
    Ask(&'a str),
    /// Removes such a request.
    Withdraw,
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Changed {
    /// It was made, and this is its id.
    Done(String),
    /// The record had changed since it was read, and this is it now. `surely` says that the change was not made; otherwise
    /// an earlier try gave no answer.
    Refused { now: Option<Seen>, surely: bool },
}

/// What makes the table of this name or ARN of no use, whose partition key has to be this attribute, a text; `None` if it is of use.
pub(super) async fn fault(
    aws: &SdkConfig,
    table: &str,
    key: &str,
    deadline: Deadline,
) -> Result<Option<String>, Failure> {
    let client = Client::new(aws);
    let found = deadline.persist(async |time| {
        let call = Call::new("dynamodb:DescribeTable", "the table");
        send(call, time, client.describe_table().table_name(table).send()).await
    });
    let Some(found) = if_there(found.await)?.and_then(|output| output.table) else {
        return Ok(Some("does not exist".to_owned()));
    };
    let keys: Vec<_> = found.key_schema().iter().map(KeySchemaElement::attribute_name).collect();
    let is_text = |one: &AttributeDefinition| {
        one.attribute_name() == key && *one.attribute_type() == ScalarAttributeType::S
    };
    Ok(match found.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) | None
            if keys == [key] && found.attribute_definitions().iter().any(is_text) =>
        {
            None
        }
        Some(TableStatus::Active | TableStatus::Updating) | None => {
            Some(format!("has the key {}, and needs {key} alone, as a text", keys.join(", ")))
        }
        Some(status) => Some(format!("is {status}")),
    })
}

// === impl Lease ===

impl Lease {
    /// The lease of this name in the table of this name or ARN.
    pub fn new(aws: &SdkConfig, region: Region, table: String, name: String) -> Self {
        let in_region = region.to_string();
        let client = Client::new(&aws.to_builder().region(region).build());
        Self { client, table, region: in_region, name }
    }

    /// The Regions of the table's other replicas, if they take each other's writes only later, as far as the table may be
    /// described.
    pub async fn eventual_replicas(&self) -> Vec<String> {
        let call = Call::new("dynamodb:DescribeTable", "the table");
        let request = self.client.describe_table().table_name(&self.table);
        let described = send(call, SHORTLY, request.send()).await;
        let Some(table) = described.ok().and_then(|described| described.table) else { return Vec::new() };
        if table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong) {
            return Vec::new();
        }
        let regions = table.replicas().iter().filter_map(|replica| replica.region_name());
        regions.filter(|region| *region != self.region).map(str::to_owned).collect()
    }

    /// Reads the record, consistently.
    pub async fn look(&self) -> Result<Option<Seen>, Error> {
        let found = patience()
            .persist(async |time| {
                let request = self.client.get_item().table_name(&self.table).consistent_read(true);
                send(GET, time, request.key(NAME, text(&self.name)).send()).await
            })
            .await;
        let Some(found) = if_there(found)? else {
            return Err(Error::NoTable { table: self.table.clone(), region: self.region.clone() });
        };
        let Some(item) = found.item else { return Ok(None) };
        let notes = item.get(NOTES).and_then(|notes| notes.as_s().ok()).cloned();
        Ok(Some(Seen { record: read(&item)?, notes, item }))
    }

    /// Makes a change if the record is still the one that was seen, except for renewals.
    pub async fn change(&self, seen: &Seen, change: Change<'_>) -> Result<Changed, Error> {
        let own = format!("{:016x}", fastrand::u64(..));
        let id = text(&own);
        let written = patience()
            .persist(async |time| {
                let mut request = self.client.update_item().table_name(&self.table);
                let (mut conditions, mut set, mut remove) = (Vec::new(), Vec::new(), Vec::new());
                for name in change.conditions() {
                    match seen.item.get(*name) {
                        None => conditions.push(format!("attribute_not_exists({name})")),
                        Some(value) => {
                            conditions.push(format!("{name} = :seen_{name}"));
                            request =
                                request.expression_attribute_values(format!(":seen_{name}"), value.clone());
                        }
                    }
                }
                for (name, value) in change.attributes().into_iter().chain([(CHANGE, Some(id.clone()))]) {
                    match value {
                        None => remove.push(name.to_owned()),
                        Some(value) => {
                            set.push(format!("{name} = :new_{name}"));
                            request = request.expression_attribute_values(format!(":new_{name}"), value);
                        }
                    }
                }
                let part = |verb: &str, parts: &[String]| match parts {
                    [] => String::new(),
                    parts => format!("{verb} {} ", parts.join(", ")),
                };
                let update = part("SET", &set) + &part("REMOVE", &remove);
                let request = request.key(NAME, text(&self.name)).update_expression(update.trim_end());
                let request = request.condition_expression(conditions.join(" AND "));
                send(UPDATE, time, request.send()).await
            })
            .await;
        let Err(failure) = written else { return Ok(Changed::Done(own)) };
        let may_be_done = failure.may_be_done();
        if !may_be_done && failure.kind() != Kind::Conflict {
            return Err(failure.into());
        }
        let Ok(now) = self.look().await else { return Err(failure.into()) };
        if now.as_ref().is_some_and(|now| now.item.get(CHANGE) == Some(&id)) {
            Ok(Changed::Done(own))
        } else if failure.kind() == Kind::Conflict {
            Ok(Changed::Refused { now, surely: !may_be_done })
        } else {
            Err(failure.into())
        }
    }
}

// === impl Seen ===

impl Seen {
    /// Whether the change of this id is the last one that a person has made.
    pub fn is_changed_by(&self, id: &str) -> bool {
        self.item.get(CHANGE) == Some(&text(id))
    }
}

// === impl Change ===

impl Change<'_> {
    /// The attributes that must be as they were seen.
    fn conditions(self) -> &'static [&'static str] {
        match self {
            Self::Pin(_) | Self::Unpin(_) | Self::Ask(_) => &LASTING,
            // The holder may have released the lease meanwhile.
            Self::Withdraw => &[HANDOVER, CHANGE],
        }
    }

    /// The attributes that change; `None` removes one.
    fn attributes(self) -> Vec<(&'static str, Option<AttributeValue>)> {
        let notes = |reason: Option<&str>| reason.map(|reason| (NOTES, Some(text(reason))));
        match self {
            Self::Pin(reason) => {
                [(OWNER, Some(text(NOBODY_MAY))), (HANDOVER, None)].into_iter().chain(notes(reason)).collect()
            }
            Self::Unpin(reason) => {
                let unowned = [(OWNER, Some(text(""))), (RELEASED, None), (HANDOVER, None)];
                unowned.into_iter().chain(notes(reason)).collect()
            }
            Self::Ask(to) => vec![(HANDOVER, Some(text(to)))],
            Self::Withdraw => vec![(HANDOVER, None)],
        }
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
