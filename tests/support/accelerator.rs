//! A Global Accelerator on loopback that speaks its wire protocol: the operation in a header, JSON
//! in bodies, lists in pages. It keeps state, enforces the API's rules, remembers every call, and
//! follows a fault script.
//!
//! Serves `ListAccelerators`, `ListListeners`, `ListEndpointGroups`, `ListTagsForResource`,
//! `TagResource`, `UntagResource`, `RemoveEndpoints` and `AddEndpoints`. A test in which
//! `UpdateEndpointGroup` is called fails: it drops every endpoint that it does not name.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A running stand-in; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Accelerators {
    /// The address on which it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// An accelerator as the stand-in keeps it.
#[derive(Clone, Debug)]
pub struct Accelerator {
    pub arn: String,
    pub dns_name: String,
    pub dual_stack_dns_name: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub listeners: Vec<Listener>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub arn: String,
    pub groups: Vec<Group>,
}

/// An endpoint group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Empty until the group is a listener's.
    pub arn: String,
    pub region: String,
    /// 0 to 100.
    pub dial: f32,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: String,
    pub weight: u8,
    /// Whether the client's address is preserved.
    pub client_ip: bool,
    /// `HEALTHY`, `UNHEALTHY` or `INITIAL`.
    pub health: &'static str,
}

/// What happens to a call instead of its answer.
#[derive(Clone)]
pub enum Fault {
    /// One of the API's errors, and nothing is done.
    Error(&'static str, &'static str),
    /// The connection is closed, and nothing is done.
    CloseBefore,
    /// It is done, and the connection is closed without an answer.
    CloseAfter,
    /// No answer ever comes, and nothing is done.
    Hang,
    /// Another caller does this just before.
    Meddle(Arc<dyn Fn(&Accelerators) + Send + Sync>),
}

#[derive(Default)]
struct State {
    accelerators: Vec<Accelerator>,
    page_size: Option<usize>,
    calls: Vec<String>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    always: BTreeMap<&'static str, Fault>,
}

/// One of the API's errors: code and message.
#[derive(Debug)]
struct Failed(&'static str, String);

// === impl Accelerator ===

impl Accelerator {
    /// One without listeners, by the first label of its DNS name: an `a` and 16 hexadecimal digits.
    pub fn new(label: &str) -> Self {
        let digits = &label[1..];
        let uuid = [&digits[..8], &digits[8..12], &digits[12..], &digits[..4], &digits[4..]].join("-");
        Self {
            arn: format!("arn:aws:globalaccelerator::000000000000:accelerator/{uuid}"),
            dns_name: format!("{label}.awsglobalaccelerator.com"),
            dual_stack_dns_name: None,
            tags: BTreeMap::new(),
            listeners: Vec::new(),
        }
    }

    pub fn dual_stack(mut self) -> Self {
        self.dual_stack_dns_name = Some(self.dns_name.replacen('.', ".dualstack.", 1));
        self
    }

    /// Adds this tag.
    pub fn tagged(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a listener with these endpoint groups.
    pub fn listener(mut self, groups: impl IntoIterator<Item = Group>) -> Self {
        let arn = format!("{}/listener/0123vx{:02}", self.arn, self.listeners.len());
        let mut groups: Vec<_> = groups.into_iter().collect();
        for (number, group) in groups.iter_mut().enumerate() {
            group.arn = format!("{arn}/endpoint-group/098765zyxw{number:02}");
        }
        self.listeners.push(Listener { arn, groups });
        self
    }

    /// The ARNs of its endpoint groups, listener by listener.
    pub fn group_arns(&self) -> Vec<String> {
        self.listeners.iter().flat_map(|listener| &listener.groups).map(|group| group.arn.clone()).collect()
    }

    fn json(&self) -> Value {
        let kind = if self.dual_stack_dns_name.is_some() { "DUAL_STACK" } else { "IPV4" };
        json!({
            "AcceleratorArn": self.arn,
            "Name": "stand-in",
            "IpAddressType": kind,
            "Enabled": true,
            "DnsName": self.dns_name,
            "DualStackDnsName": self.dual_stack_dns_name,
            "Status": "DEPLOYED",
        })
    }

    fn tag(&mut self, tags: &[Value]) -> Result<(), Failed> {
        let allowed = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
        let mut changed = self.tags.clone();
        for tag in tags {
            let (key, value) = (text(tag, "Key"), text(tag, "Value"));
            let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
            if !fits || !key.chars().chain(value.chars()).all(allowed) || key.starts_with("aws:") {
                return Err(Failed::invalid(&format!("the tag {key}={value} is not allowed")));
            }
            changed.insert(key.to_owned(), value.to_owned());
        }
        if changed.len() > 50 {
            return Err(Failed::invalid("an accelerator has 50 tags at most"));
        }
        self.tags = changed;
        Ok(())
    }
}

// === impl Group ===

impl Group {
    pub fn new(region: &str, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let (region, endpoints) = (region.to_owned(), endpoints.into_iter().collect());
        Self { arn: String::new(), region, dial: 100.0, endpoints }
    }

    /// The share of the traffic that it would get, in percent.
    pub fn dial(mut self, dial: f32) -> Self {
        self.dial = dial;
        self
    }

    fn json(&self) -> Value {
        let endpoints: Vec<_> = self.endpoints.iter().map(Endpoint::json).collect();
        json!({
            "EndpointGroupArn": self.arn,
            "EndpointGroupRegion": self.region,
            "EndpointDescriptions": endpoints,
            "TrafficDialPercentage": self.dial,
        })
    }

    fn remove(&mut self, identifiers: &[Value]) -> Result<(), Failed> {
        few(identifiers)?;
        for identifier in identifiers {
            if !self.endpoints.iter().any(|endpoint| endpoint.is_meant(identifier)) {
                return Err(Failed::missing("EndpointNotFoundException", text(identifier, "EndpointId")));
            }
        }
        let is_meant = |endpoint: &Endpoint| identifiers.iter().any(|other| endpoint.is_meant(other));
        self.endpoints.retain(|endpoint| !is_meant(endpoint));
        Ok(())
    }

    /// Answers with the endpoints that are new.
    fn add(&mut self, configurations: &[Value]) -> Result<Vec<Value>, Failed> {
        few(configurations)?;
        let mut endpoints = self.endpoints.clone();
        for configuration in configurations {
            let new = Endpoint::read(configuration)?;
            // A load balancer is in the Region of its endpoint group.
            if new.id.split(':').nth(3).is_some_and(|region| region != self.region) {
                return Err(Failed::invalid(&format!("{} is not in {}", new.id, self.region)));
            }
            // With and without the client's address, one resource makes two endpoints.
            if endpoints.iter().any(|other| other.id == new.id && other.client_ip == new.client_ip) {
                return Err(Failed("EndpointAlreadyExistsException", format!("{} is there already", new.id)));
            }
            endpoints.push(new);
        }
        if endpoints.len() > 10 {
            return Err(Failed("LimitExceededException", "a group has 10 endpoints at most".to_owned()));
        }
        let new = endpoints[self.endpoints.len()..].iter().map(Endpoint::json).collect();
        self.endpoints = endpoints;
        Ok(new)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A healthy one with what the API sets by default.
    pub fn new(id: &str) -> Self {
        let client_ip = id.contains(":loadbalancer/app/");
        Self { id: id.to_owned(), weight: 128, client_ip, health: "HEALTHY" }
    }

    pub fn weight(mut self, weight: u8) -> Self {
        self.weight = weight;
        self
    }

    pub fn client_ip(mut self, preserved: bool) -> Self {
        self.client_ip = preserved;
        self
    }

    pub fn health(mut self, health: &'static str) -> Self {
        self.health = health;
        self
    }

    fn read(configuration: &Value) -> Result<Self, Failed> {
        let mut endpoint = Self::new(text(configuration, "EndpointId")).health("INITIAL");
        if endpoint.id.is_empty() {
            return Err(Failed::invalid("an endpoint has an EndpointId"));
        }
        if let Some(weight) = configuration["Weight"].as_i64() {
            endpoint.weight = u8::try_from(weight).map_err(|_| Failed::invalid("Weight is 0 to 255"))?;
        }
        if let Some(preserved) = configuration["ClientIPPreservationEnabled"].as_bool() {
            endpoint.client_ip = preserved;
        }
        Ok(endpoint)
    }

    fn is_meant(&self, identifier: &Value) -> bool {
        let preserved = identifier["ClientIPPreservationEnabled"].as_bool();
        text(identifier, "EndpointId") == self.id
            && preserved.is_none_or(|preserved| preserved == self.client_ip)
    }

    fn json(&self) -> Value {
        json!({
            "EndpointId": self.id,
            "Weight": self.weight,
            "HealthState": self.health,
            "ClientIPPreservationEnabled": self.client_ip,
        })
    }
}

// === impl Fault ===

impl Fault {
    /// Another caller does this just before.
    pub fn meddle(meddle: impl Fn(&Accelerators) + Send + Sync + 'static) -> Self {
        Self::Meddle(Arc::new(meddle))
    }
}

// === impl Accelerators ===

impl Accelerators {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let accelerators = Self { address, state: Arc::default() };
        tokio::spawn(accelerators.clone().serve(listener));
        accelerators
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put(&self, accelerator: Accelerator) {
        let mut state = self.state();
        state.accelerators.retain(|other| other.arn != accelerator.arn);
        state.accelerators.push(accelerator);
    }

    /// Lets a page of any list hold so many items, however many more are asked for.
    pub fn page_size(&self, page_size: usize) {
        self.state().page_size = Some(page_size);
    }

    pub fn endpoints(&self, group_arn: &str) -> Vec<Endpoint> {
        self.state().group(group_arn).expect("the group exists").endpoints.clone()
    }

    pub fn tags(&self, accelerator_arn: &str) -> BTreeMap<String, String> {
        self.state().accelerator(accelerator_arn).expect("the accelerator exists").tags.clone()
    }

    /// Health checks come to this result, wherever the endpoint is.
    /// Lets the notes in the tags of all accelerators be older by so much.
    pub fn age_notes(&self, by: TimeDelta) {
        for accelerator in &mut self.state().accelerators {
            for (_, value) in accelerator.tags.iter_mut().filter(|(key, _)| key.starts_with("site-fence:")) {
                let (time, rest) = value.split_once(' ').unwrap_or((value, ""));
                if let Ok(time) = time.parse::<DateTime<Utc>>() {
                    let older = (time - by).to_rfc3339_opts(SecondsFormat::Millis, true);
                    format!("{older} {rest}").trim_end().clone_into(value);
                }
            }
        }
    }

    pub fn set_health(&self, endpoint_id: &str, health: &'static str) {
        let mut state = self.state();
        let endpoints = state.groups().flat_map(|group| &mut group.endpoints);
        for endpoint in endpoints.filter(|endpoint| endpoint.id == endpoint_id) {
            endpoint.health = health;
        }
    }

    /// Where the clients of a listener arrive, by the ids of endpoints: at the healthy endpoints of a group with a
    /// traffic dial above 0. If there are none, Global Accelerator fails over to every group, whatever its dial.
    pub fn arrives(&self, listener_arn: &str) -> Vec<String> {
        let mut state = self.state();
        let groups = &state.listener(listener_arn).expect("the listener exists").groups;
        let healthy = |any_dial: bool| -> Vec<String> {
            let groups = groups.iter().filter(|group| any_dial || group.dial > 0.0);
            let endpoints = groups.flat_map(|group| &group.endpoints);
            let serving = endpoints.filter(|endpoint| endpoint.weight > 0 && endpoint.health == "HEALTHY");
            serving.map(|endpoint| endpoint.id.clone()).collect()
        };
        let first = healthy(false);
        if first.is_empty() { healthy(true) } else { first }
    }

    /// An operator adds the endpoint by hand.
    pub fn add(&self, group_arn: &str, endpoint: Endpoint) {
        self.state().group(group_arn).expect("the group exists").endpoints.push(endpoint);
    }

    /// An operator removes the endpoint by hand, from every group.
    pub fn remove(&self, endpoint_id: &str) {
        let mut state = self.state();
        for group in state.groups() {
            group.endpoints.retain(|endpoint| endpoint.id != endpoint_id);
        }
    }

    /// An operator removes the endpoint by hand from this group.
    pub fn remove_from(&self, group_arn: &str, endpoint_id: &str) {
        let mut state = self.state();
        let group = state.group(group_arn).expect("the group exists");
        group.endpoints.retain(|endpoint| endpoint.id != endpoint_id);
    }

    /// The calls so far: operation, ARN, and what was named besides, separated by commas.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Lets this happen to the next call of the operation that has no fault yet.
    pub fn fail(&self, operation: &'static str, fault: Fault) {
        self.state().faults.entry(operation).or_default().push_back(fault);
    }

    /// Lets this happen to every call of the operation.
    pub fn fail_always(&self, operation: &'static str, fault: Fault) {
        self.state().always.insert(operation, fault);
    }

    /// From here on nothing happens to any call.
    pub fn recover(&self) {
        let mut state = self.state();
        state.always.clear();
        state.faults.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panicked that held the state")
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let accelerators = self.clone();
            let service = service_fn(move |request| {
                let accelerators = accelerators.clone();
                async move { accelerators.answer(request).await }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::HEAD {
            // A connection that is opened before it is needed.
            return Ok(response(403, String::new()));
        }
        let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        let operation = target.and_then(|target| target.strip_prefix("GlobalAccelerator_V20180706."));
        let operation = operation.unwrap_or("Unknown");

        let fault = {
            let mut state = self.state();
            state.calls.push(said(operation, &request));
            // While the state is held: whatever the test asks next panics as well.
            assert!(operation != "UpdateEndpointGroup", "nothing may call UpdateEndpointGroup: {request}");
            let fault = state.faults.get_mut(operation).and_then(VecDeque::pop_front);
            fault.or_else(|| state.always.get(operation).cloned())
        };
        match &fault {
            Some(Fault::Error(code, message)) => return Ok(error(code, message)),
            Some(Fault::CloseBefore) => return Err("closed before it was done"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Meddle(meddle)) => meddle(self),
            Some(Fault::CloseAfter) | None => {}
        }
        let done = if is_signed(&parts) {
            self.perform(operation, &request)
        } else {
            Err(Failed("AccessDeniedException", "signed for another service or Region".to_owned()))
        };
        if matches!(fault, Some(Fault::CloseAfter)) {
            return Err("closed after it was done");
        }
        Ok(done.map_or_else(|failed| error(failed.0, &failed.1), |body| response(200, body)))
    }

    fn perform(&self, operation: &str, request: &Value) -> Result<String, Failed> {
        let state = &mut *self.state();
        let arn = arn(request);
        match operation {
            "ListAccelerators" => {
                let accelerators = state.accelerators.iter().map(Accelerator::json).collect();
                paged("Accelerators", accelerators, request, state.page_size)
            }
            "ListListeners" => {
                let listeners = state.accelerator(arn)?.listeners.iter();
                let listeners = listeners
                    .map(|listener| json!({ "ListenerArn": listener.arn, "Protocol": "TCP" }))
                    .collect();
                paged("Listeners", listeners, request, state.page_size)
            }
            "ListEndpointGroups" => {
                let groups = state.listener(arn)?.groups.iter().map(Group::json).collect();
                paged("EndpointGroups", groups, request, state.page_size)
            }
            "ListTagsForResource" => {
                let tags = state.accelerator(arn)?.tags.iter();
                let tags: Vec<_> = tags.map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
                Ok(json!({ "Tags": tags }).to_string())
            }
            "TagResource" => {
                state.accelerator(arn)?.tag(list(request, "Tags"))?;
                Ok(json!({}).to_string())
            }
            "UntagResource" => {
                let keys = list(request, "TagKeys");
                state.accelerator(arn)?.tags.retain(|key, _| !keys.contains(&json!(key)));
                Ok(json!({}).to_string())
            }
            "RemoveEndpoints" => {
                state.group(arn)?.remove(list(request, "EndpointIdentifiers"))?;
                Ok(String::new())
            }
            "AddEndpoints" => {
                let new = state.group(arn)?.add(list(request, "EndpointConfigurations"))?;
                Ok(json!({ "EndpointGroupArn": arn, "EndpointDescriptions": new }).to_string())
            }
            _ => Err(Failed("UnknownOperationException", "the stand-in does not serve this".to_owned())),
        }
    }
}

// === impl State ===

impl State {
    fn accelerator(&mut self, arn: &str) -> Result<&mut Accelerator, Failed> {
        let found = self.accelerators.iter_mut().find(|accelerator| accelerator.arn == arn);
        found.ok_or_else(|| Failed::missing("AcceleratorNotFoundException", arn))
    }

    fn listeners(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.accelerators.iter_mut().flat_map(|accelerator| &mut accelerator.listeners)
    }

    fn listener(&mut self, arn: &str) -> Result<&mut Listener, Failed> {
        let found = self.listeners().find(|listener| listener.arn == arn);
        found.ok_or_else(|| Failed::missing("ListenerNotFoundException", arn))
    }

    fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        self.listeners().flat_map(|listener| &mut listener.groups)
    }

    fn group(&mut self, arn: &str) -> Result<&mut Group, Failed> {
        let found = self.groups().find(|group| group.arn == arn);
        found.ok_or_else(|| Failed::missing("EndpointGroupNotFoundException", arn))
    }
}

// === impl Failed ===

impl Failed {
    fn missing(code: &'static str, arn: &str) -> Self {
        Self(code, format!("{arn:?} does not exist"))
    }

    fn invalid(message: &str) -> Self {
        Self("InvalidArgumentException", message.to_owned())
    }
}

/// Whether the request names the right scope to be signed for; that the SDK signs well is shown elsewhere.
fn is_signed(request: &Parts) -> bool {
    let authorization = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    authorization.is_some_and(|said| said.contains("/us-west-2/globalaccelerator/aws4_request,"))
}

/// A page of a list, and the token of the next page.
fn paged(name: &str, items: Vec<Value>, request: &Value, page_size: Option<usize>) -> Result<String, Failed> {
    let most = usize::try_from(request["MaxResults"].as_i64().unwrap_or(10));
    let most = most.ok().filter(|most| (1..=100).contains(most));
    let most = most.ok_or_else(|| Failed::invalid("MaxResults is 1 to 100"))?;
    let start = request["NextToken"].as_str().unwrap_or("0").parse::<usize>();
    let start = start.map_err(|error| Failed("InvalidNextTokenException", error.to_string()))?;
    let next = start + page_size.map_or(most, |page_size| page_size.min(most));
    let is_last = next >= items.len();
    let page: Vec<_> = items.into_iter().take(next).skip(start).collect();
    let mut answer = json!({ name: page });
    if !is_last {
        answer["NextToken"] = json!(next.to_string());
    }
    Ok(answer.to_string())
}

/// A call names at least one endpoint, and no more than a group holds.
fn few(endpoints: &[Value]) -> Result<(), Failed> {
    if (1..=10).contains(&endpoints.len()) {
        return Ok(());
    }
    Err(Failed::invalid("a call names 1 to 10 endpoints"))
}

/// The ARN of what a request is about; empty where it is about all accelerators.
fn arn(request: &Value) -> &str {
    let names = ["ResourceArn", "AcceleratorArn", "ListenerArn", "EndpointGroupArn"];
    names.into_iter().find_map(|name| request[name].as_str()).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(request: &'a Value, name: &str) -> &'a [Value] {
    request[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A line for the list of calls.
fn said(operation: &str, request: &Value) -> String {
    let lists = ["EndpointIdentifiers", "EndpointConfigurations", "Tags", "TagKeys"];
    let items: Vec<_> = lists.into_iter().flat_map(|name| list(request, name)).map(named).collect();
    let token = request["NextToken"].as_str().map(|token| format!("from {token}"));
    let mut words = vec![operation.to_owned(), arn(request).to_owned(), items.join(", ")];
    words.extend(token);
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

fn named(item: &Value) -> String {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if item.is_string() {
        return shown(item);
    }
    if !item["Key"].is_null() {
        return format!("{}={}", shown(&item["Key"]), shown(&item["Value"]));
    }
    let fields = ["EndpointId", "Weight", "ClientIPPreservationEnabled"].map(|name| &item[name]);
    let given = fields.into_iter().filter(|field| !field.is_null());
    given.map(shown).collect::<Vec<_>>().join(" ")
}

fn error(code: &str, message: &str) -> Response<Full<Bytes>> {
    response(400, json!({ "__type": code, "Message": message }).to_string())
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("a real status");
    response
        .headers_mut()
        .insert(CONTENT_TYPE, "application/x-amz-json-1.1".parse().expect("a valid header"));
    response
}
