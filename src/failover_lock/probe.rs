//! Requests a primary's page as Route 53's checkers do.
//!
//! A checker has 4 s to connect. The endpoint then has 2 s to answer with a status of 2xx or 3xx and, if the check
//! searches for a text, 2 s more for the first 5,120 bytes of the body. It sends `Host`,
//! follows no redirect, resolves a name to IPv4 only and validates no certificate
//! ([how Route 53 determines the status of a health check][1]).
//!
//! [1]: https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/dns-failover-determining-health-of-endpoints.html

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::health_check::{Endpoint, HealthCheckId, ResourcePath};
use crate::program::text::Quoted;
use crate::remote::http::{self, Stream};
use crate::remote::resolve;

const CONNECT: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(2);
const SEARCHED: usize = 5120;

/// Why a checker would call the endpoint unhealthy.
#[derive(Debug, Error)]
pub enum Unhealthy {
    /// The check names neither an address nor a domain name.
    #[error("its health check has neither an IP address nor a domain name")]
    NoAddress,
    /// The domain name has no IPv4 address.
    #[error("{0} has no IPv4 address")]
    NoIpv4(String),
    /// No TCP or TLS connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A step took too long.
    #[error("{address} gave no {what} within {} s", .limit.as_secs())]
    TooSlow {
        /// The address.
        address: String,
        /// The missing part.
        what: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("{address} gave no HTTP answer: {source}")]
    Http {
        /// The address.
        address: String,
        /// The cause.
        source: hyper::Error,
    },
    /// A status other than 2xx and 3xx.
    #[error("{path} answers {}", .status.as_u16())]
    Status {
        /// The path that was requested.
        path: ResourcePath,
        /// The status of the answer.
        status: StatusCode,
    },
    /// The body does not contain the text.
    #[error("the first 5,120 bytes of {path} do not contain {}", Quoted(.text))]
    TextMissing {
        /// The path that was requested.
        path: ResourcePath,
        /// The text that was searched for.
        text: String,
    },
    /// A value of the health check is invalid in a request.
    #[error("its health check is unusable: {0}")]
    Invalid(String),
}

/// Requests `path` from `endpoint`, as the checkers of the health check `id` do.
///
/// # Errors
/// Why the checkers would find it unhealthy.
pub async fn ask(
    id: &HealthCheckId,
    endpoint: &Endpoint,
    path: &ResourcePath,
) -> Result<StatusCode, Unhealthy> {
    let probe = Probe::new(id, endpoint, path).await?;
    let connected: std::io::Result<Box<dyn Stream>> = if endpoint.https {
        let name = probe.server_name()?;
        let tls = async || {
            tls_connector(endpoint.sni).connect(name, TcpStream::connect(probe.address).await?).await
        };
        probe.in_time("TLS connection", CONNECT, tls()).await?.map(|stream| Box::new(stream) as _)
    } else {
        let stream = probe.in_time("connection", CONNECT, TcpStream::connect(probe.address)).await?;
        stream.map(|stream| Box::new(stream) as _)
    };
    probe.exchange(connected.map_err(|source| probe.no_connection(source))?).await
}

struct Probe<'a> {
    id: &'a HealthCheckId,
    endpoint: &'a Endpoint,
    path: &'a ResourcePath,
    address: SocketAddr,
}

// === impl Probe ===

impl<'a> Probe<'a> {
    async fn new(
        id: &'a HealthCheckId,
        endpoint: &'a Endpoint,
        path: &'a ResourcePath,
    ) -> Result<Self, Unhealthy> {
        let address = match (&endpoint.ip_address, &endpoint.domain_name) {
            (Some(ip), _) => {
                let ip: IpAddr = ip
                    .parse()
                    .map_err(|_| Unhealthy::Invalid(format!("the address {} is invalid", Quoted(ip))))?;
                SocketAddr::new(ip, endpoint.port)
            }
            (None, Some(name)) => {
                let unknown = |_| Unhealthy::NoIpv4(name.clone());
                let found = resolve::addresses(name, endpoint.port).await.map_err(unknown)?;
                found.into_iter().find(SocketAddr::is_ipv4).ok_or_else(|| Unhealthy::NoIpv4(name.clone()))?
            }
            (None, None) => return Err(Unhealthy::NoAddress),
        };
        Ok(Self { id, endpoint, path, address })
    }

    /// The name that the checkers send: the domain name, or the address if there is none.
    fn name(&self) -> String {
        match (&self.endpoint.domain_name, self.address) {
            (Some(name), _) => name.clone(),
            (None, SocketAddr::V4(address)) => address.ip().to_string(),
            (None, SocketAddr::V6(address)) => format!("[{}]", address.ip()),
        }
    }

    /// The value of `Host`, which omits the scheme's default port.
    fn host(&self) -> String {
        match (self.endpoint.https, self.endpoint.port) {
            (false, 80) | (true, 443) => self.name(),
            (_, port) => format!("{}:{port}", self.name()),
        }
    }

    fn server_name(&self) -> Result<ServerName<'static>, Unhealthy> {
        match &self.endpoint.domain_name {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| Unhealthy::Invalid(format!("the domain name {} is invalid", Quoted(name)))),
            None => Ok(self.address.ip().into()),
        }
    }

    async fn exchange(&self, stream: Box<dyn Stream>) -> Result<StatusCode, Unhealthy> {
        let request = Request::get(self.path.as_str())
            .header(HOST, self.host())
            .header(
                USER_AGENT,
                format!("Amazon-Route53-Health-Check-Service (ref {}; failover-lock)", self.id),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|error| Unhealthy::Invalid(error.to_string()))?;
        let answered = self.in_time("status", ANSWER, http::send(stream, request)).await?;
        let (response, _connection) = answered.map_err(|source| self.no_http(source))?;
        let status = response.status();
        if !(status.is_success() || status.is_redirection()) {
            return Err(Unhealthy::Status { path: self.path.clone(), status });
        }
        if let Some(text) = &self.endpoint.search_string {
            let body = self.in_time("body", ANSWER, self.first_bytes(response.into_body())).await??;
            if !body.windows(text.len().max(1)).any(|window| window == text.as_bytes()) {
                return Err(Unhealthy::TextMissing { path: self.path.clone(), text: text.clone() });
            }
        }
        Ok(status)
    }

    /// Reads the part of the body that a checker searches. The body may end earlier, or never.
    async fn first_bytes(&self, mut body: Incoming) -> Result<Vec<u8>, Unhealthy> {
        let mut bytes = Vec::new();
        while bytes.len() < SEARCHED
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|source| self.no_http(source))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        bytes.truncate(SEARCHED);
        Ok(bytes)
    }

    async fn in_time<T>(
        &self,
        what: &'static str,
        limit: Duration,
        step: impl Future<Output = T>,
    ) -> Result<T, Unhealthy> {
        let address = || self.address.to_string();
        timeout(limit, step).await.map_err(|_| Unhealthy::TooSlow { address: address(), what, limit })
    }

    fn no_connection(&self, source: std::io::Error) -> Unhealthy {
        Unhealthy::Connect { address: self.address.to_string(), source }
    }

    fn no_http(&self, source: hyper::Error) -> Unhealthy {
        Unhealthy::Http { address: self.address.to_string(), source }
    }
}

/// Route 53's checkers validate no certificate. No secret is sent to the endpoint, and its
/// answer permits only the restore that a person has requested.
fn tls_connector(sni: bool) -> TlsConnector {
    let mut config = http::tls_of_any_certificate();
    config.enable_sni = sni;
    TlsConnector::from(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_omits_the_default_port_of_the_scheme_and_no_other() {
        let id = HealthCheckId::try_from("a".to_owned()).unwrap();
        let path = ResourcePath::try_from("/".to_owned()).unwrap();
        for (https, port, name, host) in [
            (false, 80, Some("a.example"), "a.example"),
            (true, 443, Some("a.example"), "a.example"),
            (false, 443, Some("a.example"), "a.example:443"),
            (true, 80, None, "[::1]:80"),
        ] {
            let endpoint = Endpoint {
                path: "/".to_owned(),
                https,
                ip_address: Some("::1".to_owned()),
                domain_name: name.map(str::to_owned),
                port,
                sni: https,
                search_string: None,
            };
            let address = SocketAddr::new("::1".parse().unwrap(), port);
            let probe = Probe { id: &id, endpoint: &endpoint, path: &path, address };
            assert_eq!(probe.host(), host);
        }
    }
}
