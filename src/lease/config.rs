//! The configuration file, Admiral's.

use std::fmt::{self, Display};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::claim::{Candidate, Terms};
use super::{names, yaml};
use crate::program::text::Quoted;
use crate::program::variables::{InvalidConfig, Lookup, Problems, given};

/// The section of the file that is read.
const SECTION: &str = "dynamoDB";
/// Its keys: Admiral's first.
const KEYS: [&str; 10] = [
    LEASE_NAME,
    POD_IDENTIFIER,
    WAIT_TIME,
    FAILURE_THRESHOLD,
    TABLE_NAME,
    ROLE,
    REGION,
    MARGIN,
    GRACE,
    LONGEST_TERM,
];
const LEASE_NAME: &str = "leaseName";
const POD_IDENTIFIER: &str = "podIdentifier";
const WAIT_TIME: &str = "waitTimeInSeconds";
const FAILURE_THRESHOLD: &str = "failureThreshold";
const TABLE_NAME: &str = "tableName";
const ROLE: &str = "role";
const REGION: &str = "region";
const MARGIN: &str = "marginInMilliseconds";
const GRACE: &str = "graceInMilliseconds";
const LONGEST_TERM: &str = "longestTermInSeconds";

/// The variable that names the owner if the file does not.
const IDENTITY: &str = "LEASE_IDENTITY";
/// The SDKs' variables that name the Region if the file does not.
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// The longest term of any candidate if the file does not set it, and the own term is not longer.
const LONGEST: Duration = Duration::from_mins(1);

/// The content of the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `leaseName`: which lease of the table.
    pub lease: String,
    /// `podIdentifier`, or the variable `LEASE_IDENTITY`: the owner's name, one for each site.
    pub me: Candidate,
    /// `waitTimeInSeconds`: how often the lease is renewed, or read.
    pub period: Duration,
    /// `waitTimeInSeconds` × `failureThreshold`: how long a record must be unchanged before it may be taken over;
    /// `marginInMilliseconds` and `graceInMilliseconds`, each by default a twentieth of that.
    pub terms: Terms,
    /// `longestTermInSeconds`: the longest term that any candidate for the lease may have. A record that shows no term
    /// must be unchanged for this long. By default 60 s, or the own term if that is longer.
    pub longest: Duration,
    /// `tableName`, or its ARN.
    pub table: String,
    /// `role`: the role to assume, if any.
    pub role: Option<String>,
    /// `region`, or the variable `AWS_REGION` or `AWS_DEFAULT_REGION`: the table's Region.
    pub region: String,
    /// The file's other sections, which are Admiral's.
    pub ignored: Vec<String>,
}

/// The section's values, each of the type that its key has.
struct Section<'a> {
    yaml: &'a str,
    problems: Problems,
}

/// A value is missing or invalid, and its problem is recorded.
struct Recorded;

// === impl Config ===

impl Config {
    /// Reads and checks the file. `lookup` returns variables, for what the file may leave out.
    ///
    /// # Errors
    /// Names each key that is missing, unknown or invalid.
    pub fn parse(yaml: &str, lookup: Lookup<'_>) -> Result<Self, InvalidConfig> {
        let mut problems = Problems::default();
        let Some(sections) = problems.take("YAML", yaml::keys(yaml, &[])) else {
            return problems.unless_any(None);
        };
        let (own, ignored): (Vec<_>, _) =
            sections.unwrap_or_default().into_iter().partition(|name| name == SECTION);
        let keys = if own.is_empty() { Ok(None) } else { yaml::keys(yaml, &[SECTION]) };
        let keys = keys.and_then(|keys| keys.ok_or_else(|| missing(&ignored)));
        let Some(keys) = problems.take(SECTION, keys) else {
            return problems.unless_any(None);
        };
        for key in keys.iter().filter(|key| !KEYS.contains(&key.as_str())) {
            problems.add(key, format!("there is no such key in {SECTION}, only {}", KEYS.join(", ")));
        }
        let mut section = Section { yaml, problems };
        let lease = section.lease();
        let me = section.identity(lookup);
        let region = section.region(lookup);
        let table = section.table(region.as_deref().ok());
        let role = section.role();
        let config = match (lease, me, section.times(), table, role, region) {
            (Ok(lease), Ok(me), Ok((period, terms, longest)), Ok(table), Ok(role), Ok(region)) => {
                Some(Self { lease, me, period, terms, longest, table, role, region, ignored })
            }
            _ => None,
        };
        section.problems.unless_any(config)
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease, me, period, terms, longest, table, role, region, ignored: _ } = self;
        let (name, role) = (&me.name, role.as_deref().unwrap_or("none"));
        write!(
            f,
            "lease {lease} in table {table}, {region}, for {name}, every {period:?}, term {:?}, longest term \
             {longest:?}, role {role}",
            terms.term()
        )
    }
}

// === impl Section ===

impl Section<'_> {
    fn take<T, E: Display>(&mut self, key: &str, value: Result<T, E>) -> Result<T, Recorded> {
        self.problems.take(key, value).ok_or(Recorded)
    }

    /// Returns the key's value, `None` if it is absent or null.
    fn value<T: DeserializeOwned>(&mut self, key: &str, kind: &str) -> Result<Option<T>, Recorded> {
        let value = yaml::value(self.yaml, &[SECTION, key]);
        self.take(key, value.map_err(|error| format!("it is not {kind}: {error}")))
    }

    /// Returns a text. An empty one counts as absent.
    fn text(&mut self, key: &str) -> Result<Option<String>, Recorded> {
        let text = self.value::<String>(key, "a text")?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, Recorded> {
        self.value(key, "a whole number, for example 15")
    }

    fn at_least(&mut self, key: &str, least: u32, why: &str) -> Result<u32, Recorded> {
        let number = self.number(key)?.filter(|number| *number >= least);
        self.take(key, number.ok_or_else(|| format!("it must be at least {least}{why}")))
    }

    fn filled(&mut self, key: &str) -> Result<String, Recorded> {
        let text = self.text(key)?;
        self.take(key, text.ok_or("it is missing"))
    }

    /// Returns the text of the key, or else of the first variable that has one, with the name of its place.
    fn text_or_variable(
        &mut self,
        key: &'static str,
        variables: &[&'static str],
        lookup: Lookup<'_>,
    ) -> Result<(&'static str, String), Recorded> {
        let own = self.text(key)?.map(|text| (key, text));
        let given = || variables.iter().find_map(|name| Some((*name, given(lookup, name)?)));
        let missing = || format!("it is missing. Add it to the file, or set {}", variables.join(" or "));
        self.take(key, own.or_else(given).ok_or_else(missing))
    }

    fn identity(&mut self, lookup: Lookup<'_>) -> Result<Candidate, Recorded> {
        let (place, name) = self.text_or_variable(POD_IDENTIFIER, &[IDENTITY], lookup)?;
        // Kubernetes leaves `$(NAME)` as it is where NAME is not set.
        if ["${", "$(", "{{"].iter().any(|begins| name.contains(begins)) {
            let found = Quoted(&name);
            let problem = if place == POD_IDENTIFIER {
                format!("{found}: variables are not replaced. Remove the key, and set {IDENTITY}")
            } else {
                format!("{found}: a variable in it was not replaced: set that one")
            };
            return self.take(place, Err(problem));
        }
        let name = self.take(place, names::name(name))?;
        self.take(place, Candidate::new(&name))
    }

    fn lease(&mut self) -> Result<String, Recorded> {
        let name = self.filled(LEASE_NAME)?;
        self.take(LEASE_NAME, names::name(name))
    }

    fn table(&mut self, region: Option<&str>) -> Result<String, Recorded> {
        let table = self.filled(TABLE_NAME)?;
        self.take(TABLE_NAME, names::table(table, region))
    }

    fn region(&mut self, lookup: Lookup<'_>) -> Result<String, Recorded> {
        let (place, name) = self.text_or_variable(REGION, &REGIONS, lookup)?;
        self.take(place, names::region(name))
    }

    fn role(&mut self) -> Result<Option<String>, Recorded> {
        let role = self.text(ROLE)?;
        self.take(ROLE, role.map(names::role).transpose())
    }

    /// Returns the period, the terms, and the longest term of any candidate.
    fn times(&mut self) -> Result<(Duration, Terms, Duration), Recorded> {
        let why = ": a holder renews once a period, and would be too late";
        // All are read before the first problem ends this.
        let (seconds, count) = (self.at_least(WAIT_TIME, 1, ""), self.at_least(FAILURE_THRESHOLD, 2, why));
        let (margin, grace, longest) = (self.number(MARGIN), self.number(GRACE), self.number(LONGEST_TERM));
        let (seconds, count) = (seconds?, count?);
        let term = seconds.checked_mul(count).ok_or_else(|| format!("{count} × {WAIT_TIME} is too long"));
        let term = Duration::from_secs(self.take(FAILURE_THRESHOLD, term)?.into());
        let period = Duration::from_secs(seconds.into());
        let longest = longest.and_then(|longest| {
            let longest = longest.map_or(LONGEST.max(term), |seconds| Duration::from_secs(seconds.into()));
            let too_short = || format!("it must be at least the own term, {} s", term.as_secs());
            self.take(LONGEST_TERM, Some(longest).filter(|longest| *longest >= term).ok_or_else(too_short))
        });
        let terms = self.terms(period, term, margin?, grace?);
        Ok((period, terms?, longest?))
    }

    fn terms(
        &mut self,
        period: Duration,
        term: Duration,
        margin: Option<u32>,
        grace: Option<u32>,
    ) -> Result<Terms, Recorded> {
        let part =
            |own: Option<u32>| own.map_or(term / Terms::PART, |some| Duration::from_millis(some.into()));
        let (given, margin, grace) = (margin, part(margin), part(grace));
        // The key to correct: the longer one of the two, if it is in the file.
        let key = if given.is_some() && (margin >= grace || margin.is_zero()) { MARGIN } else { GRACE };
        self.take(key, checked(period, term, margin, grace))
    }
}

/// Returns terms with which a holder renews the lease before it becomes passive.
fn checked(period: Duration, term: Duration, margin: Duration, grace: Duration) -> Result<Terms, String> {
    let terms = Terms::new(term, margin, grace).map_err(|error| error.to_string())?;
    match term.saturating_sub(margin + grace) {
        _ if margin.is_zero() => Err("it must be at least 1: no two clocks run at the same rate".to_owned()),
        left if left <= period => Err(format!(
            "a holder would be active for {left:?} of its term of {term:?}, and renews only every {period:?}: \
             shorten the margin of {margin:?} or the grace of {grace:?}"
        )),
        _ => Ok(terms),
    }
}

fn missing(others: &[String]) -> String {
    match others {
        [] => "the section is missing".to_owned(),
        others => format!("the section is missing; the file has {}", Quoted(&others.join(", "))),
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

    fn parse(yaml: &str) -> Result<Config, InvalidConfig> {
        Config::parse(yaml, &|_| None)
    }

    fn error(yaml: &str) -> String {
        parse(yaml).unwrap_err().to_string()
    }

    /// The example with these lines after it.
    fn with(more: &str) -> String {
        format!("{ADMIRAL}{more}")
    }

    #[test]
    fn admirals_file_is_read_unchanged() {
        let config = parse(ADMIRAL).unwrap();
        assert_eq!(
            config.to_string(),
            "lease mylease in table admiral-lease, us-west-2, for myname, every 15s, term 45s, longest term 60s, role \
             arn:aws:iam::123456789012:role/lease"
        );
        assert_eq!(config.terms, Terms::of(Duration::from_secs(15), 3).unwrap());
        for role in ["role: \"\"", "role:"] {
            let without = ADMIRAL.replace("role: arn:aws:iam::123456789012:role/lease", role);
            assert_eq!(parse(&without).unwrap().role, None);
        }
    }

    #[test]
    fn other_sections_are_ignored_and_named() {
        let other =
            "ignoreIdentityList:\n  dynamoDB:\n    leaseName: other\n    rules: [1, .inf, .nan, {a: b}]\n";
        for file in [format!("{other}{ADMIRAL}database:\n"), format!("database: 1\n{ADMIRAL}{other}")] {
            let config = parse(&file).unwrap();
            assert_eq!(
                (&*config.lease, config.ignored.join(",")),
                ("mylease", "database,ignoreIdentityList".into())
            );
        }
        for (file, said) in [
            ("", "dynamoDB: the section is missing"),
            ("dynamoDB:", "dynamoDB: the section is missing"),
            ("dynamodb: {}\nx: 1", "dynamoDB: the section is missing; the file has \"dynamodb, x\""),
        ] {
            assert_eq!(error(file), format!("the configuration is invalid: {said}"));
        }
    }

    #[test]
    fn an_error_in_the_form_is_named_with_its_place() {
        for (from, to, said) in [
            ("15", "15\n  waitTimeInSeconds: 5", "YAML: duplicate mapping key: waitTimeInSeconds"),
            ("dynamoDB:", "dynamoDB: 1\ndynamoDB:", "YAML: duplicate mapping key: dynamoDB"),
            ("  leaseName: mylease", "  - mylease", "YAML: "),
            ("mylease", "[mylease", "YAML: "),
        ] {
            let error = error(&ADMIRAL.replacen(from, to, 1));
            assert!(error.starts_with(&format!("the configuration is invalid: {said}")), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn all_invalid_keys_are_named_at_once() {
        let problems = error(
            "dynamoDB:\n  podIdentifier: SKIP-LEASE-POD\n  failureThreshold: 1\n  role: arn:aws:iam::<awsaccountno>:role/<rolename>\n  region: Oregon\n  leaseNmae: x\n",
        );
        for key in [
            "leaseName",
            "podIdentifier",
            "waitTimeInSeconds",
            "failureThreshold",
            "tableName",
            "role",
            "region",
            "leaseNmae",
        ] {
            assert!(problems.contains(&format!("{key}: ")), "{key}: {problems}");
        }
    }

    #[test]
    fn a_name_that_would_fail_at_aws_is_named_by_its_key_at_the_start() {
        let long = "l".repeat(2049);
        let arn = "arn:aws:dynamodb:us-east-1:123456789012:table/lease";
        for (from, to, said) in [
            ("mylease", "\"a\\0b\"", "leaseName: \"a\\0b\" has characters that cannot be shown"),
            ("mylease", &long, "leaseName: it has 2049 bytes"),
            ("myname", "\"a\\nb\"", "podIdentifier: \"a\\nb\" has characters that cannot be shown"),
            ("myname", &long, "podIdentifier: it has 2049 bytes"),
            ("admiral-lease", "a b", "tableName: \"a b\" is not a table"),
            ("admiral-lease", arn, &format!("tableName: \"{arn}\" is not in the Region us-west-2")),
            ("us-west-2", "us-west-2.", "region: \"us-west-2.\" is not a Region"),
            ("role/lease", "role/a b", "role: \"arn:aws:iam::123456789012:role/a b\" is not a role's ARN"),
        ] {
            let error = error(&ADMIRAL.replacen(from, to, 1));
            assert!(error.starts_with(&format!("the configuration is invalid: {said}")), "{error}");
        }
        let without = ADMIRAL.replace("  podIdentifier: myname\n", "");
        let lookup = |name: &str| (name == IDENTITY).then(|| "pod-\u{fffd}".to_owned());
        let error = Config::parse(&without, &lookup).unwrap_err().to_string();
        assert!(error.contains("LEASE_IDENTITY: \"pod-\u{fffd}\" has characters"), "{error}");
    }

    #[test]
    fn a_value_of_another_type_is_named_by_its_key() {
        let problems = error(
            "dynamoDB:\n  leaseName: [a]\n  podIdentifier: {a: b}\n  waitTimeInSeconds: soon\n  failureThreshold: 3.5\n  tableName: [[a], b]\n  role: {}\n  region: []\n  marginInMilliseconds: .inf\n  graceInMilliseconds: [1]\n  longestTermInSeconds: 9999999999\n",
        );
        for key in KEYS {
            assert!(problems.contains(&format!("{key}: it is not a ")), "{key}: {problems}");
        }
        assert!(
            problems.contains("waitTimeInSeconds: it is not a whole number, for example 15: "),
            "{problems}"
        );
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }

    #[test]
    fn a_text_that_looks_like_a_number_stays_as_it_is() {
        let config = parse(&ADMIRAL.replace("myname", "007").replace("mylease", "1e3")).unwrap();
        assert_eq!((&*config.me.name, &*config.lease), ("007", "1e3"));
    }

    #[test]
    fn margin_grace_and_the_longest_term_can_be_set() {
        let config = parse(&with(
            "  marginInMilliseconds: 4000\n  graceInMilliseconds: 0\n  longestTermInSeconds: 90\n",
        ));
        let config = config.unwrap();
        let term = Duration::from_secs(45);
        assert_eq!(config.terms, Terms::new(term, Duration::from_secs(4), Duration::ZERO).unwrap());
        assert_eq!(config.longest, Duration::from_secs(90));
        let slow = ADMIRAL.replace("failureThreshold: 3", "failureThreshold: 5");
        assert_eq!(parse(&slow).unwrap().longest, Duration::from_secs(75));
        for (more, said) in [
            ("  marginInMilliseconds: 0\n", "marginInMilliseconds: it must be at least 1"),
            ("  marginInMilliseconds: 45000\n", "marginInMilliseconds: a term of 45s leaves nothing"),
            (
                "  graceInMilliseconds: 30000\n",
                "graceInMilliseconds: a holder would be active for 12.75s of its term",
            ),
            ("  longestTermInSeconds: 44\n", "longestTermInSeconds: it must be at least the own term, 45 s"),
        ] {
            let error = error(&with(more));
            assert!(error.starts_with(&format!("the configuration is invalid: {said}")), "{error}");
        }
        let endless = ADMIRAL.replace("15", "4294967295");
        assert!(error(&endless).contains("failureThreshold: 3 × waitTimeInSeconds is too long"));
    }

    #[test]
    fn identity_and_region_may_come_from_the_environment() {
        let without = ADMIRAL.replace("  podIdentifier: myname\n", "").replace("  region: us-west-2\n", "");
        let parse = |yaml: &str, variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            Config::parse(yaml, &lookup).map(|config| format!("{} {}", config.me.name, config.region))
        };
        let all = [("LEASE_IDENTITY", "pod-1"), ("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-west-1")];
        assert_eq!(parse(&without, &all).unwrap(), "pod-1 eu-west-1");
        assert_eq!(parse(ADMIRAL, &all).unwrap(), "myname us-west-2");
        let error = parse(&without, &[]).unwrap_err().to_string();
        for said in [
            "podIdentifier: it is missing. Add it to the file, or set LEASE_IDENTITY",
            "region: it is missing. Add it to the file, or set AWS_REGION or AWS_DEFAULT_REGION",
        ] {
            assert!(error.contains(said), "{error}");
        }
        let error =
            parse(&without, &[("LEASE_IDENTITY", "SKIP-LEASE-POD"), ("AWS_REGION", "Oregon")]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("LEASE_IDENTITY: ") && error.contains("AWS_REGION: \"Oregon\""), "{error}");
        let error = parse(&ADMIRAL.replace("myname", "${POD}"), &all).unwrap_err().to_string();
        assert!(error.contains("podIdentifier: \"${POD}\": variables are not replaced"), "{error}");
        let error = parse(&without, &[("LEASE_IDENTITY", "$(POD_NAME)"), ("AWS_REGION", "eu-west-1")]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("LEASE_IDENTITY: \"$(POD_NAME)\": a variable in it was not replaced"),
            "{error}"
        );
    }
}
