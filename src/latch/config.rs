//! The variables that configure a watcher, read once and checked together.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::program::text::Quoted;
use crate::program::variables::{InvalidConfig, Lookup, Problems, boolean};

/// Before a latch's name, the key of the object that locks it.
pub const KEYS: &str = "latches/";
/// Before a latch's name, the key of the hold that a person's release puts.
pub const HOLDS: &str = "holds/";
/// The port of DNS.
const DNS: u16 = 53;
/// The time from one look's start to the next, unless `LOOK_EVERY` gives another.
const LOOK_EVERY: u64 = 5;

/// A watcher's configuration, from its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `LATCHES`: the pairs of sites that it watches; at least one.
    pub latches: Vec<Latch>,
    /// `LATCH_BUCKETS`: the buckets of their objects; at least two, each in its own Region.
    pub buckets: Vec<Bucket>,
    /// `NAME_SERVERS`: the zone's own name servers; at least two.
    pub name_servers: Vec<NameServer>,
    /// `LOOK_EVERY`: the time from one look's start to the next within a tick.
    pub look_every: Duration,
    /// `BUCKET_OWNER`: the account that must own the buckets.
    pub bucket_owner: Option<String>,
    /// `DRY_RUN`: whether to do everything but the lock.
    pub dry_run: bool,
}

/// A primary and its standby, with the sentinels that show which of them Route 53 answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latch {
    /// The name: letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// The sentinel that refers to the checks of the application's own record: `primary` or `standby`.
    pub serving: Name,
    /// The sentinel of the primary's check: `healthy` or `unhealthy`.
    pub primary: Name,
    /// The sentinel of the standby's check: `healthy` or `unhealthy`.
    pub standby: Name,
}

/// A bucket that holds the objects of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its Region, not us-east-1.
    pub region: String,
    /// Its name.
    pub name: String,
}

/// One of the zone's name servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// The name by which its address is looked up; `None` if the address is fixed.
    pub name: Option<String>,
    /// Its last known address, for UDP and TCP.
    pub address: SocketAddr,
}

// === impl Config ===

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Names each variable that is missing or invalid.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, InvalidConfig> {
        let mut problems = Problems::default();
        let needed =
            |name: &str, example: &str| lookup(name).ok_or(format!("it is not set; for example {example}"));
        let latches = needed("LATCHES", "app:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com")
            .and_then(|text| latches(&text));
        let latches = problems.take("LATCHES", latches);
        let buckets = needed("LATCH_BUCKETS", "eu-central-1=acme-latch-a,eu-west-1=acme-latch-b")
            .and_then(|text| buckets(&text));
        let buckets = problems.take("LATCH_BUCKETS", buckets);
        let servers =
            needed("NAME_SERVERS", "ns-1.awsdns-00.com=205.251.192.1,ns-513.awsdns-00.net=205.251.194.1")
                .and_then(|text| name_servers(&text));
        let servers = problems.take("NAME_SERVERS", servers);
        let look_every =
            problems.take("LOOK_EVERY", lookup("LOOK_EVERY").map_or(Ok(LOOK_EVERY), |text| seconds(&text)));
        let owner = problems.take("BUCKET_OWNER", lookup("BUCKET_OWNER").map(account).transpose());
        let dry_run = problems.take("DRY_RUN", lookup("DRY_RUN").map_or(Ok(false), |text| boolean(&text)));
        let config = || {
            Some(Self {
                latches: latches?,
                buckets: buckets?,
                name_servers: servers?,
                look_every: Duration::from_secs(look_every?),
                bucket_owner: owner?,
                dry_run: dry_run?,
            })
        };
        let config = config();
        problems.unless_any(config)
    }
}

/// Writes the configuration as variables.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>, by: &str| items.join(by);
        let latches = self.latches.iter().map(Latch::to_string).collect();
        let buckets =
            self.buckets.iter().map(|bucket| format!("{}={}", bucket.region, bucket.name)).collect();
        let servers = self.name_servers.iter().map(NameServer::to_string).collect();
        write!(f, "LATCHES={} LATCH_BUCKETS={}", list(latches, ";"), list(buckets, ","))?;
        write!(f, " NAME_SERVERS={} LOOK_EVERY={}", list(servers, ","), self.look_every.as_secs())?;
        if let Some(owner) = &self.bucket_owner {
            write!(f, " BUCKET_OWNER={owner}")?;
        }
        write!(f, " DRY_RUN={}", self.dry_run)
    }
}

// === impl Latch ===

impl Latch {
    /// The key of the object that locks it.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{KEYS}{}", self.name)
    }

    /// The key of the hold that a person's release puts.
    #[must_use]
    pub fn hold(&self) -> String {
        format!("{HOLDS}{}", self.name)
    }
}

/// Writes it as `LATCHES` has it.
impl fmt::Display for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &Name| name.to_ascii().trim_end_matches('.').to_owned();
        let (serving, primary, standby) = (plain(&self.serving), plain(&self.primary), plain(&self.standby));
        write!(f, "{}:serving={serving},primary={primary},standby={standby}", self.name)
    }
}

// === impl Bucket ===

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

// === impl NameServer ===

/// Writes it as `NAME_SERVERS` has it.
impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.address.ip()),
            None => self.address.fmt(f),
        }
    }
}

fn latches(text: &str) -> Result<Vec<Latch>, String> {
    let latches = text.split(';').map(latch).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    match latches.iter().find(|latch| !names.insert(&latch.name)) {
        Some(twice) => Err(format!("{} is there twice", twice.name)),
        None => Ok(latches),
    }
}

fn latch(text: &str) -> Result<Latch, String> {
    const FORM: &str = "NAME:serving=SENTINEL,primary=SENTINEL,standby=SENTINEL";
    let text = text.trim();
    let (name, sentinels) = text.split_once(':').ok_or_else(|| format!("{} is not {FORM}", Quoted(text)))?;
    let name = latch_name(name.trim())?;
    let (mut serving, mut primary, mut standby) = (None, None, None);
    for sentinel in sentinels.split(',') {
        let (role, record) = sentinel
            .split_once('=')
            .ok_or_else(|| format!("{name}: {} is not a sentinel: the form is {FORM}", Quoted(sentinel)))?;
        let place = match role.trim() {
            "serving" => &mut serving,
            "primary" => &mut primary,
            "standby" => &mut standby,
            other => return Err(format!("{name}: {} is not serving, primary or standby", Quoted(other))),
        };
        if place.replace(domain(record.trim()).map_err(|why| format!("{name}: {why}"))?).is_some() {
            return Err(format!("{name}: {} is there twice", role.trim()));
        }
    }
    let given = |role: &str, sentinel: Option<Name>| {
        sentinel.ok_or_else(|| format!("{name}: the sentinel {role} is missing"))
    };
    let serving = given("serving", serving)?;
    let primary = given("primary", primary)?;
    let standby = given("standby", standby)?;
    if serving == primary || serving == standby || primary == standby {
        return Err(format!("{name}: two sentinels are the same record"));
    }
    Ok(Latch { name, serving, primary, standby })
}

/// Checks a latch's name, which becomes part of a key and of a URL.
fn latch_name(name: &str) -> Result<String, String> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.len() > 64 || matches!(name, "." | "..") || !name.chars().all(fits) {
        return Err(format!(
            "{} is not a latch's name: 1 to 64 letters, digits, -, _ and ., and neither . nor ..",
            Quoted(name)
        ));
    }
    Ok(name.to_owned())
}

/// Reads a domain name of at least two labels, always as a complete one.
fn domain(text: &str) -> Result<Name, String> {
    let mut name =
        Name::from_ascii(text).map_err(|error| format!("{} is not a domain name: {error}", Quoted(text)))?;
    name.set_fqdn(true);
    if name.num_labels() < 2 {
        return Err(format!("{} is not a complete domain name", Quoted(text)));
    }
    Ok(name.to_lowercase())
}

fn buckets(text: &str) -> Result<Vec<Bucket>, String> {
    let buckets = text.split(',').map(bucket).collect::<Result<Vec<_>, _>>()?;
    if buckets.len() < 2 {
        return Err(
            "a latch needs two buckets at least, so that a lock survives the loss of a Region".to_owned()
        );
    }
    let (mut regions, mut names) = (BTreeSet::new(), BTreeSet::new());
    for bucket in &buckets {
        if !regions.insert(&bucket.region) {
            return Err(format!("two buckets are in {}: each needs a Region of its own", bucket.region));
        }
        if !names.insert(&bucket.name) {
            return Err(format!("{} is there twice", bucket.name));
        }
    }
    Ok(buckets)
}

fn bucket(text: &str) -> Result<Bucket, String> {
    let (region, name) =
        text.trim().split_once('=').ok_or_else(|| format!("{} is not REGION=BUCKET", Quoted(text.trim())))?;
    let is_plain = |text: &str| {
        !text.starts_with('-')
            && !text.ends_with('-')
            && text.chars().all(|character| {
                character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
            })
    };
    if region.is_empty() || !is_plain(region) {
        return Err(format!("{} is not a Region", Quoted(region)));
    }
    if region == "us-east-1" {
        return Err(format!(
            "{name} is in us-east-1, where Route 53's control plane is: a latch must work when that Region does not. \
             Use a bucket in another Region"
        ));
    }
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; with a dot, the certificate of
    // the virtual-hosted name does not match.
    if !(3..=63).contains(&name.len()) || !is_plain(name) {
        return Err(format!(
            "{} is not a bucket's name of 3 to 63 small letters, digits and -, without dots",
            Quoted(name)
        ));
    }
    Ok(Bucket { region: region.to_owned(), name: name.to_owned() })
}

fn name_servers(text: &str) -> Result<Vec<NameServer>, String> {
    let servers = text.split(',').map(|text| name_server(text.trim())).collect::<Result<Vec<_>, _>>()?;
    if servers.len() < 2 {
        return Err("two name servers at least have to agree, and it names only one".to_owned());
    }
    let (mut addresses, mut names) = (BTreeSet::new(), BTreeSet::new());
    for server in &servers {
        if !addresses.insert(server.address) {
            return Err(format!("{} is the address of two name servers", server.address));
        }
        if let Some(name) = &server.name
            && !names.insert(name)
        {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(servers)
}

fn name_server(text: &str) -> Result<NameServer, String> {
    let (name, address) = text.split_once('=').map_or((None, text), |(name, address)| (Some(name), address));
    if let Ok(address) = address.parse() {
        return Ok(NameServer { name: None, address });
    }
    let ip: IpAddr = address.parse().map_err(|_| {
        format!("{} is not NAME=ADDRESS, for example ns-1.awsdns-00.com=205.251.192.1", Quoted(text))
    })?;
    let name = name.ok_or_else(|| format!("{} has no name: the form is NAME=ADDRESS", Quoted(text)))?;
    let name = domain(name)?.to_ascii();
    Ok(NameServer { name: Some(name.trim_end_matches('.').to_owned()), address: SocketAddr::new(ip, DNS) })
}

fn seconds(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (1..=60).contains(seconds))
        .ok_or_else(|| format!("{} is not a number of seconds from 1 to 60", Quoted(text)))
}

fn account(text: String) -> Result<String, String> {
    if text.len() == 12 && text.chars().all(|character| character.is_ascii_digit()) {
        return Ok(text);
    }
    Err(format!("{} is not an account's id of 12 digits", Quoted(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATCHES: &str = "app:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com";
    const BUCKETS: &str = "eu-central-1=acme-latch-a,eu-west-1=acme-latch-b";
    const SERVERS: &str = "ns-1.awsdns-00.com=205.251.192.1,ns-513.awsdns-00.net=205.251.194.1";

    fn read(changed: &[(&str, &str)]) -> Result<Config, String> {
        let usual = [("LATCHES", LATCHES), ("LATCH_BUCKETS", BUCKETS), ("NAME_SERVERS", SERVERS)];
        let lookup = |name: &str| {
            let found = changed.iter().chain(&usual).find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(&lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_example_is_read_and_written_back() {
        let config = read(&[]).unwrap();
        assert_eq!((config.look_every, config.dry_run), (Duration::from_secs(5), false));
        assert_eq!(config.latches[0].key(), "latches/app");
        assert_eq!(
            config.to_string(),
            format!(
                "LATCHES={LATCHES} LATCH_BUCKETS={BUCKETS} NAME_SERVERS={SERVERS} LOOK_EVERY=5 DRY_RUN=false"
            )
        );
    }

    #[test]
    fn a_name_server_with_a_port_is_not_looked_up() {
        let config = read(&[("NAME_SERVERS", "a=127.0.0.1:5301, 127.0.0.2:5302")]).unwrap();
        assert!(config.name_servers.iter().all(|server| server.name.is_none()));
        assert_eq!(config.name_servers[1].address, "127.0.0.2:5302".parse().unwrap());
    }

    #[test]
    fn an_invalid_variable_stops_the_start_and_is_named() {
        let two = format!("{LATCHES};{LATCHES}");
        for (name, value, said) in [
            ("LATCHES", "", "is not NAME:serving="),
            ("LATCHES", "app", "is not NAME:serving="),
            ("LATCHES", "..:serving=a.b", "is not a latch's name"),
            ("LATCHES", "a/b:serving=a.b", "is not a latch's name"),
            ("LATCHES", "app:serving=a.b,primary=c.d", "the sentinel standby is missing"),
            ("LATCHES", "app:serving=a.b,primary=c.d,standby=A.B.", "two sentinels are the same record"),
            ("LATCHES", "app:serving=a.b,serving=c.d", "serving is there twice"),
            ("LATCHES", "app:serving=a.b,other=c.d", "\"other\" is not serving, primary or standby"),
            ("LATCHES", "app:serving=a", "is not a complete domain name"),
            ("LATCHES", &two, "app is there twice"),
            ("LATCH_BUCKETS", "eu-central-1=acme-latch-a", "two buckets at least"),
            ("LATCH_BUCKETS", "eu-central-1=aaa,us-east-1=bbb", "Use a bucket in another Region"),
            ("LATCH_BUCKETS", "eu-central-1=aaa,eu-central-1=bbb", "two buckets are in eu-central-1"),
            ("LATCH_BUCKETS", "eu-central-1=aaa,eu-west-1=b.b.b", "without dots"),
            ("LATCH_BUCKETS", "eu-central-1=aaa,eu-west-1=aaa", "aaa is there twice"),
            ("NAME_SERVERS", "ns-1.awsdns-00.com=205.251.192.1", "names only one"),
            ("NAME_SERVERS", "ns-1.awsdns-00.com", "is not NAME=ADDRESS"),
            ("NAME_SERVERS", "205.251.192.1,205.251.194.1", "has no name"),
            ("NAME_SERVERS", "a.b=205.251.192.1,c.d=205.251.192.1", "the address of two name servers"),
            ("NAME_SERVERS", "a.b=205.251.192.1,a.b=205.251.192.2", "a.b is there twice"),
            ("LOOK_EVERY", "0", "from 1 to 60"),
            ("LOOK_EVERY", "61", "from 1 to 60"),
            ("BUCKET_OWNER", "acme", "12 digits"),
            ("DRY_RUN", "perhaps", "neither true nor false"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(said), "{name}={value:?}: {error}");
        }
        let error = Config::read(&|_| None).unwrap_err().to_string();
        assert!(
            ["LATCHES", "LATCH_BUCKETS", "NAME_SERVERS"].iter().all(|name| error.contains(name)),
            "{error}"
        );
    }
}
