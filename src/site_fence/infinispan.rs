//! Cross-site replication as Infinispan's [REST API][1] shows it: which backup sites a site replicates to.
//!
//! [1]: https://infinispan.org/docs/stable/titles/rest/rest.html

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT, WWW_AUTHENTICATE};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::auth::basic;
use super::config::{Clusters, Roots, Trust};
use super::secrets::Secrets;
use super::site::Site;
use crate::program::text::{Quoted, brief};
use crate::remote::aws::{self, chain};
use crate::remote::deadline::{Deadline, MayPass};
use crate::remote::{http, https};

const HTTPS: u16 = 443;
const CONTAINER: &str = "/rest/v2/container";
const BACKUPS: &str = "/rest/v2/container/x-site/backups/";
/// The longest that one try of a call waits for its answer: Infinispan is slow in the situation in which it is asked.
const LONGEST_TRY: Duration = Duration::from_secs(15);
/// The length of the longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// The Infinispan clusters of all sites.
#[derive(Debug)]
pub struct Infinispan {
    user: String,
    endpoints: BTreeMap<Site, Authority>,
    trust: Trust,
    secrets: Secrets,
    tls: Mutex<Option<Tls>>,
}

/// A configuration of TLS, and whether a certificate did not lead to its roots.
#[derive(Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    is_doubtful: bool,
}

/// The clusters, with the password of one invocation.
pub struct Session<'a> {
    infinispan: &'a Infinispan,
    password: String,
}

/// Whether a site replicates to a backup site, for all of its caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every cache replicates.
    Online,
    /// No cache replicates.
    Offline,
    /// Some caches replicate, or the state is unknown.
    #[serde(other)]
    Mixed,
}

/// A call to a site's Infinispan that did not succeed.
#[derive(Debug, Error)]
#[error("Infinispan of {at}, {method} {path}: {cause}")]
pub struct Failure {
    at: Site,
    method: Method,
    path: String,
    cause: Cause,
}

#[derive(Debug, Error)]
enum Cause {
    #[error("INFINISPAN_SITE_ENDPOINTS has no endpoint for this site: add one")]
    NoEndpoint,
    #[error("the system has no root certificates to trust: set INFINISPAN_CA_CERT")]
    NoRoots,
    #[error("INFINISPAN_CA_CERT_SECRET: {0}")]
    RootsUnread(Box<aws::Failure>),
    #[error("INFINISPAN_CA_CERT_SECRET: {0}; store the text of a PEM file in it")]
    Roots(String),
    #[error("no connection to {0}: {1}{advice}", advice = certificate(.1).unwrap_or_default())]
    Connect(String, std::io::Error),
    #[error("no answer from {0} within {1:.1} s")]
    TooSlow(String, f64),
    #[error("no HTTP answer: {0}")]
    Http(String),
    #[error("HTTP {0}{1}")]
    Status(StatusCode, String),
    #[error("the answer cannot be read: {}", brief(.0))]
    Unreadable(serde_json::Error),
    #[error("it does not know the backup site {0}; it knows {1}")]
    NoBackup(Site, String),
    #[error("its state of the backup site {0} is still {1}")]
    Stays(Site, State),
    #[error(
        "the node that answered does not know which sites it sees. If it is not a relay node, set maxRelayNodes of this site's Infinispan \
         to at least the number of its nodes (docs/fence.md#deploy)"
    )]
    NoView,
}

#[derive(Deserialize)]
struct Container {
    /// The sites that see each other, with the own one; empty at a node that does not relay between sites.
    #[serde(default)]
    sites_view: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Backup {
    status: State,
}

// === impl Infinispan ===

impl Infinispan {
    /// The clusters that `config` names; the secret of their roots, if there is one, is in these `secrets`.
    #[must_use]
    pub fn new(clusters: &Clusters, secrets: Secrets) -> Self {
        Self {
            user: clusters.login.user.clone(),
            endpoints: clusters.endpoints.clone(),
            trust: clusters.trust.clone(),
            secrets,
            tls: Mutex::default(),
        }
    }

    /// The clusters with the user's password.
    #[must_use]
    pub fn with(&self, password: String) -> Session<'_> {
        Session { infinispan: self, password }
    }

    /// Returns the TLS configuration, which the first call makes: reading the system's roots takes longer than
    /// everything else in a cold start.
    async fn tls(&self, time: Duration) -> Result<Arc<ClientConfig>, Cause> {
        let mut kept = self.tls.lock().await;
        if let Some(tls) =
            kept.as_ref().filter(|tls| !tls.is_doubtful || !matches!(self.trust, Trust::Secret(_)))
        {
            return Ok(Arc::clone(&tls.config));
        }
        let trusting =
            |Roots(roots, own): Roots| http::tls_of_roots_or_own(roots, own).map_err(|_| Cause::NoRoots);
        let tls = match &self.trust {
            Trust::Anybody => http::tls_of_any_certificate(),
            Trust::Roots(roots) => trusting(roots.clone())?,
            Trust::Secret(id) => {
                // The rest of the time is the call's own.
                let pem = self.secrets.read(id, Deadline::after(time / 3)).await;
                let pem = match (pem, kept.as_mut()) {
                    (Ok(pem), _) => pem,
                    // The roots that were read before may fit the next certificate.
                    (Err(_), Some(tls)) => {
                        tls.is_doubtful = false;
                        return Ok(Arc::clone(&tls.config));
                    }
                    (Err(failure), None) => return Err(Cause::RootsUnread(Box::new(failure))),
                };
                trusting(Roots::read(&pem).map_err(Cause::Roots)?)?
            }
            Trust::System => trusting(Roots(https::system_roots(), Vec::new()))?,
        };
        let tls = Tls { config: Arc::new(tls), is_doubtful: false };
        Ok(Arc::clone(&kept.insert(tls).config))
    }
}

// === impl Session ===

impl Session<'_> {
    /// Whether `at` replicates to `backup`.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or `at` does not know `backup`.
    pub async fn state(&self, at: &Site, backup: &Site, deadline: Deadline) -> Result<State, Failure> {
        let deadline = deadline.with_attempts(LONGEST_TRY);
        deadline.persist(async |time| self.look(at, backup, time).await).await
    }

    /// Makes `at` replicate to `backup` (`Online`), or stops that (`Offline`), and returns whether this was a
    /// change. The state is read back, whatever the answer was.
    ///
    /// # Errors
    /// A call failed and did not pass before the deadline, or the state is still another one.
    pub async fn set(
        &self,
        at: &Site,
        backup: &Site,
        wanted: State,
        deadline: Deadline,
    ) -> Result<bool, Failure> {
        let action = if wanted == State::Online { "bring-online" } else { "take-offline" };
        let path = format!("{BACKUPS}{backup}?action={action}");
        let mut changed = false;
        let set = async |time: Duration| {
            let time = || time.min(deadline.left());
            if self.look(at, backup, time()).await? == wanted {
                return Ok(());
            }
            changed = true;
            self.call(at, Method::POST, &path, time()).await?;
            match self.look(at, backup, time()).await? {
                state if state == wanted => Ok(()),
                state => Err(Failure::new(at, &Method::POST, &path, Cause::Stays(backup.clone(), state))),
            }
        };
        deadline.with_attempts(LONGEST_TRY).persist(set).await?;
        Ok(changed)
    }

    /// Whether `at` sees the other site now.
    ///
    /// # Errors
    /// The call failed and did not pass before the deadline, or no node that answered knows.
    pub async fn sees(&self, at: &Site, other: &Site, deadline: Deadline) -> Result<bool, Failure> {
        deadline
            .with_attempts(LONGEST_TRY)
            .persist(async |time| {
                let answer = self.call(at, Method::GET, CONTAINER, time).await?;
                let failed = |cause| Failure::new(at, &Method::GET, CONTAINER, cause);
                let container: Container =
                    serde_json::from_slice(&answer).map_err(|error| failed(Cause::Unreadable(error)))?;
                let sites = container.sites_view.unwrap_or_default();
                if sites.is_empty() {
                    return Err(failed(Cause::NoView));
                }
                Ok(sites.iter().any(|site| site == other.as_str()))
            })
            .await
    }

    async fn look(&self, at: &Site, backup: &Site, time: Duration) -> Result<State, Failure> {
        let answer = self.call(at, Method::GET, BACKUPS, time).await?;
        let failed = |cause| Failure::new(at, &Method::GET, BACKUPS, cause);
        let backups: BTreeMap<String, Backup> =
            serde_json::from_slice(&answer).map_err(|error| failed(Cause::Unreadable(error)))?;
        let state = backups.get(backup.as_str()).map(|backup| backup.status);
        state.ok_or_else(|| {
            let known: Vec<_> = backups.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "none".to_owned() } else { Quoted(&known.join(", ")).to_string() };
            failed(Cause::NoBackup(backup.clone(), known))
        })
    }

    async fn call(&self, at: &Site, method: Method, path: &str, time: Duration) -> Result<Bytes, Failure> {
        let endpoint = self.endpoint(at, &method, path)?;
        let failed = |cause| Failure::new(at, &method, path, cause);
        let call = self.exchange(endpoint, &method, path, time);
        let slow = |_| failed(Cause::TooSlow(endpoint.to_string(), time.as_secs_f64()));
        timeout(time, call).await.map_err(slow)?.map_err(failed)
    }

    async fn exchange(
        &self,
        endpoint: &Authority,
        method: &Method,
        path: &str,
        time: Duration,
    ) -> Result<Bytes, Cause> {
        let host = endpoint.host().trim_start_matches('[').trim_end_matches(']');
        let address = (host, endpoint.port_u16().unwrap_or(HTTPS));
        let tls = TlsConnector::from(self.infinispan.tls(time).await?);
        let connect = async || {
            let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
            tls.connect(name, TcpStream::connect(address).await?).await
        };
        let stream = match connect().await {
            Ok(stream) => stream,
            Err(error) => {
                if certificate(&error).is_some() {
                    // A root that was replaced in the secret counts at the next try.
                    if let Some(tls) = self.infinispan.tls.lock().await.as_mut() {
                        tls.is_doubtful = true;
                    }
                }
                return Err(Cause::Connect(endpoint.to_string(), error));
            }
        };
        let no_http = |error: &dyn std::error::Error| Cause::Http(chain(error));
        let mut authorization = HeaderValue::try_from(basic(&self.infinispan.user, &self.password))
            .map_err(|error| no_http(&error))?;
        authorization.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, endpoint.as_str())
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "site-fence")
            .body(Empty::<Bytes>::new())
            .map_err(|error| no_http(&error))?;
        let sent = http::send(Box::new(stream), request).await;
        let (response, _connection) = sent.map_err(|error| no_http(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Cause::Status(status, advice(status, response.headers())));
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        Ok(body.map_err(|error| no_http(&*error))?.to_bytes())
    }

    fn endpoint(&self, at: &Site, method: &Method, path: &str) -> Result<&Authority, Failure> {
        self.infinispan.endpoints.get(at).ok_or_else(|| Failure::new(at, method, path, Cause::NoEndpoint))
    }
}

/// The operator's next step about a certificate that is not trusted; `None` for another problem.
fn certificate(error: &std::io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::UnknownIssuer => {
                ". Set INFINISPAN_CA_CERT, or the secret of INFINISPAN_CA_CERT_SECRET, to the root that signed it"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ". Give Infinispan a certificate for the host that INFINISPAN_SITE_ENDPOINTS names"
            }
            _ => ". Give Infinispan another certificate",
        }),
        _ => None,
    }
}

/// The operator's next step about a status.
fn advice(status: StatusCode, headers: &HeaderMap) -> String {
    match status {
        StatusCode::UNAUTHORIZED => {
            let offered = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            let offered: Vec<_> = offered.filter_map(|value| value.split(' ').next()).collect();
            if offered.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic")) || offered.is_empty() {
                ". Check INFINISPAN_USER and the secret of INFINISPAN_USER_SECRET".to_owned()
            } else {
                format!(
                    ". The endpoint accepts {} but not basic authentication: add BASIC to its mechanisms",
                    Quoted(&offered.join(", "))
                )
            }
        }
        StatusCode::FORBIDDEN => {
            ". INFINISPAN_USER is not allowed to do that: give it the permission ADMIN".to_owned()
        }
        _ => String::new(),
    }
}

// === impl Failure ===

impl Failure {
    fn new(at: &Site, method: &Method, path: &str, cause: Cause) -> Self {
        Self { at: at.clone(), method: method.clone(), path: path.to_owned(), cause }
    }

    /// Its type in the function's answer.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match &self.cause {
            Cause::NoEndpoint | Cause::NoRoots | Cause::Roots(_) => "InvalidConfiguration",
            Cause::RootsUnread(_)
            | Cause::Connect(..)
            | Cause::TooSlow(..)
            | Cause::Http(_)
            | Cause::Unreadable(_)
            | Cause::NoView => "InfinispanUnavailable",
            Cause::Status(status, _) if is_passing(*status) => "InfinispanUnavailable",
            Cause::Status(..) | Cause::NoBackup(..) => "InfinispanRefused",
            Cause::Stays(..) => "InfinispanUnfinished",
        }
    }
}

impl MayPass for Failure {
    fn may_pass(&self) -> bool {
        match &self.cause {
            Cause::NoEndpoint | Cause::NoRoots | Cause::Roots(_) | Cause::NoBackup(..) => false,
            Cause::RootsUnread(failure) => failure.may_pass(),
            Cause::Connect(_, error) => certificate(error).is_none(),
            Cause::TooSlow(..) | Cause::Http(_) | Cause::Unreadable(_) | Cause::Stays(..) | Cause::NoView => {
                true
            }
            Cause::Status(status, _) => is_passing(*status),
        }
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
}

// === impl State ===

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Mixed => "mixed",
        })
    }
}
