//! The table in which the first report about an accelerator wins: the only place that knows DynamoDB's SDK.
//!
//! | attribute | holds |
//! |---|---|
//! | `accelerator` (partition key) | the accelerator's ARN |
//! | `site` | the site that was taken out |
//! | `reporter` | the site that reported it |
//! | `at` | the time of the report, for people |

use std::collections::HashMap;
use std::fmt;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{SecondsFormat, Utc};

use super::config;

use super::site::Site;
use super::webhook::Accusation;
use crate::program::text::Quoted;
use crate::remote::aws::{Call, Failure, Kind, send};
use crate::remote::deadline::Deadline;

const PUT: Call = Call::new("dynamodb:PutItem", "the table");
const GET: Call = Call::new("dynamodb:GetItem", "the table");
const DELETE: Call = Call::new("dynamodb:DeleteItem", "the table");
const KEY: &str = "accelerator";
/// There is no report yet, or the report is already about this site.
const FREE_OR_SAME: &str = "attribute_not_exists(#key) OR #site = :site";

/// The table.
#[derive(Debug)]
pub struct Table {
    client: Client,
    name: String,
}

/// Which report was first.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// This one, or an earlier one on the same site.
    This,
    /// One on another site.
    Other(Entry),
}

/// A report as it is in the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The site that was reported.
    pub site: String,
    /// The site that reported it.
    pub reporter: String,
    /// The time of the report.
    pub at: String,
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

    /// Enters this accusation, unless the table has another one for the accelerator.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline.
    pub async fn claim(
        &self,
        accelerator: &str,
        accusation: &Accusation,
        deadline: Deadline,
    ) -> Result<First, Failure> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            (KEY.to_owned(), text(accelerator)),
            ("site".to_owned(), text(accusation.site.as_str())),
            ("reporter".to_owned(), text(accusation.reporter.as_str())),
            ("at".to_owned(), text(&Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true))),
        ]);
        let put = deadline
            .persist(async |time| {
                let request = self.client.put_item().table_name(&self.name).set_item(Some(item.clone()));
                let request = request.condition_expression(FREE_OR_SAME);
                let request = request.expression_attribute_names("#key", KEY);
                let request = request.expression_attribute_names("#site", "site");
                let request = request.expression_attribute_values(":site", text(accusation.site.as_str()));
                send(PUT, time, request.send()).await
            })
            .await;
        let conflict = match put {
            Ok(_) => return Ok(First::This),
            Err(failure) if failure.kind() == Kind::Conflict => failure,
            Err(failure) => return Err(failure),
        };
        // The entry may have been cleared since: then the caller decides again.
        match self.entry(accelerator, deadline).await? {
            None => Err(conflict),
            Some(entry) if entry.site == accusation.site.as_str() => Ok(First::This),
            Some(entry) => Ok(First::Other(entry)),
        }
    }

    /// The entry for an accelerator.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn entry(&self, accelerator: &str, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        let output = deadline
            .persist(async |time| {
                let request = self.client.get_item().table_name(&self.name).consistent_read(true);
                let request = request.key(KEY, AttributeValue::S(accelerator.to_owned()));
                send(GET, time, request.send()).await
            })
            .await?;
        let text = |item: &HashMap<String, AttributeValue>, name: &str| {
            item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default()
        };
        Ok(output.item.map(|item| Entry {
            site: text(&item, "site"),
            reporter: text(&item, "reporter"),
            at: text(&item, "at"),
        }))
    }

    /// Deletes the entry about this site, if there is one; another site's entry stays.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline.
    pub async fn clear(&self, accelerator: &str, site: &Site, deadline: Deadline) -> Result<(), Failure> {
        let deleted = deadline
            .persist(async |time| {
                let request = self.client.delete_item().table_name(&self.name);
                let request = request.key(KEY, AttributeValue::S(accelerator.to_owned()));
                let request = request.condition_expression("#site = :site");
                let request = request.expression_attribute_names("#site", "site");
                let site = AttributeValue::S(site.as_str().to_owned());
                send(DELETE, time, request.expression_attribute_values(":site", site).send()).await
            })
            .await;
        match deleted {
            Err(failure) if failure.kind() != Kind::Conflict => Err(failure),
            _ => Ok(()),
        }
    }
}

// === impl Entry ===

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, reporter, at } = self;
        write!(f, "{} reported {} at {}", Quoted(reporter), Quoted(site), Quoted(at))
    }
}
