//! A site's Infinispan on loopback, behind TLS: the part of its REST API that takes backups at other
//! sites offline and brings them online, for all caches at once. It keeps a state per site and cache,
//! remembers every call, and follows a fault script.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::tls::Tls;

/// Where the container is, which tells what sites are seen.
const CONTAINER: [&str; 3] = ["rest", "v2", "container"];
/// Where the caches are.
const CACHES: [&str; 3] = ["rest", "v2", "caches"];
/// Where the backups are.
const BACKUPS: [&str; 5] = ["rest", "v2", "container", "x-site", "backups"];

/// A running stand-in; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Infinispan {
    /// Where it listens.
    pub address: SocketAddr,
    tls: Tls,
    authorization: Arc<str>,
    state: Arc<Mutex<State>>,
}

/// What happens to a call instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, and nothing is done.
    Status(u16, &'static str),
    /// The connection is closed, and nothing is done.
    CloseBefore,
    /// It is done, and the connection is closed without an answer.
    CloseAfter,
    /// No answer ever comes, and nothing is done.
    Hang,
    /// It is done, and the answer takes this long.
    Slow(Duration),
    /// It is done but for the last cache, and the answer does not tell.
    Stuck,
}

/// Whether each cache's backup is online.
type Caches = BTreeMap<String, bool>;

#[derive(Default)]
struct State {
    sites: BTreeMap<String, Caches>,
    /// The state transfers, by cache and site.
    transfers: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether no other site is seen.
    is_cut_off: bool,
    calls: Vec<String>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    always: BTreeMap<&'static str, Fault>,
}

// === impl Infinispan ===

impl Infinispan {
    /// An Infinispan without backups that accepts this user.
    pub async fn start(user: &str, password: &str) -> Self {
        Self::start_with(Tls::new(), user, password).await
    }

    /// The same with this certificate.
    pub async fn start_with(tls: Tls, user: &str, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let infinispan = Self { address, tls, authorization: authorization.into(), state: Arc::default() };
        tokio::spawn(infinispan.clone().serve(listener));
        infinispan
    }

    /// The name in its certificate, and the port.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.authority())
    }

    /// The root that vouches for it, as PEM.
    pub fn root(&self) -> &str {
        &self.tls.root
    }

    /// Backs up these caches to a site that is online.
    pub fn put(&self, site: &str, caches: &[&str]) {
        let caches = caches.iter().map(|cache| ((*cache).to_owned(), true)).collect();
        self.state().sites.insert(site.to_owned(), caches);
    }

    /// An operator takes one cache's backup offline or brings it online.
    pub fn set_online(&self, site: &str, cache: &str, online: bool) {
        let mut state = self.state();
        let caches = state.sites.get_mut(site).expect("the site is backed up to");
        *caches.get_mut(cache).expect("the cache is backed up") = online;
    }

    /// The last state transfer of a cache to a site is in this state.
    pub fn set_transfer(&self, cache: &str, site: &str, transfer: &str) {
        let mut state = self.state();
        state.transfers.entry(cache.to_owned()).or_default().insert(site.to_owned(), transfer.to_owned());
    }

    /// The connection to the other sites breaks, or is back.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.state().is_cut_off = is_cut_off;
    }

    /// `online`, `offline` or `mixed`.
    pub fn status(&self, site: &str) -> String {
        let state = self.state();
        let status = status_of(&state.sites[site]);
        status["status"].as_str().expect("a status is a text").to_owned()
    }

    /// The calls so far: `take-offline SITE`, `bring-online SITE`, `status` or `view`, after `unauthorized`
    /// where it was not let in.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Lets this happen to the next `take-offline`, `bring-online`, `status` or `view` that has no fault yet.
    pub fn fail(&self, what: &'static str, fault: Fault) {
        self.state().faults.entry(what).or_default().push_back(fault);
    }

    /// Lets this happen to every `take-offline`, `bring-online`, `status` or `view`.
    pub fn fail_always(&self, what: &'static str, fault: Fault) {
        self.state().always.insert(what, fault);
    }

    /// From here on nothing happens to any call.
    pub fn recover(&self) {
        let mut state = self.state();
        state.always.clear();
        state.faults.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let infinispan = self.clone();
            let service = service_fn(move |request| {
                let infinispan = infinispan.clone();
                async move { infinispan.answer(request).await }
            });
            let tls = self.tls.acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, _) = request.into_parts();
        let authorization = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let is_authorized = authorization == Some(self.authorization.as_bytes());
        let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let (what, site) = match (&parts.method, segments.strip_prefix(&BACKUPS), parts.uri.query()) {
            (&Method::GET, None, None) if segments == CONTAINER => ("view", ""),
            (&Method::GET, Some([]), None) => ("status", ""),
            (&Method::GET, None, None) if segments == CACHES => ("caches", ""),
            (&Method::GET, None, Some("action=push-state-status")) if segments.starts_with(&CACHES) => {
                ("transfers", segments.get(3).copied().unwrap_or_default())
            }
            (&Method::POST, Some([site]), Some("action=take-offline")) => ("take-offline", *site),
            (&Method::POST, Some([site]), Some("action=bring-online")) => ("bring-online", *site),
            _ => ("unknown", parts.uri.path()),
        };

        let fault = {
            let mut state = self.state();
            let call = format!("{what} {site}").trim_end().to_owned();
            if !is_authorized {
                state.calls.push(format!("unauthorized {call}"));
                return Ok(unauthorized());
            }
            state.calls.push(call);
            let fault = state.faults.get_mut(what).and_then(VecDeque::pop_front);
            fault.or_else(|| state.always.get(what).cloned())
        };
        match fault {
            Some(Fault::Status(status, body)) => return Ok(response(status, body.to_owned())),
            Some(Fault::CloseBefore) => return Err("closed before it was done"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::CloseAfter | Fault::Stuck) | None => {}
        }
        let done = self.perform(what, site, matches!(fault, Some(Fault::Stuck)));
        if matches!(fault, Some(Fault::CloseAfter)) {
            return Err("closed after it was done");
        }
        Ok(done)
    }

    fn perform(&self, what: &str, site: &str, is_stuck: bool) -> Response<Full<Bytes>> {
        let mut state = self.state();
        if what == "view" {
            let others = state.sites.keys().filter(|_| !state.is_cut_off).map(String::as_str);
            let view: Vec<_> = std::iter::once("this-site").chain(others).collect();
            return response(200, json!({ "local_site": "this-site", "sites_view": view }).to_string());
        }
        if what == "status" {
            let sites: BTreeMap<_, _> =
                state.sites.iter().map(|(site, caches)| (site, status_of(caches))).collect();
            return response(200, json!(sites).to_string());
        }
        if what == "caches" {
            let caches: BTreeSet<_> = state.sites.values().flat_map(BTreeMap::keys).collect();
            return response(200, json!(caches).to_string());
        }
        if what == "transfers" {
            let none = BTreeMap::new();
            return response(200, json!(state.transfers.get(site).unwrap_or(&none)).to_string());
        }
        let online = match what {
            "take-offline" => false,
            "bring-online" => true,
            _ => return response(404, String::new()),
        };
        let mut caches = state.sites.get(site).cloned().unwrap_or_default();
        let done = caches.len().saturating_sub(usize::from(is_stuck));
        for cache in caches.values_mut().take(done) {
            *cache = online;
        }
        if let Some(kept) = state.sites.get_mut(site) {
            kept.clone_from(&caches);
        }
        // Every cache with any backup is addressed, so a cache without a backup at this site reports an error; for an
        // unknown site, all caches do.
        let outcome = |cache: &String| {
            if caches.contains_key(cache) { "ok".to_owned() } else { format!("Incorrect site name: {site}") }
        };
        let all = state.sites.values().flat_map(BTreeMap::keys);
        let outcomes: BTreeMap<_, _> = all.map(|cache| (cache, outcome(cache))).collect();
        response(200, json!(outcomes).to_string())
    }
}

fn status_of(caches: &Caches) -> Value {
    let those = |wanted: bool| -> Vec<&String> {
        caches.iter().filter(|(_, online)| **online == wanted).map(|(cache, _)| cache).collect()
    };
    let (online, offline) = (those(true), those(false));
    if offline.is_empty() {
        json!({ "status": "online" })
    } else if online.is_empty() {
        json!({ "status": "offline" })
    } else {
        // The third list is of caches whose own nodes differ.
        json!({ "status": "mixed", "online": online, "offline": offline, "mixed": [] })
    }
}

fn unauthorized() -> Response<Full<Bytes>> {
    let mut response = response(401, String::new());
    for challenge in
        [r#"Basic realm="default""#, r#"Digest realm="default", nonce="0", qop="auth", algorithm=SHA-256"#]
    {
        response.headers_mut().append(WWW_AUTHENTICATE, challenge.parse().expect("a valid header"));
    }
    response
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("a fault script names real statuses");
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a valid header"));
    response
}
