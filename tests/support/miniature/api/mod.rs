//! Route 53's API over a world, as a stand-in at the wire: REST with XML bodies, and Route 53's own errors.
//!
//! Serves the health checks (`checks`), the zone and its records (`zone`), and remembers every call.

mod checks;
mod zone;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::LOCATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use roxmltree::{Document, Node};
use tokio::net::TcpListener;

use super::Shared;
use crate::support::rest_xml::{Failed, LocalName as _, is_signed, response, said, wrapped};
use crate::support::script::{Held, Script};
use checks::Settings;

/// The id of the hosted zone.
pub const ZONE_ID: &str = "Z0MINIATURE";
/// The id of another one.
const OTHER_ID: &str = "Z0OTHER";

/// A running API; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    world: Shared,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    checks: BTreeMap<String, Settings>,
    /// The caller references of deleted checks: they cannot be used again.
    spent: Vec<String>,
    /// When each change was submitted, by the number in its id.
    changes: Vec<Duration>,
    calls: Vec<String>,
    down: bool,
    /// The name of another public zone of the account, which no registrar delegates to.
    other_zone: Option<String>,
    /// The calls that are held back, and those whose answer is lost.
    script: Script<&'static str, ()>,
}

/// The outcome of a call: the name and content of the response's root element.
type Done = Result<(&'static str, String), Failed>;

// === impl Api ===

impl Api {
    pub async fn start(world: &Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let api = Self { address, world: world.clone(), state: Arc::default() };
        tokio::spawn(api.clone().serve(listener));
        api
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls so far: the operation, the id in the path, and the texts of the body.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Closes each connection without an answer, as in an outage of us-east-1, until it is up again.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Makes another public zone of this name, with other name servers and no records.
    pub fn add_zone(&self, name: &str) {
        self.state().other_zone = Some(name.to_owned());
    }

    /// Loses the answer to the next call of this operation, which is done.
    pub fn lose(&self, operation: &'static str) {
        self.state().script.fail(operation, ());
    }

    /// Holds the next call of this operation back that is not held back yet.
    pub fn hold(&self, operation: &'static str) -> Held {
        self.state().script.hold(operation)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let api = self.clone();
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { api.answer(request).await }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let path = parts.uri.path().trim_matches('/').to_owned();
        let segments: Vec<&str> = path.split('/').collect();
        let Some((operation, id)) = operation(&parts.method, &segments) else {
            return Ok(Failed::invalid("the stand-in does not serve this").response());
        };
        let held = self.state().script.held(operation);
        if let Some(held) = held {
            held.pass().await;
        }
        if self.state().down {
            return Err("the API is down");
        }
        self.state().calls.push(format!("{operation} {id} {}", said(&text)).trim_end().to_owned());
        if !is_signed(&parts, &body) {
            return Ok(Failed::unsigned().response());
        }
        let done = self.perform(operation, id, parts.uri.query().unwrap_or_default(), &text);
        if self.state().script.fault(operation).is_some() {
            return Err("closed after it was done");
        }
        Ok(match done {
            Ok((root, content)) => {
                let created = operation == "CreateHealthCheck";
                let mut response = response(if created { 201 } else { 200 }, wrapped(root, &content));
                if created {
                    let place = self.url().parse().expect("a URL is a valid header");
                    response.headers_mut().insert(LOCATION, place);
                }
                response
            }
            Err(failed) => failed.response(),
        })
    }

    fn perform(&self, operation: &str, id: &str, query: &str, body: &str) -> Done {
        // A request without a body is read as an empty element.
        let document = Document::parse(if body.is_empty() { "<None/>" } else { body });
        let document = document.map_err(|_| Failed::invalid("malformed XML"))?;
        let (root, query) = (document.root_element(), parameters(query));
        let (state, world) = (&mut *self.state(), &mut *self.world.lock());
        match operation {
            "CreateHealthCheck" => state.create_check(world, root),
            "GetHealthCheck" => state.get_check(id),
            "UpdateHealthCheck" => state.update_check(world, id, root),
            "DeleteHealthCheck" => state.delete_check(world, id),
            "ListHealthChecks" => Ok(state.list_checks(&query)),
            "GetHealthCheckStatus" => state.check_status(world, id),
            "ListTagsForResource" => state.list_tags(id),
            "ListTagsForResources" => state.list_all_tags(root),
            "ChangeTagsForResource" => state.change_tags(id, root),
            "GetHostedZone" => zone::get(world, id),
            "ListHostedZones" => Ok(zone::list(world, state.other_zone.as_deref())),
            "ListHostedZonesByName" => Ok(zone::list_by_name(world, &query)),
            "ListResourceRecordSets" => zone::list_records(world, id, &query),
            "ChangeResourceRecordSets" => state.change_records(world, id, root),
            "GetChange" => state.get_change(world, id),
            _ => Err(Failed::invalid("the stand-in does not serve this")),
        }
    }
}

/// The operation of a method and a path, and the id in the path.
fn operation<'a>(method: &Method, segments: &[&'a str]) -> Option<(&'static str, &'a str)> {
    let (version, rest) = segments.split_first()?;
    if *version != "2013-04-01" {
        return None;
    }
    Some(match (method.as_str(), rest) {
        ("POST", ["healthcheck"]) => ("CreateHealthCheck", ""),
        ("GET", ["healthcheck"]) => ("ListHealthChecks", ""),
        ("GET", ["healthcheck", id]) => ("GetHealthCheck", *id),
        ("POST", ["healthcheck", id]) => ("UpdateHealthCheck", *id),
        ("DELETE", ["healthcheck", id]) => ("DeleteHealthCheck", *id),
        ("GET", ["healthcheck", id, "status"]) => ("GetHealthCheckStatus", *id),
        ("GET", ["tags", "healthcheck", id]) => ("ListTagsForResource", *id),
        ("POST", ["tags", "healthcheck", id]) => ("ChangeTagsForResource", *id),
        ("POST", ["tags", "healthcheck"]) => ("ListTagsForResources", ""),
        ("GET", ["hostedzone"]) => ("ListHostedZones", ""),
        ("GET", ["hostedzone", id]) => ("GetHostedZone", *id),
        ("GET", ["hostedzonesbyname"]) => ("ListHostedZonesByName", ""),
        ("GET", ["hostedzone", id, "rrset"]) => ("ListResourceRecordSets", *id),
        ("POST", ["hostedzone", id, "rrset"]) => ("ChangeResourceRecordSets", *id),
        ("GET", ["change", id]) => ("GetChange", *id),
        _ => return None,
    })
}

/// The parameters of a query.
fn parameters(query: &str) -> BTreeMap<&str, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key, value.replace("%2F", "/").replace("%2A", "*"))).collect()
}

/// The child element of this name.
fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name_local(name))
}

/// The text of the child element of this name.
fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    Some(child(node, name)?.text().unwrap_or_default())
}

fn element(name: &str, content: &str) -> String {
    format!("<{name}>{content}</{name}>")
}
