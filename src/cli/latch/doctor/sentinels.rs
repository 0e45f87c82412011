//! The sentinels of a latch: each is a failover pair of texts, by whose answer a watcher knows a health check's verdict.

use aws_sdk_route53::types::{ResourceRecordSet, ResourceRecordSetFailover, RrType};

use super::{DEPLOY, Doctor};

const NAME: &str = "records";

impl Doctor<'_> {
    /// Whether `_serving`, `_primary` and `_standby`, in this order with their records, have their texts.
    pub(super) fn sentinels<'a>(
        &mut self,
        named: impl Iterator<Item = (&'a String, &'a Vec<ResourceRecordSet>)>,
    ) {
        let health = ["healthy", "unhealthy"];
        for ((name, records), texts) in named.zip([["primary", "standby"], health, health]) {
            self.sentinel(name, records, texts);
        }
    }

    /// Whether a sentinel has both its texts: `up` while its check is healthy, `down` otherwise. Without the second one, Route 53
    /// answers the first for ever.
    fn sentinel(&mut self, name: &str, records: &[ResourceRecordSet], [up, down]: [&str; 2]) {
        use ResourceRecordSetFailover::{Primary, Secondary};
        for (role, text) in [(Primary, up), (Secondary, down)] {
            let is_this = |record: &&ResourceRecordSet| {
                *record.r#type() == RrType::Txt && record.failover() == Some(&role)
            };
            let texts: Vec<_> = records.iter().filter(is_this).map(text_of).collect();
            if texts.as_slice() != [Some(format!("\"{text}\""))] {
                let found = match texts.as_slice() {
                    [] => "is missing".to_owned(),
                    [Some(other)] => format!("is {other}"),
                    _ => "has several values".to_owned(),
                };
                self.findings.wrong(
                    NAME,
                    format!(
                        "the {role} text of {name}, \"{text}\", {found}: what it answers is not the verdict on its check",
                        role = role.as_str()
                    ),
                    format!("{DEPLOY} {}", self.latch.name),
                );
            }
        }
    }
}

/// The text of a record that has one.
fn text_of(record: &ResourceRecordSet) -> Option<String> {
    let [value] = record.resource_records() else { return None };
    Some(value.value.clone())
}
