//! Whether the internet asks the zone at all: a zone of the same name in another place may have taken over the domain, and
//! then nothing that is done in this one reaches anyone.

use std::fs;
use std::io;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::super::zone::Zone;
use super::Doctor;

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
        let apex = &zone.apex;
        let other = "to ask another resolver: --resolver ADDRESS, for example 1.1.1.1";
        let resolver = match self.resolver.map_or_else(resolver, Ok) {
            Ok(resolver) => resolver,
            Err(error) => {
                return self.findings.unknown(NAME, &format!("/etc/resolv.conf: {error}; {other}"));
            }
        };
        let named = match name_servers(resolver, apex).await {
            Ok(named) => named,
            Err(error) => {
                let said = format!("the name servers of {apex} were not seen: {resolver}: {error}; {other}");
                return self.findings.unknown(NAME, &said);
            }
        };
        let known: Vec<_> =
            self.latches.config.name_servers.iter().map(|server| server.address.ip()).collect();
        let mut foreign = Vec::new();
        for name in named.iter().filter(|name| !own.contains(name)) {
            // A domain may have names of its own for them.
            match addresses(resolver, name).await {
                Ok(found) if found.iter().any(|address| known.contains(address)) => {}
                Ok(_) => foreign.push(name.as_str()),
                Err(error) => {
                    let said = format!(
                        "{apex} has the name server {name}, whose address was not seen: {resolver}: {error}; {other}"
                    );
                    return self.findings.unknown(NAME, &said);
                }
            }
        }
        if foreign.is_empty() {
            return self
                .findings
                .ok(NAME, format!("{resolver} answers with the zone's name servers for {apex}"));
        }
        let said = format!(
            "{resolver} answers with {} for {apex}, which do not serve this zone: its records are not what clients get",
            foreign.join(", ")
        );
        let remedy = "delegate the domain to this zone's name servers, or remove the latch and deploy it in the zone that serves; if this \
                      network has a private zone of this name, ask the internet: --resolver 1.1.1.1";
        self.findings.wrong(NAME, said, remedy.to_owned());
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
async fn name_servers(resolver: SocketAddr, apex: &str) -> io::Result<Vec<String>> {
    let found = ask(resolver, apex, RecordType::NS).await?;
    let names = found.into_iter().filter_map(|data| match data {
        RData::NS(server) => Some(server.0.to_ascii().trim_end_matches('.').to_lowercase()),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() { Err(io::Error::other("it knows none")) } else { Ok(names) }
}

/// The IPv4 addresses of a host.
async fn addresses(resolver: SocketAddr, host: &str) -> io::Result<Vec<IpAddr>> {
    let found = ask(resolver, host, RecordType::A).await?;
    let addresses = found.into_iter().filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        _ => None,
    });
    let addresses: Vec<_> = addresses.collect();
    if addresses.is_empty() { Err(io::Error::other("it knows none")) } else { Ok(addresses) }
}

/// The records of this type that a resolver answers.
async fn ask(resolver: SocketAddr, name: &str, kind: RecordType) -> io::Result<Vec<RData>> {
    let mut name = Name::from_ascii(name).map_err(io::Error::other)?;
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let query = Query::query(name, kind);
    message.add_query(query.clone());
    let any = if resolver.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind::<SocketAddr>(any).await?;
    socket.connect(resolver).await?;
    let datagram = message.to_vec().map_err(io::Error::other)?;
    let mut answer = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..TRIES {
        socket.send(&datagram).await?;
        match timeout(TIME, answered(&socket, message.metadata.id, &query)).await {
            Ok(said) => answer = said,
            Err(_) => continue,
        }
        if answer.is_ok() {
            break;
        }
    }
    let answer = answer?;
    match answer.metadata.response_code {
        _ if answer.metadata.truncation => Err(io::Error::other("its answer is longer than 512 bytes")),
        ResponseCode::NoError => Ok(answer.answers.into_iter().map(|record| record.data).collect()),
        code => Err(io::Error::other(format!("it answers {code}"))),
    }
}

/// The answer to this question.
async fn answered(socket: &UdpSocket, id: u16, query: &Query) -> io::Result<Message> {
    let mut datagram = [0; DATAGRAM];
    loop {
        let length = socket.recv(&mut datagram).await?;
        let Ok(message) = Message::from_vec(&datagram[..length]) else { continue };
        let is_about =
            |asked: &Query| asked.name() == query.name() && asked.query_type() == query.query_type();
        if message.metadata.id == id && message.queries.iter().any(is_about) {
            return Ok(message);
        }
    }
}
