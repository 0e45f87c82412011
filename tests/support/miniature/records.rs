//! The zone's records, the data plane's decisions about each name, and each name server's lag behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::World;

/// The zone's name.
pub const ZONE: &str = "example.com";
/// How many name servers a zone has.
pub const SERVERS: usize = 4;
/// Their names, as Route 53 forms them.
pub const NAMES: [&str; SERVERS] =
    ["ns-1.awsdns-00.com", "ns-513.awsdns-00.net", "ns-1025.awsdns-00.org", "ns-1537.awsdns-00.co.uk"];

/// A resource record set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// In lower case, without a dot at the end.
    pub name: String,
    pub kind: Kind,
    pub routing: Routing,
    /// The `SetIdentifier`; empty for a simple record.
    pub identifier: String,
    pub check: Option<String>,
    pub ttl: u32,
    /// As in a zone file: a TXT value has its quotes.
    pub values: Vec<String>,
    pub alias: Option<Alias>,
}

/// The target of an alias record, which has neither values nor a TTL of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub zone: String,
    pub name: String,
    /// Kept, and shown by the API. A name server here does not evaluate the target's health.
    pub evaluate: bool,
}

/// The type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    A,
    Aaaa,
    Cname,
    Ns,
    Soa,
    Txt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    Simple,
    Primary,
    Secondary,
}

/// What a name server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Values {
        ttl: u32,
        values: Vec<String>,
    },
    /// The name has records of other types alone.
    NoData,
    /// The name does not exist.
    NoName,
}

/// A change to the zone's records.
#[derive(Clone, Debug)]
pub enum Change {
    Create(Record),
    Upsert(Record),
    /// The record must be given exactly as it is.
    Delete(Record),
}

/// The records of a zone, and the data plane's decisions.
pub(super) struct Zone {
    records: Vec<Record>,
    decisions: BTreeMap<(String, Kind), Vec<Decision>>,
    lags: [Duration; SERVERS],
}

/// A time, and the TTL and values that the data plane answers from then on; `None` is no record.
pub type Decision = (Duration, Option<(u32, Vec<String>)>);

// === impl Record ===

impl Record {
    pub fn new(name: &str, kind: Kind, value: &str) -> Self {
        Self {
            name: normal(name),
            kind,
            routing: Routing::Simple,
            identifier: String::new(),
            check: None,
            ttl: 10,
            values: vec![value.to_owned()],
            alias: None,
        }
    }

    /// A TXT record of one string.
    pub fn txt(name: &str, text: &str) -> Self {
        Self::new(name, Kind::Txt, &format!("\"{text}\""))
    }

    /// An A record.
    pub fn a(name: &str, address: &str) -> Self {
        Self::new(name, Kind::A, address)
    }

    /// The primary of a pair, with its health check.
    pub fn primary(mut self, check: &str) -> Self {
        (self.routing, self.identifier) = (Routing::Primary, "primary".to_owned());
        self.check = Some(check.to_owned());
        self
    }

    /// The secondary of a pair.
    pub fn secondary(mut self, check: Option<&str>) -> Self {
        (self.routing, self.identifier) = (Routing::Secondary, "secondary".to_owned());
        self.check = check.map(str::to_owned);
        self
    }

    fn is_same_set(&self, other: &Self) -> bool {
        (&self.name, self.kind, &self.identifier) == (&other.name, other.kind, &other.identifier)
    }
}

// === impl Kind ===

impl Kind {
    const ALL: [(Self, &str); 6] = [
        (Self::A, "A"),
        (Self::Aaaa, "AAAA"),
        (Self::Cname, "CNAME"),
        (Self::Ns, "NS"),
        (Self::Soa, "SOA"),
        (Self::Txt, "TXT"),
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).expect("every type has a name").1
    }
}

// === impl Zone ===

impl Zone {
    pub(super) fn new() -> Self {
        let mut servers = Record::new(ZONE, Kind::Ns, "");
        (servers.ttl, servers.values) = (172_800, NAMES.map(|name| format!("{name}.")).to_vec());
        let authority = format!("{}. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 86400", NAMES[0]);
        let mut authority = Record::new(ZONE, Kind::Soa, &authority);
        authority.ttl = 900;
        Self {
            records: vec![servers, authority],
            decisions: BTreeMap::new(),
            lags: [2, 3, 4, 5].map(Duration::from_secs),
        }
    }

    /// Applies a change, or returns Route 53's reason to refuse it.
    fn apply(&mut self, change: Change) -> Result<(), String> {
        let (Change::Create(record) | Change::Upsert(record) | Change::Delete(record)) = &change;
        let which = format!("[name='{}.', type='{}']", record.name, record.kind.name());
        if record.name != ZONE && !record.name.ends_with(&format!(".{ZONE}")) {
            return Err(format!("RRSet with DNS name {}. is not permitted in zone {ZONE}.", record.name));
        }
        let position = self.records.iter().position(|other| other.is_same_set(record));
        match (change, position) {
            (Change::Create(_), Some(_)) => {
                Err(format!("Tried to create resource record set {which} but it already exists"))
            }
            (Change::Delete(_), None) => {
                Err(format!("Tried to delete resource record set {which} but it was not found"))
            }
            (Change::Delete(record), Some(at)) if self.records[at] != record => Err(format!(
                "Tried to delete resource record set {which} but the values provided do not match the current values"
            )),
            (Change::Delete(_), Some(at)) => {
                self.records.remove(at);
                Ok(())
            }
            (Change::Create(record) | Change::Upsert(record), at) => {
                let conflict = self.records.iter().find(|other| {
                    let shared = (&other.name, other.kind) == (&record.name, record.kind);
                    let clash = other.routing == Routing::Simple || record.routing == Routing::Simple;
                    shared && !other.is_same_set(&record) && (clash || other.routing == record.routing)
                });
                if conflict.is_some() {
                    return Err(format!("RRSet {which} conflicts with another record of the name and type"));
                }
                match at {
                    Some(at) => self.records[at] = record,
                    None => self.records.push(record),
                }
                Ok(())
            }
        }
    }
}

// === impl World ===

impl World {
    /// Puts records, replacing those of the same name, type and identifier.
    pub fn put(&mut self, records: impl IntoIterator<Item = Record>) {
        let changes: Vec<_> = records.into_iter().map(Change::Upsert).collect();
        self.change(changes).expect("the records are allowed");
    }

    /// Applies all of the changes, or none.
    ///
    /// # Errors
    /// Route 53's reason for each change that it refuses.
    pub fn change(&mut self, changes: Vec<Change>) -> Result<(), Vec<String>> {
        let before = self.zone.records.clone();
        let refused: Vec<_> =
            changes.into_iter().filter_map(|change| self.zone.apply(change).err()).collect();
        if !refused.is_empty() {
            self.zone.records = before;
            return Err(refused);
        }
        self.zone.records.sort_by(|one, other| order(one).cmp(&order(other)));
        self.decide();
        Ok(())
    }

    /// The records, in the order in which Route 53 lists them.
    pub fn records(&self) -> &[Record] {
        &self.zone.records
    }

    /// Sets how late a name server learns what the data plane has decided.
    pub fn set_lag(&mut self, server: usize, lag: Duration) {
        self.zone.lags[server] = lag;
    }

    /// The longest of the name servers' lags: the time until every server knows a change.
    pub fn longest_lag(&self) -> Duration {
        self.zone.lags.into_iter().max().expect("there are four")
    }

    /// What the name server answers now.
    pub fn answer(&self, server: usize, name: &str, kind: Kind) -> Answer {
        // A decision of the start is known everywhere from the start.
        let at = self.now.saturating_sub(self.zone.lags[server]);
        self.answer_of(&normal(name), kind, at)
    }

    /// The text of the one string that the name server answers for a name; none if it answers anything else.
    pub fn text(&self, server: usize, name: &str) -> Option<String> {
        match self.answer(server, name, Kind::Txt) {
            Answer::Values { values, .. } => match values.as_slice() {
                [value] => Some(value.trim_matches('"').to_owned()),
                _ => None,
            },
            Answer::NoData | Answer::NoName => None,
        }
    }

    /// The data plane's decisions about a name so far.
    pub fn decisions(&self, name: &str, kind: Kind) -> &[Decision] {
        self.zone.decisions.get(&(normal(name), kind)).map_or(&[], Vec::as_slice)
    }

    /// Decides about every name again.
    pub(super) fn decide(&mut self) {
        let names = self.zone.records.iter().map(|record| (record.name.clone(), record.kind));
        let names: BTreeSet<_> = names.chain(self.zone.decisions.keys().cloned()).collect();
        for key in names {
            let decision = self.choose(&key.0, key.1).map(|record| (record.ttl, record.values.clone()));
            let now = self.now;
            let decisions = self.zone.decisions.entry(key).or_default();
            // Of several decisions in the same moment, the last one counts.
            decisions.pop_if(|(at, _)| *at == now);
            if decisions.last().map_or(&None, |(_, last)| last) != &decision {
                decisions.push((now, decision));
            }
        }
    }

    /// The record that Route 53 answers with.
    fn choose(&self, name: &str, kind: Kind) -> Option<&Record> {
        let set = || self.zone.records.iter().filter(|record| record.name == name && record.kind == kind);
        let of = |routing| set().find(|record| record.routing == routing);
        let healthy = |record: &&Record| record.check.as_ref().is_none_or(|check| self.is_healthy(check));
        let chosen = match (of(Routing::Primary), of(Routing::Secondary)) {
            (Some(primary), Some(secondary)) => {
                if !healthy(&primary) && healthy(&secondary) {
                    secondary
                } else {
                    primary
                }
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => set().next()?,
        };
        match &chosen.alias {
            Some(alias) => self.choose(&normal(&alias.name), kind),
            None => Some(chosen),
        }
    }

    fn answer_of(&self, name: &str, kind: Kind, at: Duration) -> Answer {
        let decided = |decisions: &[Decision]| {
            let before = decisions.iter().rev().find(|(since, _)| *since <= at);
            before.and_then(|(_, decision)| decision.clone())
        };
        if let Some((ttl, values)) = decided(self.decisions(name, kind)) {
            return Answer::Values { ttl, values };
        }
        let below = format!(".{name}");
        let exists = self.zone.decisions.iter().any(|((other, _), decisions)| {
            (other == name || other.ends_with(&below)) && decided(decisions).is_some()
        });
        if exists { Answer::NoData } else { Answer::NoName }
    }
}

/// A name in lower case, without the dot at its end.
pub fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Route 53 lists records by their name with its labels reversed, then by type and identifier.
pub fn order(record: &Record) -> (Vec<&str>, &'static str, &str) {
    (record.name.rsplit('.').collect(), record.kind.name(), &record.identifier)
}
