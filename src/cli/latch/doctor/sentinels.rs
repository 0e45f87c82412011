//! The sentinels of a latch: each is a failover pair of texts, by whose answer a watcher knows a health check's verdict.

use aws_sdk_route53::types::{ResourceRecordSet, ResourceRecordSetFailover, RrType};

use super::{DEPLOY, Doctor};

const NAME: &str = "records";
/// The texts of a sentinel that shows a check's verdict.
pub(super) const HEALTH: [&str; 2] = ["healthy", "unhealthy"];

impl Doctor<'_> {
    /// Whether `_serving`, `_primary` and `_standby`, in this order with their records, have their texts.
    pub(super) fn sentinels<'a>(
        &mut self,
        named: impl Iterator<Item = (&'a String, &'a Vec<ResourceRecordSet>)>,
    ) {
        let again = format!("{DEPLOY} {}", self.latch.name);
        for ((name, records), texts) in named.zip([["primary", "standby"], HEALTH, HEALTH]) {
            self.sentinel(name, records, texts, &again);
        }
    }

    /// Whether a sentinel has both its texts: `up` while its check is healthy, `down` otherwise. Without the second one, Route 53
    /// answers the first for ever.
    pub(super) fn sentinel(
        &mut self,
        name: &str,
        records: &[ResourceRecordSet],
        [up, down]: [&str; 2],
        remedy: &str,
    ) -> bool {
        use ResourceRecordSetFailover::{Primary, Secondary};
        let mut is_well = true;
        for (role, text) in [(Primary, up), (Secondary, down)] {
            let is_this = |record: &&ResourceRecordSet| {
                *record.r#type() == RrType::Txt && record.failover() == Some(&role)
            };
            let texts: Vec<_> = records.iter().filter(is_this).map(text_of).collect();
            if texts.as_slice() != [Some(format!("\"{text}\""))] {
                is_well = false;
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
                    remedy.to_owned(),
                );
            }
        }
        is_well
    }
}

/// The text of a record that has one.
fn text_of(record: &ResourceRecordSet) -> Option<String> {
    let [value] = record.resource_records() else { return None };
    Some(value.value.clone())
}
