//! The variables that configure the functions, read once and checked together.

use std::collections::BTreeMap;
use std::fmt;

use hyper::http::uri::Authority;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::site::Site;
use crate::program::text::{Quoted, brief};
use crate::program::variables::Lookup;
use crate::program::variables::{InvalidConfig, Problems, boolean};
use crate::remote::arn::Arn;
use crate::remote::https;

/// A function's configuration, from its variables.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ALERT_NAME`: the label `alertname` of the alerts that count.
    pub alert_name: String,
    /// The user that may send alerts; `fence` requires it.
    pub webhook: Option<Login>,
    /// `INFINISPAN_USER`, `INFINISPAN_USER_SECRET`.
    pub infinispan: Login,
    /// `INFINISPAN_SITE_ENDPOINTS`: host and port of each site's Infinispan.
    pub endpoints: BTreeMap<Site, Authority>,
    /// The certificates of these endpoints that are trusted.
    pub trust: Trust,
    /// `SECRETS_REGION`: where the secrets are.
    pub secrets_region: String,
    /// `FENCE_TABLE`: the table in which the first report wins.
    pub table: Option<Table>,
    /// `DRY_RUN`: decide and log, change nothing.
    pub dry_run: bool,
}

/// A user, and the secret that holds the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The secret's name or ARN.
    pub secret: String,
}

/// A table, by its name or ARN, and its Region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name or ARN.
    pub name: String,
    /// Its Region.
    pub region: String,
}

/// The certificates that are trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// `INFINISPAN_CA_CERT`: those that lead to these roots, and these themselves.
    Roots(RootCertStore, Vec<CertificateDer<'static>>),
    /// `INFINISPAN_INSECURE_TLS`: any certificate.
    Anybody,
}

// === impl Config ===

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Names each variable that is missing or invalid.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, InvalidConfig> {
        let mut problems = Problems::default();
        let alert_name = text(lookup, "ALERT_NAME").unwrap_or_else(|| Ok("SiteOffline".to_owned()));
        let alert_name = problems.take("ALERT_NAME", alert_name);
        let webhook = match (lookup("WEBHOOK_USER"), lookup("WEBHOOK_USER_SECRET")) {
            (None, None) => Some(None),
            _ => login(&mut problems, lookup, "WEBHOOK_USER", "WEBHOOK_USER_SECRET").map(Some),
        };
        let infinispan = login(&mut problems, lookup, "INFINISPAN_USER", "INFINISPAN_USER_SECRET");
        let endpoints = required(lookup, "INFINISPAN_SITE_ENDPOINTS").and_then(|text| endpoints(&text));
        let endpoints = problems.take("INFINISPAN_SITE_ENDPOINTS", endpoints);
        let trust = trust(&mut problems, lookup);
        let secrets_region =
            problems.take("SECRETS_REGION", required(lookup, "SECRETS_REGION").and_then(region));
        let own_region = lookup("AWS_REGION");
        let table = text(lookup, "FENCE_TABLE").map(|name| name.and_then(|name| table(name, own_region)));
        let table = problems.take("FENCE_TABLE", table.transpose());
        let dry_run = lookup("DRY_RUN").unwrap_or_else(|| "false".to_owned());
        let dry_run = problems.take("DRY_RUN", boolean(&dry_run));
        let config = || {
            Some(Self {
                alert_name: alert_name?,
                webhook: webhook?,
                infinispan: infinispan?,
                endpoints: endpoints?,
                trust: trust?,
                secrets_region: secrets_region?,
                table: table?,
                dry_run: dry_run?,
            })
        };
        problems.unless_any(config())
    }
}

/// Writes the configuration as variables; secrets by their names.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Login { user, secret }) = &self.webhook {
            write!(f, "WEBHOOK_USER={user} WEBHOOK_USER_SECRET={secret} ")?;
        }
        let Login { user, secret } = &self.infinispan;
        write!(f, "INFINISPAN_USER={user} INFINISPAN_USER_SECRET={secret}")?;
        let endpoints = self.endpoints.iter().map(|(site, endpoint)| format!("{site}={endpoint}"));
        write!(f, " INFINISPAN_SITE_ENDPOINTS={}", endpoints.collect::<Vec<_>>().join(","))?;
        match &self.trust {
            Trust::System => {}
            Trust::Roots(roots, _) => write!(f, " INFINISPAN_CA_CERT=({} certificates)", roots.len())?,
            Trust::Anybody => f.write_str(" INFINISPAN_INSECURE_TLS=true")?,
        }
        write!(f, " SECRETS_REGION={} FENCE_TABLE=", self.secrets_region)?;
        match &self.table {
            Some(Table { name, region }) => write!(f, "{name} (in {region})")?,
            None => f.write_str("(unset)")?,
        }
        write!(f, " ALERT_NAME={} DRY_RUN={}", self.alert_name, self.dry_run)
    }
}

/// Reads a variable that must not be empty.
fn text(lookup: Lookup<'_>, name: &str) -> Option<Result<String, String>> {
    let filled = |text: String| if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text) };
    lookup(name).map(filled)
}

fn required(lookup: Lookup<'_>, name: &str) -> Result<String, String> {
    text(lookup, name).unwrap_or_else(|| Err("it is not set".to_owned()))
}

fn login(problems: &mut Problems, lookup: Lookup<'_>, user: &str, secret: &str) -> Option<Login> {
    let mut named = required(lookup, user);
    if named.as_ref().is_ok_and(|name| name.contains(':')) {
        named = Err("a user name for basic authentication must not contain a colon".to_owned());
    }
    let user = problems.take(user, named);
    let secret = problems.take(secret, required(lookup, secret));
    Some(Login { user: user?, secret: secret? })
}

fn endpoints(text: &str) -> Result<BTreeMap<Site, Authority>, String> {
    let example = r#"set it to a JSON object like {"site-a": "infinispan-a.example.com:443"}"#;
    let texts: BTreeMap<Site, String> =
        serde_json::from_str(text).map_err(|error| format!("{}; {example}", brief(&error)))?;
    if texts.len() < 2 {
        return Err(format!("it names fewer than two sites; {example}"));
    }
    let endpoint = |(site, text): (Site, String)| match text.parse::<Authority>() {
        // Only a port may follow the host.
        Ok(endpoint)
            if !endpoint.host().is_empty()
                && (endpoint.as_str() == endpoint.host() || endpoint.port_u16().is_some())
                && !text.contains('@') =>
        {
            Ok((site, endpoint))
        }
        _ => Err(format!("{site}: {} is not a host or host:port, without https://", Quoted(&text))),
    };
    texts.into_iter().map(endpoint).collect()
}

fn trust(problems: &mut Problems, lookup: Lookup<'_>) -> Option<Trust> {
    let roots = |pem: String| {
        let roots = https::roots(pem.as_bytes())
            .map_err(|why| format!("{why}; set it to the text of a PEM file, not its path"))?;
        Ok((roots, CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect()))
    };
    let roots = text(lookup, "INFINISPAN_CA_CERT").map(|pem| pem.and_then(roots)).transpose();
    let roots = problems.take("INFINISPAN_CA_CERT", roots);
    let insecure = lookup("INFINISPAN_INSECURE_TLS").unwrap_or_else(|| "false".to_owned());
    let insecure = problems.take("INFINISPAN_INSECURE_TLS", boolean(&insecure));
    match (roots?, insecure?) {
        (Some(_), true) => {
            problems.add(
                "INFINISPAN_INSECURE_TLS",
                "it would leave INFINISPAN_CA_CERT without effect: set one of them",
            );
            None
        }
        (Some((roots, own)), false) => Some(Trust::Roots(roots, own)),
        (None, true) => Some(Trust::Anybody),
        (None, false) => Some(Trust::System),
    }
}

/// Checks a Region, which becomes part of a host's name.
fn region(text: String) -> Result<String, String> {
    let fits =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(text) } else { Err(format!("{} is not a Region", Quoted(&text))) }
}

fn table(name: String, own_region: Option<String>) -> Result<Table, String> {
    let of_arn = match Arn::parse(&name) {
        Some(arn) if arn.service == "dynamodb" && arn.resource.starts_with("table/") => {
            Some(arn.region.to_owned())
        }
        None if !name.contains(':') => None,
        _ => return Err(format!("{} is neither a table's name nor its ARN", Quoted(&name))),
    };
    let region = region(of_arn.or(own_region).ok_or("a table's name needs AWS_REGION; give its ARN")?)?;
    Ok(Table { name, region })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [(&str, &str); 6] = [
        ("WEBHOOK_USER", "alertmanager"),
        ("WEBHOOK_USER_SECRET", "webhook-password"),
        ("INFINISPAN_USER", "developer"),
        ("INFINISPAN_USER_SECRET", "infinispan-password"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"site-a":"a.example.com","site-b":"b.example.com:8443"}"#),
        ("SECRETS_REGION", "eu-central-1"),
    ];

    /// The documented function's variables, and these.
    fn read(more: &[(&str, &str)]) -> Result<Config, String> {
        let given = [&GIVEN, more].concat();
        let lookup = |name: &str| {
            given.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Config::read(&lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_functions_variables_are_enough() {
        let config = read(&[]).unwrap();
        assert_eq!((config.alert_name.as_str(), config.dry_run), ("SiteOffline", false));
        assert_eq!(config.endpoints[&"site-b".parse().unwrap()].as_str(), "b.example.com:8443");
        assert!(matches!(config.trust, Trust::System) && config.table.is_none());
    }

    #[test]
    fn a_table_by_its_arn_is_in_the_arns_region() {
        let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/fence";
        let config = read(&[("FENCE_TABLE", arn), ("AWS_REGION", "eu-central-1")]).unwrap();
        assert_eq!(config.table, Some(Table { name: arn.to_owned(), region: "eu-west-1".to_owned() }));
        let config = read(&[("FENCE_TABLE", "fence"), ("AWS_REGION", "eu-central-1")]).unwrap();
        assert_eq!(config.table.unwrap().region, "eu-central-1");
    }

    #[test]
    fn an_invalid_variable_stops_the_start_and_is_named() {
        for (name, value, said) in [
            ("WEBHOOK_USER", "", "it is empty"),
            ("WEBHOOK_USER", "a:b", "must not contain a colon"),
            ("INFINISPAN_USER_SECRET", " ", "it is empty"),
            ("INFINISPAN_SITE_ENDPOINTS", "site-a=a", "expected value at line 1"),
            ("INFINISPAN_SITE_ENDPOINTS", "{}", "it names fewer than two sites"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c"}"#, "it names fewer than two sites"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c","b":"d:99999"}"#, "b: \"d:99999\" is not a host"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c","b":"d:"}"#, "b: \"d:\" is not a host"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a/b":"c","b":"d"}"#, "not a site's name"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"https://c","b":"d"}"#, "without https://"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"u@c","b":"d"}"#, "is not a host or host:port"),
            ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c/d","b":"d"}"#, "is not a host or host:port"),
            ("INFINISPAN_CA_CERT", "/etc/ca.pem", "it holds no certificate"),
            (
                "INFINISPAN_CA_CERT",
                "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
                "certificate 1",
            ),
            ("INFINISPAN_INSECURE_TLS", "yes", "neither true nor false"),
            ("SECRETS_REGION", "eu/west", "is not a Region"),
            ("FENCE_TABLE", "", "it is empty"),
            ("FENCE_TABLE", "fence", "needs AWS_REGION"),
            ("FENCE_TABLE", "arn:aws:sns:eu-west-1:1:x", "neither a table's name nor its ARN"),
            ("ALERT_NAME", "", "it is empty"),
            ("DRY_RUN", "maybe", "neither true nor false"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(
                error.contains(&format!("{name}: ")) && error.contains(said),
                "{name}={value:?}: {error}"
            );
        }
        let error = Config::read(&|_| None).unwrap_err().to_string();
        for name in
            ["INFINISPAN_USER", "INFINISPAN_USER_SECRET", "INFINISPAN_SITE_ENDPOINTS", "SECRETS_REGION"]
        {
            assert!(error.contains(&format!("{name}: it is not set")), "{error}");
        }
    }
}
