//! Whether the internet asks the zone at all: a zone of the same name in another place may have taken over the domain, and
//! then nothing that is done in this one reaches anyone.

use std::fs;
use std::io;
use std::net::{AddrParseError, IpAddr, SocketAddr};

use hickory_proto::rr::RecordType;

use super::super::zone::Zone;
use super::Doctor;
use crate::cli::answers::{Asked, PORT, Values};

const NAME: &str = "delegation";

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
        let named = match ask(resolver, apex, RecordType::NS).await {
            Ok(named) => named,
            Err(error) => {
                let said = format!("the name servers of {apex} were not seen: {resolver}: {error}; {other}");
                return self.findings.unknown(NAME, &said);
            }
        };
        let known: Vec<_> =
            self.latches.config.name_servers.iter().map(|server| server.address.ip().to_string()).collect();
        let mut foreign = Vec::new();
        for name in named.iter().filter(|name| !own.contains(name)) {
            // A domain may have names of its own for them.
            match ask(resolver, name, RecordType::A).await {
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
    text.parse().or_else(|_| Ok((text.parse::<IpAddr>()?, PORT).into()))
}

/// The first resolver of the system.
fn resolver() -> io::Result<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf")?;
    let mut named = text.lines().filter_map(|line| address(line.strip_prefix("nameserver")?.trim()).ok());
    named.next().ok_or_else(|| io::Error::other("it names no resolver"))
}

/// What a resolver answers for this name, which is something.
async fn ask(resolver: SocketAddr, name: &str, kind: RecordType) -> Result<Values, String> {
    let answer = Asked::at(resolver, name, kind)?.ask().await.remove(0)?;
    if answer.is_empty() { Err("it knows none".to_owned()) } else { Ok(answer) }
}
