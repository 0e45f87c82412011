//! The variables that configure the functions, read once and checked together.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use hyper::http::uri::Authority;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

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
    /// `WATCHDOG_NAME`: the label `alertname` of the alerts that fire always, and show that reports arrive.
    pub watchdog_name: String,
    /// The user that may send alerts to the function's URL.
    pub webhook: Option<Login>,
    /// `ALERT_TOPIC`: the ARN of the SNS topic through which alerts arrive.
    pub topic: Option<String>,
    /// The Infinispan of the sites; `None` if their data is replicated in another way, or not at all.
    pub infinispan: Option<Clusters>,
    /// `ACCELERATOR_SITE_ENDPOINTS`: the site of each endpoint that is named. The site of another endpoint is in its load
    /// balancer's tag.
    pub sites: BTreeMap<String, Site>,
    /// `SECRETS_REGION`: where the secrets are, if there are any.
    pub secrets_region: Option<String>,
    /// `FENCE_TABLE`: the table in which the first report wins.
    pub table: Option<Table>,
    /// `DRY_RUN`: decide and log, change nothing.
    pub dry_run: bool,
}

/// The sites' Infinispan.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// `INFINISPAN_USER`, `INFINISPAN_USER_SECRET`.
    pub login: Login,
    /// `INFINISPAN_SITE_ENDPOINTS`: host and port of each site's Infinispan.
    pub endpoints: BTreeMap<Site, Authority>,
    /// The certificates of these endpoints that are trusted.
    pub trust: Trust,
}

/// A user, and the secret that holds the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The secret's name or complete ARN.
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

/// Roots, and the certificates themselves: a server's own one is trusted too.
#[derive(Clone, Debug)]
pub struct Roots(pub RootCertStore, pub Vec<CertificateDer<'static>>);

/// The certificates that are trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// `INFINISPAN_CA_CERT`: those that lead to these roots, and these themselves.
    Roots(Roots),
    /// `INFINISPAN_CA_CERT_SECRET`: the same, from the PEM file in this secret.
    Secret(String),
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
        let watchdog_name =
            text(lookup, "WATCHDOG_NAME").unwrap_or_else(|| Ok("SiteFenceWatchdog".to_owned()));
        let watchdog_name = watchdog_name.and_then(|name| match alert_name.as_ref() {
            Some(other) if *other == name => Err("it is ALERT_NAME too: no site would be fenced".to_owned()),
            _ => Ok(name),
        });
        let watchdog_name = problems.take("WATCHDOG_NAME", watchdog_name);
        let webhook = match (lookup("WEBHOOK_USER"), lookup("WEBHOOK_USER_SECRET")) {
            (None, None) => Some(None),
            _ => login(&mut problems, lookup, "WEBHOOK_USER", "WEBHOOK_USER_SECRET").map(Some),
        };
        let topic = problems
            .take("ALERT_TOPIC", text(lookup, "ALERT_TOPIC").map(|arn| arn.and_then(topic)).transpose());
        let infinispan = if has_infinispan(lookup) {
            clusters(&mut problems, lookup).map(Some)
        } else {
            // It has no effect, and a mistyped one would have none later.
            insecure(&mut problems, lookup).map(|_| None)
        };
        let sites = text(lookup, "ACCELERATOR_SITE_ENDPOINTS").map(|map| map.and_then(|map| sites(&map)));
        let sites = problems.take("ACCELERATOR_SITE_ENDPOINTS", sites.transpose());
        let has_secret = !matches!((&webhook, &infinispan), (Some(None), Some(None)));
        let secrets_region = text(lookup, "SECRETS_REGION").map(|text| text.and_then(region));
        let secrets_region = match secrets_region {
            None if has_secret => Err("it is not set".to_owned()),
            given => given.transpose(),
        };
        let secrets_region = problems.take("SECRETS_REGION", secrets_region);
        let own_region = lookup("AWS_REGION");
        let table = text(lookup, "FENCE_TABLE").map(|name| name.and_then(|name| table(name, own_region)));
        let table = problems.take("FENCE_TABLE", table.transpose());
        let dry_run = lookup("DRY_RUN").unwrap_or_else(|| "false".to_owned());
        let dry_run = problems.take("DRY_RUN", boolean(&dry_run));
        let config = || {
            Some(Self {
                alert_name: alert_name?,
                watchdog_name: watchdog_name?,
                webhook: webhook?,
                topic: topic?,
                infinispan: infinispan?,
                sites: sites?.unwrap_or_default(),
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
        if let Some(topic) = &self.topic {
            write!(f, "ALERT_TOPIC={topic} ")?;
        }
        match &self.infinispan {
            Some(clusters) => write!(f, "{clusters}")?,
            None => f.write_str("INFINISPAN_USER=(unset)")?,
        }
        let sites = self.sites.iter().map(|(endpoint, site)| format!("{site}={endpoint}"));
        write!(f, " ACCELERATOR_SITE_ENDPOINTS={}", or_unset(&sites.collect::<Vec<_>>().join(",")))?;
        let region = self.secrets_region.as_deref().unwrap_or_default();
        write!(f, " SECRETS_REGION={} FENCE_TABLE=", or_unset(region))?;
        match &self.table {
            Some(Table { name, region }) => write!(f, "{name} (in {region})")?,
            None => f.write_str("(unset)")?,
        }
        write!(
            f,
            " ALERT_NAME={} WATCHDOG_NAME={} DRY_RUN={}",
            self.alert_name, self.watchdog_name, self.dry_run
        )
    }
}

impl fmt::Display for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Login { user, secret } = &self.login;
        write!(f, "INFINISPAN_USER={user} INFINISPAN_USER_SECRET={secret}")?;
        let endpoints = self.endpoints.iter().map(|(site, endpoint)| format!("{site}={endpoint}"));
        write!(f, " INFINISPAN_SITE_ENDPOINTS={}", endpoints.collect::<Vec<_>>().join(","))?;
        match &self.trust {
            Trust::System => Ok(()),
            Trust::Roots(Roots(roots, _)) => write!(f, " INFINISPAN_CA_CERT=({} certificates)", roots.len()),
            Trust::Secret(secret) => write!(f, " INFINISPAN_CA_CERT_SECRET={secret}"),
            Trust::Anybody => f.write_str(" INFINISPAN_INSECURE_TLS=true"),
        }
    }
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "(unset)" } else { text }
}

// === impl Roots ===

impl Roots {
    /// Reads a PEM file.
    ///
    /// # Errors
    /// It holds no certificate, or one that cannot be a root.
    pub fn read(pem: &str) -> Result<Self, String> {
        let roots = https::roots(pem.as_bytes())?;
        Ok(Self(roots, CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect()))
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
    let secret = problems.take(secret, required(lookup, secret).and_then(|text| self::secret(lookup, text)));
    Some(Login { user: user?, secret: secret? })
}

/// Checks a secret's name or ARN. [Secrets Manager ends an ARN with a hyphen and six characters][1]; a policy that names
/// the complete one denies the call for an ARN without them. All are read in `SECRETS_REGION`.
///
/// [1]: https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html
fn secret(lookup: Lookup<'_>, text: String) -> Result<String, String> {
    let Some(arn) = Arn::parse(&text) else {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b);
        let is_name = text.len() <= 512 && text.bytes().all(fits);
        return if is_name {
            Ok(text)
        } else {
            Err(format!("{} is neither a secret's name nor its ARN", Quoted(&text)))
        };
    };
    let end = arn.resource.strip_prefix("secret:").and_then(|name| name.rsplit_once('-'));
    let is_complete = end.is_some_and(|(name, end)| {
        !name.is_empty() && end.len() == 6 && end.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if arn.service == "secretsmanager" && is_complete {
        return match lookup("SECRETS_REGION") {
            Some(region) if region != arn.region => Err(format!(
                "the secret is in {}, and SECRETS_REGION is {region}: correct one of them",
                arn.region
            )),
            _ => Ok(text),
        };
    }
    Err(format!(
        "{} is not the complete ARN of a secret, which ends with a hyphen and six characters: to see it, run: \
         aws secretsmanager describe-secret --secret-id NAME --query ARN",
        Quoted(&text)
    ))
}

fn topic(text: String) -> Result<String, String> {
    let Some(arn) = Arn::parse(&text).filter(|arn| arn.service == "sns" && !arn.resource.contains(':'))
    else {
        return Err(format!("{} is not the ARN of an SNS topic", Quoted(&text)));
    };
    if arn.resource.rsplit_once('.').is_some_and(|(_, end)| end == "fifo") {
        return Err(format!(
            "{} is a FIFO topic, which invokes no function: use a standard topic",
            Quoted(&text)
        ));
    }
    Ok(text)
}

/// Whether any variable of Infinispan is set. `INFINISPAN_INSECURE_TLS` alone names none.
fn has_infinispan(lookup: Lookup<'_>) -> bool {
    let names = [
        "INFINISPAN_USER",
        "INFINISPAN_USER_SECRET",
        "INFINISPAN_SITE_ENDPOINTS",
        "INFINISPAN_CA_CERT",
        "INFINISPAN_CA_CERT_SECRET",
    ];
    names.iter().any(|name| lookup(name).is_some())
}

fn clusters(problems: &mut Problems, lookup: Lookup<'_>) -> Option<Clusters> {
    let login = login(problems, lookup, "INFINISPAN_USER", "INFINISPAN_USER_SECRET");
    let endpoints = required(lookup, "INFINISPAN_SITE_ENDPOINTS").and_then(|text| endpoints(&text));
    let endpoints = problems.take("INFINISPAN_SITE_ENDPOINTS", endpoints);
    let trust = trust(problems, lookup);
    Some(Clusters { login: login?, endpoints: endpoints?, trust: trust? })
}

/// A JSON object with a member for each site. JSON allows a name twice, and the first one's value would be lost.
struct BySite<T>(BTreeMap<Site, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BySite<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = BySite<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a member for each site")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<BySite<T>, A::Error> {
                let mut sites = BTreeMap::new();
                while let Some((site, value)) = members.next_entry::<Site, T>()? {
                    if sites.contains_key(&site) {
                        return Err(A::Error::custom(format!("it names {site} twice")));
                    }
                    sites.insert(site, value);
                }
                Ok(BySite(sites))
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// Reads the endpoints of each site, as `ACCELERATOR_SITE_ENDPOINTS` has them. Returns the site of each.
///
/// # Errors
/// It is no such object, or names an endpoint or a site twice.
pub fn sites(text: &str) -> Result<BTreeMap<String, Site>, String> {
    let example = r#"set it to a JSON object like {"site-a": ["arn:aws:elasticloadbalancing:…"], "site-b": ["eipalloc-…"]}"#;
    let BySite::<Vec<String>>(lists) =
        serde_json::from_str(text).map_err(|error| format!("{}; {example}", brief(&error)))?;
    if lists.len() < 2 || lists.values().any(Vec::is_empty) {
        return Err(format!("it has to name two sites or more, each with an endpoint; {example}"));
    }
    let mut sites = BTreeMap::new();
    for (site, endpoint) in
        lists.into_iter().flat_map(|(site, list)| list.into_iter().map(move |id| (site.clone(), id)))
    {
        let is_id = endpoint.starts_with("eipalloc-") || endpoint.starts_with("i-");
        if !is_id && Arn::parse(&endpoint).is_none_or(|arn| arn.service != "elasticloadbalancing") {
            return Err(format!(
                "{site}: {} is not an endpoint: the ARN of a load balancer, or the id of an instance or of an Elastic IP \
                 address",
                Quoted(&endpoint)
            ));
        }
        if let Some(other) = sites.insert(endpoint.clone(), site.clone()) {
            return Err(format!("{} is named for {other} and for {site}", Quoted(&endpoint)));
        }
    }
    Ok(sites)
}

fn endpoints(text: &str) -> Result<BTreeMap<Site, Authority>, String> {
    let example = r#"set it to a JSON object like {"site-a": "infinispan-a.example.com:443"}"#;
    let BySite(texts) =
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

/// Whether any certificate of Infinispan is accepted.
fn insecure(problems: &mut Problems, lookup: Lookup<'_>) -> Option<bool> {
    let insecure = lookup("INFINISPAN_INSECURE_TLS").unwrap_or_else(|| "false".to_owned());
    problems.take("INFINISPAN_INSECURE_TLS", boolean(&insecure))
}

fn trust(problems: &mut Problems, lookup: Lookup<'_>) -> Option<Trust> {
    let roots = |pem: String| {
        Roots::read(&pem).map_err(|why| format!("{why}; set it to the text of a PEM file, not its path"))
    };
    let roots = text(lookup, "INFINISPAN_CA_CERT").map(|pem| pem.and_then(roots)).transpose();
    let roots = problems.take("INFINISPAN_CA_CERT", roots)?;
    let of_secret = text(lookup, "INFINISPAN_CA_CERT_SECRET")
        .map(|name| name.and_then(|name| secret(lookup, name)))
        .transpose();
    let of_secret = problems.take("INFINISPAN_CA_CERT_SECRET", of_secret)?;
    let insecure = insecure(problems, lookup)?;
    match (roots, of_secret, insecure) {
        (Some(_), Some(_), _) => {
            problems.add("INFINISPAN_CA_CERT_SECRET", "INFINISPAN_CA_CERT is set too: set one of them");
            None
        }
        (Some(_), None, true) => {
            problems.add(
                "INFINISPAN_INSECURE_TLS",
                "it would leave INFINISPAN_CA_CERT without effect: set one of them",
            );
            None
        }
        (None, Some(_), true) => {
            problems.add(
                "INFINISPAN_INSECURE_TLS",
                "it would leave INFINISPAN_CA_CERT_SECRET without effect: set one of them",
            );
            None
        }
        (Some(roots), None, false) => Some(Trust::Roots(roots)),
        (None, Some(secret), false) => Some(Trust::Secret(secret)),
        (None, None, true) => Some(Trust::Anybody),
        (None, None, false) => Some(Trust::System),
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
mod tests;
