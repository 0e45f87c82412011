//! The configuration file, Admiral's.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::claim::{Candidate, Terms};
use crate::program::text::Quoted;
use crate::program::variables::{InvalidConfig, Problems};
use crate::remote::arn::Arn;

/// The content of the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `leaseName`: which lease of the table.
    pub lease: String,
    /// `podIdentifier`: the owner's name, one for each site.
    pub me: Candidate,
    /// `waitTimeInSeconds`: how often the lease is renewed, or read.
    pub period: Duration,
    /// `waitTimeInSeconds` × `failureThreshold`: how long a record must be unchanged before it may be taken over.
    pub terms: Terms,
    /// `tableName`, or its ARN.
    pub table: String,
    /// `role`: the role to assume, if any.
    pub role: Option<String>,
    /// `region`: the table's Region.
    pub region: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "dynamoDB")]
    dynamodb: DynamoDb,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DynamoDb {
    #[serde(default)]
    lease_name: String,
    #[serde(default)]
    pod_identifier: String,
    #[serde(default)]
    wait_time_in_seconds: u32,
    #[serde(default)]
    failure_threshold: u32,
    #[serde(default)]
    table_name: String,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    region: String,
}

// === impl Config ===

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Names each key that is missing, unknown or invalid.
    pub fn parse(yaml: &str) -> Result<Self, InvalidConfig> {
        let mut problems = Problems::default();
        // The parser's message shows the surrounding lines, which do not fit a log line.
        let file = serde_saphyr::from_str::<File>(yaml);
        let file = file.map_err(|error| error.without_snippet().to_string());
        let Some(File { dynamodb: file }) = problems.take("YAML", file) else {
            return problems.unless_any(None);
        };
        let lease = problems.take("leaseName", filled(file.lease_name));
        let me = problems.take("podIdentifier", Candidate::new(&file.pod_identifier));
        let table = problems.take("tableName", filled(file.table_name));
        let region = problems.take("region", region(file.region));
        let role = match file.role.filter(|role| !role.is_empty()) {
            None => Some(None),
            Some(role) => problems.take("role", role_arn(role)).map(Some),
        };
        let period = match file.wait_time_in_seconds {
            0 => Err("it must be at least 1"),
            seconds => Ok(Duration::from_secs(seconds.into())),
        };
        let period = problems.take("waitTimeInSeconds", period);
        let terms = Terms::of(period.unwrap_or(Duration::from_secs(1)), file.failure_threshold);
        let terms = problems.take(
            "failureThreshold",
            terms.map_err(|_| "it must be at least 2: a holder renews once a period, and would be too late"),
        );
        let all = (lease, me, period, terms, table, role, region);
        let config = match all {
            (Some(lease), Some(me), Some(period), Some(terms), Some(table), Some(role), Some(region)) => {
                Some(Self { lease, me, period, terms, table, role, region })
            }
            _ => None,
        };
        problems.unless_any(config)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease, me, period, terms, table, role, region } = self;
        let (name, role) = (&me.name, role.as_deref().unwrap_or("none"));
        write!(
            f,
            "lease {lease} in table {table}, {region}, for {name}, every {period:?}, term {:?}, role {role}",
            terms.term()
        )
    }
}

fn filled(text: String) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is missing") } else { Ok(text) }
}

fn region(text: String) -> Result<String, String> {
    let fits = |part: char| part.is_ascii_lowercase() || part.is_ascii_digit() || part == '-';
    match filled(text)? {
        text if text.chars().all(fits) && text.contains('-') => Ok(text),
        text => Err(format!("{} is not a Region, for example us-west-2", Quoted(&text))),
    }
}

fn role_arn(text: String) -> Result<String, String> {
    let is_role = |arn: Arn<'_>| {
        let is_account = arn.account.len() == 12 && arn.account.bytes().all(|digit| digit.is_ascii_digit());
        let name = arn.resource.strip_prefix("role/").unwrap_or_default();
        let is_role = arn.service == "iam" && arn.region.is_empty();
        is_role && is_account && arn.partition.starts_with("aws") && !name.is_empty() && !name.contains('<')
    };
    if Arn::parse(&text).is_some_and(is_role) {
        Ok(text)
    } else {
        Err(format!(
            "{} is not a role's ARN, for example arn:aws:iam::123456789012:role/lease",
            Quoted(&text)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document's example, with an account and a role.
    const ADMIRAL: &str = "dynamoDB:
  leaseName: mylease
  podIdentifier: myname
  waitTimeInSeconds: 15
  failureThreshold: 3
  tableName: admiral-lease
  role: arn:aws:iam::123456789012:role/lease
  region: us-west-2
";

    fn error(yaml: &str) -> String {
        Config::parse(yaml).unwrap_err().to_string()
    }

    #[test]
    fn admirals_file_is_read_unchanged() {
        let config = Config::parse(ADMIRAL).unwrap();
        assert_eq!(
            config.to_string(),
            "lease mylease in table admiral-lease, us-west-2, for myname, every 15s, term 45s, role \
             arn:aws:iam::123456789012:role/lease"
        );
        for role in ["role: \"\"", "role:"] {
            let without = ADMIRAL.replace("role: arn:aws:iam::123456789012:role/lease", role);
            assert_eq!(Config::parse(&without).unwrap().role, None);
        }
    }

    #[test]
    fn an_error_in_the_form_is_named_with_its_place() {
        for (from, to, said) in [
            ("region", "regoin", "unknown field `regoin`, expected one of leaseName, podIdentifier"),
            ("dynamoDB:", "other: 1\ndynamoDB:", "unknown field `other`, expected one of dynamoDB at line 1"),
            ("15", "soon", "invalid u32 at line 4, column 22"),
            ("15", "15\n  waitTimeInSeconds: 5", "duplicate mapping key: waitTimeInSeconds"),
        ] {
            let error = error(&ADMIRAL.replace(from, to));
            assert!(error.starts_with(&format!("the configuration is invalid: YAML: {said}")), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn all_invalid_keys_are_named_at_once() {
        let problems = error(
            "dynamoDB:\n  podIdentifier: SKIP-LEASE-POD\n  failureThreshold: 1\n  role: arn:aws:iam::<awsaccountno>:role/<rolename>\n  region: Oregon\n",
        );
        for key in [
            "leaseName",
            "podIdentifier",
            "waitTimeInSeconds",
            "failureThreshold",
            "tableName",
            "role",
            "region",
        ] {
            assert!(problems.contains(&format!("{key}: ")), "{key}: {problems}");
        }
    }
}
