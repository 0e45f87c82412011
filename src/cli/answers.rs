//! What a zone's own name servers answer for a record.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_route53::Client;
use futures_util::future::join_all;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::dns::Record;
use super::session::patience;
use super::text::plain;
use crate::remote::aws::{Call, send};
use crate::remote::resolve;

/// How long a name server has for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is asked: a datagram may be lost.
const TRIES: usize = 3;
/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// The largest answer over UDP without EDNS, and more.
const DATAGRAM: usize = 1500;

/// The values of a record, or of none.
pub(super) type Values = BTreeSet<String>;

/// A record as name servers answer it.
pub(super) struct Asked {
    name: Name,
    kind: RecordType,
    servers: Vec<SocketAddr>,
    /// Whether they are the zone's own, which answer with authority.
    are_own: bool,
}

// === impl Asked ===

impl Asked {
    /// This record at `server`, or else at its zone's name servers.
    ///
    /// # Errors
    /// Why it cannot be asked for.
    pub async fn of(aws: &SdkConfig, record: &Record, server: Option<SocketAddr>) -> Result<Self, String> {
        let (name, kind) = record.name.split_once(' ').unwrap_or((&record.name, "A"));
        // Route 53 has a wildcard as `\052`: any name stands for it.
        let name = name.replacen("\\052", "failoverctl", 1);
        let name = Name::from_ascii(&name).map_err(|error| error.to_string())?;
        let kind = kind.parse().map_err(|_| format!("{kind} is not a type that is asked for"))?;
        let servers = match server {
            Some(server) => vec![server],
            None => name_servers(aws, &record.zone).await?,
        };
        Ok(Self { name, kind, servers, are_own: server.is_none() })
    }

    /// The records of this name and type at this resolver.
    ///
    /// # Errors
    /// The name is none.
    pub fn at(resolver: SocketAddr, name: &str, kind: RecordType) -> Result<Self, String> {
        let mut name = Name::from_ascii(name).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        Ok(Self { name, kind, servers: vec![resolver], are_own: false })
    }

    pub fn kind(&self) -> RecordType {
        self.kind
    }

    /// The values of each server's answer, or why it has none.
    pub async fn ask(&self) -> Vec<Result<Values, String>> {
        join_all(self.servers.iter().map(|server| async {
            let mut last = Err("no answer".to_owned());
            for _ in 0..TRIES {
                if let Ok(Ok(answer)) = timeout(ANSWER, self.exchange(*server)).await {
                    last = self.values(&answer);
                    if last.is_ok() {
                        break;
                    }
                }
            }
            last
        }))
        .await
    }

    /// Asks once.
    async fn exchange(&self, server: SocketAddr) -> io::Result<Message> {
        let any = if server.is_ipv4() {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let mut query = Message::query();
        query.add_query(Query::query(self.name.clone(), self.kind));
        // A resolver asks further only for those who want it.
        query.metadata.recursion_desired = !self.are_own;
        let question = query.to_vec().map_err(io::Error::other)?;
        socket.send(&question).await?;
        let mut datagram = [0; DATAGRAM];
        loop {
            let length = socket.recv(&mut datagram).await?;
            let Ok(answer) = Message::from_vec(&datagram[..length]) else { continue };
            let is_answer = answer.metadata.id == query.metadata.id
                && answer.metadata.message_type == MessageType::Response
                && answer.queries == query.queries;
            if is_answer {
                return Ok(answer);
            }
        }
    }

    /// The values of an answer, or why it has none.
    fn values(&self, answer: &Message) -> Result<Values, String> {
        // Of a name that is not there any more, that is the answer.
        let code = answer.metadata.response_code;
        if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Err(format!("an error ({code})"));
        }
        if self.are_own && !answer.metadata.authoritative {
            return Err("an answer without authority".to_owned());
        }
        if answer.metadata.truncation {
            return Err("a truncated answer".to_owned());
        }
        let shown =
            |data: &RData| value(self.kind, &data.to_string()).unwrap_or_else(|| plain(&data.to_string()));
        Ok(answer.answers.iter().map(|record| shown(&record.data)).collect())
    }
}

/// A value of a record as an answer shows it; `None` if the two may be written in different ways.
pub(super) fn value(kind: RecordType, value: &str) -> Option<String> {
    match kind {
        RecordType::A | RecordType::AAAA => value.parse::<IpAddr>().ok().map(|address| address.to_string()),
        RecordType::CNAME | RecordType::NS => Some(plain(value.trim_end_matches('.')).to_lowercase()),
        _ => None,
    }
}

/// The addresses of a zone's name servers.
async fn name_servers(aws: &SdkConfig, zone: &str) -> Result<Vec<SocketAddr>, String> {
    let call = Call::new("route53:GetHostedZone", "the hosted zone");
    let client = Client::new(aws);
    let zone =
        patience().persist(async |time| send(call, time, client.get_hosted_zone().id(zone).send()).await);
    let servers = zone.await.map_err(|failure| failure.to_string())?.delegation_set;
    let names = servers.map(|set| set.name_servers).unwrap_or_default();
    if names.is_empty() {
        return Err("its zone is private: --dns-server names the resolver of a VPC".to_owned());
    }
    let found = join_all(names.iter().map(|name| resolve::addresses(name, PORT))).await;
    let found: Vec<_> =
        found.into_iter().flatten().filter_map(|all| all.into_iter().find(SocketAddr::is_ipv4)).collect();
    if found.len() < names.len() {
        return Err("the addresses of its zone's name servers cannot be looked up".to_owned());
    }
    Ok(found)
}
