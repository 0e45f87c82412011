//! Whether the internet asks the zone at all: a zone of the same name in another place may have taken over the domain, and
//! then nothing that is done in this one reaches anyone.

use std::fs;
use std::io;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::super::zone::Zone;
use super::Doctor;
use crate::remote::resolve;

const NAME: &str = "delegation";
/// The port of DNS.
const DNS: u16 = 53;
/// How long the resolver has for an answer.
const TIME: Duration = Duration::from_secs(2);
/// How often it is asked: a datagram may be lost.
const TRIES: u32 = 3;
/// The largest answer over UDP without EDNS.
const DATAGRAM: usize = 512;

impl Doctor<'_> {
    /// Whether a resolver is led to these name servers, which are the zone's own.
    pub(super) async fn delegation(&mut self, zone: &Zone, own: &[String]) {
        let named = match self.resolver.map_or_else(resolver, Ok) {
            Ok(resolver) => {
                delegated(resolver, &zone.apex).await.map_err(|error| format!("{resolver}: {error}"))
            }
            Err(error) => Err(format!("/etc/resolv.conf: {error}")),
        };
        let named = match named {
            Ok(named) => named,
            Err(why) => {
                let said =
                    format!("who serves {} cannot be seen: {why}. Ask another one: --resolver", zone.apex);
                return self.findings.unknown(NAME, &said);
            }
        };
        let is_own = join_all(named.iter().map(|name| self.is_own(name, own))).await;
        let others: Vec<_> =
            named.iter().zip(is_own).filter(|(_, is_own)| !is_own).map(|(name, _)| name.as_str()).collect();
        if others.is_empty() {
            return self.findings.ok(NAME, format!("{} is delegated to the zone's name servers", zone.apex));
        }
        self.findings.wrong(
            NAME,
            format!(
                "{} is delegated to {}, which do not serve this zone: what it says of the latch reaches no one who is led there",
                zone.apex,
                others.join(", ")
            ),
            "delegate the domain to this zone's name servers, or remove the latch and deploy it in the zone that serves; if this network has a zone \
             of its own by this name, ask the internet: --resolver 1.1.1.1"
                .to_owned(),
        );
    }

    /// Whether this is one of the zone's own name servers, by its name, or by its address where the domain has names of its own.
    async fn is_own(&self, name: &str, own: &[String]) -> bool {
        if own.iter().any(|own| own == name) {
            return true;
        }
        let found = timeout(TIME, resolve::addresses(name, DNS)).await;
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        self.latches.config.name_servers.iter().any(|server| found.contains(&server.address))
    }
}

/// A resolver's address, with its port unless that is 53.
pub(super) fn address(text: &str) -> Result<SocketAddr, AddrParseError> {
    text.parse().or_else(|_| Ok((text.parse::<IpAddr>()?, DNS).into()))
}

/// The first resolver of the system.
fn resolver() -> io::Result<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf")?;
    let mut named = text.lines().filter_map(|line| address(line.strip_prefix("nameserver")?.trim()).ok());
    named.next().ok_or_else(|| io::Error::other("it names no resolver"))
}

/// The names of the name servers that a resolver finds for a zone, in lowercase and without the dot at the end.
async fn delegated(resolver: SocketAddr, apex: &str) -> io::Result<Vec<String>> {
    let name = Name::from_ascii(apex).map_err(io::Error::other)?;
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), RecordType::NS));
    let any = if resolver.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind::<SocketAddr>(any).await?;
    socket.connect(resolver).await?;
    let message = query.to_vec().map_err(io::Error::other)?;
    let mut answer = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..TRIES {
        socket.send(&message).await?;
        match timeout(TIME, answered(&socket, query.metadata.id, &name)).await {
            Ok(Ok(said)) => {
                answer = Ok(said);
                break;
            }
            Ok(Err(error)) => answer = Err(error),
            Err(_) => {}
        }
    }
    let answer = answer?;
    if answer.metadata.response_code != ResponseCode::NoError || answer.metadata.truncation {
        return Err(io::Error::other(format!("it answers {}", answer.metadata.response_code)));
    }
    let names = answer.answers.iter().filter_map(|record| match &record.data {
        RData::NS(server) if record.name == name => Some(server.0.to_ascii()),
        _ => None,
    });
    let names: Vec<_> = names.map(|name| name.trim_end_matches('.').to_lowercase()).collect();
    if names.is_empty() { Err(io::Error::other("it knows no name server of it")) } else { Ok(names) }
}

/// The answer to the question about this zone.
async fn answered(socket: &UdpSocket, id: u16, name: &Name) -> io::Result<Message> {
    let mut datagram = [0; DATAGRAM];
    loop {
        let length = socket.recv(&mut datagram).await?;
        let Ok(message) = Message::from_vec(&datagram[..length]) else { continue };
        let is_about = |query: &Query| query.name() == name && query.query_type() == RecordType::NS;
        if message.metadata.id == id && message.queries.iter().any(is_about) {
            return Ok(message);
        }
    }
}
