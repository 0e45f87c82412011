//! A Route 53 on loopback that speaks the wire protocol of health checks and their tags: REST with
//! XML bodies, versions that conflict, Route 53's own errors. It keeps state, enforces the API's
//! rules, remembers every call, and follows a fault script. CloudWatch's alarms are
//! on the same address, as with an emulator.
//!
//! STS's `GetCallerIdentity` is there as well.
//!
//! Serves `GetHealthCheck`, `GetHealthCheckStatus`, `ListHealthChecks`, `UpdateHealthCheck`,
//! `ListTagsForResource`, `ListTagsForResources` and `ChangeTagsForResource`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::cloudwatch::{self, Alarm};
use super::mute_rules::{MuteRule, MuteRules};
use super::rest_xml::{Failed, LocalName as _, escape, is_signed, response, said, wrapped};
use super::script::{Held, Script};
use super::tls::Tls;

/// A running stand-in; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Route53 {
    /// The address on which it listens.
    pub address: SocketAddr,
    tls: Option<Tls>,
    state: Arc<Mutex<State>>,
}

/// A health check as the stand-in keeps it.
#[derive(Clone, Debug)]
pub struct Check {
    pub version: i64,
    pub kind: &'static str,
    /// Every element of `HealthCheckConfig` but `Type`, by name.
    pub config: BTreeMap<&'static str, String>,
    pub tags: BTreeMap<String, String>,
    /// What its checkers report, a line each.
    pub reports: Vec<&'static str>,
}

/// What happens to a call instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, and nothing is done.
    Answer(u16, &'static str),
    /// One of Route 53's errors, and nothing is done.
    Error(u16, &'static str, &'static str),
    /// The connection is closed, and nothing is done.
    CloseBefore,
    /// It is done, and the connection is closed without an answer.
    CloseAfter,
    /// It is done, and this is the answer.
    AnswerAfter(u16, &'static str),
    /// No answer ever comes, and nothing is done.
    Hang,
    /// Another caller changes the check's path just before.
    Meddle(&'static str),
    /// It is done, and answered.
    Pass,
}

#[derive(Default)]
struct State {
    checks: BTreeMap<String, Check>,
    alarms: BTreeMap<String, Alarm>,
    mute_rules: MuteRules,
    verdicts: BTreeMap<String, f64>,
    calls: Vec<String>,
    script: Script<&'static str, Fault>,
    pace: VecDeque<Duration>,
    limit: Option<Limit>,
    connections: usize,
    /// By how many seconds its clock is ahead of this machine's.
    ahead: i64,
}

/// STS's answer.
const CALLER: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
    <GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/Operator/jane</Arn>\
    <UserId>AROAEXAMPLE:jane</UserId><Account>123456789012</Account></GetCallerIdentityResult>\
    <ResponseMetadata><RequestId>stand-in</RequestId></ResponseMetadata></GetCallerIdentityResponse>";

/// A token bucket, as an account has one for Route 53's API.
struct Limit {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

// === impl Check ===

impl Check {
    /// A check of this type that asks `127.0.0.1` at `port` for `/lb-check`.
    pub fn new(kind: &'static str, port: u16) -> Self {
        let config = [
            ("IPAddress", "127.0.0.1".to_owned()),
            ("Port", port.to_string()),
            ("ResourcePath", "/lb-check".to_owned()),
        ];
        Self { version: 1, kind, config: config.into(), tags: BTreeMap::new(), reports: Vec::new() }
    }

    pub fn with(mut self, element: &'static str, value: &str) -> Self {
        self.config.insert(element, value.to_owned());
        self
    }

    pub fn without(mut self, element: &'static str) -> Self {
        self.config.remove(element);
        self
    }

    /// It was locked and restored before.
    pub fn changed(mut self) -> Self {
        self.version = 3;
        self
    }

    /// Adds this tag.
    pub fn tagged(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Its checkers report so: the first `passing` of 16 find it healthy.
    pub fn reported(mut self, passing: usize) -> Self {
        self.reports =
            vec!["Failure: Connection timed out. The endpoint or the internet connection is down."; 16];
        self.reports[..passing].fill("Success: HTTP Status Code 200, OK");
        self
    }

    pub fn path(&self) -> &str {
        self.config.get("ResourcePath").map_or("", String::as_str)
    }

    fn has_path(&self) -> bool {
        self.kind.starts_with("HTTP")
    }

    fn set_path(&mut self, path: &str) {
        self.config.insert("ResourcePath", path.to_owned());
        self.version += 1;
    }

    fn tag_set(&self, id: &str) -> String {
        let mut tags = String::new();
        for (key, value) in &self.tags {
            let _ = write!(tags, "<Tag><Key>{}</Key><Value>{}</Value></Tag>", escape(key), escape(value));
        }
        format!(
            "<ResourceTagSet><ResourceType>healthcheck</ResourceType><ResourceId>{id}</ResourceId><Tags>{tags}</Tags></ResourceTagSet>"
        )
    }

    fn xml(&self, id: &str) -> String {
        let mut config = format!("<Type>{}</Type>", self.kind);
        for (name, value) in &self.config {
            let _ = write!(config, "<{name}>{}</{name}>", escape(value));
        }
        format!(
            "<HealthCheck><Id>{id}</Id><CallerReference>stand-in</CallerReference>\
             <HealthCheckConfig>{config}</HealthCheckConfig>\
             <HealthCheckVersion>{}</HealthCheckVersion></HealthCheck>",
            self.version
        )
    }
}

// === impl Route53 ===

impl Route53 {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same over TLS, as `localhost`.
    pub async fn start_over(tls: Tls) -> Self {
        Self::listen(Some(tls)).await
    }

    /// From here on the dates of its answers are so many seconds ahead of this machine's clock.
    pub fn set_ahead(&self, seconds: i64) {
        self.state().ahead = seconds;
    }

    async fn listen(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let route53 = Self { address, tls, state: Arc::default() };
        tokio::spawn(route53.clone().serve(listener));
        route53
    }

    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The root that vouches for it, as PEM.
    pub fn root(&self) -> &str {
        &self.tls.as_ref().expect("it was started with TLS").root
    }

    pub fn put(&self, id: &str, check: Check) {
        self.state().checks.insert(id.to_owned(), check);
    }

    /// Deletes a health check.
    pub fn delete(&self, id: &str) {
        self.state().checks.remove(id);
    }

    pub fn put_alarm(&self, name: &str, alarm: Alarm) {
        self.state().alarms.insert(name.to_owned(), alarm);
    }

    /// Route 53's own verdict about a check, as its metric shows it: 1 for healthy.
    pub fn put_mute_rule(&self, name: &str, rule: MuteRule) {
        self.state().mute_rules.0.insert(name.to_owned(), rule);
    }

    pub fn put_verdict(&self, id: &str, verdict: f64) {
        self.state().verdicts.insert(id.to_owned(), verdict);
    }

    /// An operator changes the tags by hand.
    pub fn tag(&self, id: &str, key: &str, value: Option<&str>) {
        let mut state = self.state();
        let tags = &mut state.checks.get_mut(id).expect("the check exists").tags;
        match value {
            Some(value) => tags.insert(key.to_owned(), value.to_owned()),
            None => tags.remove(key),
        };
    }

    /// An operator changes the path by hand.
    pub fn set_path(&self, id: &str, path: &str) {
        self.state().checks.get_mut(id).expect("the check exists").set_path(path);
    }

    pub fn check(&self, id: &str) -> Check {
        self.state().checks.get(id).expect("the check exists").clone()
    }

    /// The calls so far: operation, health check, and what an update or a tagging said.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Lets this happen to the next call of the operation that has no fault yet.
    pub fn fail(&self, operation: &'static str, fault: Fault) {
        self.state().script.fail(operation, fault);
    }

    /// Lets this happen to every call of the operation.
    pub fn fail_always(&self, operation: &'static str, fault: Fault) {
        self.state().script.fail_always(operation, fault);
    }

    /// Lets nothing more happen to the operation.
    pub fn fail_never(&self, operation: &'static str) {
        self.state().script.fail_never(operation);
    }

    /// Holds the next call of the operation back, before anything is done, until it is released.
    pub fn hold(&self, operation: &'static str) -> Held {
        self.state().script.hold(operation)
    }

    /// Holds up the next calls by so much each, so that calls made at once meet in another order.
    pub fn pace(&self, pace: impl IntoIterator<Item = Duration>) {
        self.state().pace = pace.into_iter().collect();
    }

    /// Allows so many calls a second and this burst, and throttles those beyond.
    pub fn limit(&self, per_second: f64, burst: f64) {
        self.state().limit = Some(Limit { per_second, burst, tokens: burst, filled: Instant::now() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            self.state().connections += 1;
            let route53 = self.clone();
            let service = service_fn(move |request| {
                let route53 = route53.clone();
                async move { route53.answer(request).await }
            });
            match self.tls.as_ref().map(|tls| tls.acceptor.clone()) {
                Some(tls) => tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    }
                }),
                None => tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                }),
            };
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::HEAD {
            // A connection that is opened before it is needed.
            return Ok(response(403, String::new()));
        }
        let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
        let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        if let ["service", "GraniteServiceVersion20100801", "operation", operation] = segments.as_slice() {
            return Ok(self.cloudwatch(operation, &body).await);
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let (operation, id) = match (&parts.method, segments.as_slice()) {
            (&Method::GET, ["2013-04-01", "healthcheck", id]) => ("GetHealthCheck", *id),
            (&Method::GET, ["2013-04-01", "healthcheck", id, "status"]) => ("GetHealthCheckStatus", *id),
            (&Method::POST, ["2013-04-01", "healthcheck", id]) => ("UpdateHealthCheck", *id),
            (&Method::GET, ["2013-04-01", "tags", "healthcheck", id]) => ("ListTagsForResource", *id),
            (&Method::POST, ["2013-04-01", "tags", "healthcheck", id]) => ("ChangeTagsForResource", *id),
            (&Method::POST, ["2013-04-01", "tags", "healthcheck"]) => ("ListTagsForResources", ""),
            (&Method::GET, ["2013-04-01", "healthcheck"]) => ("ListHealthChecks", ""),
            (&Method::POST, [""]) if body.contains("Action=GetCallerIdentity") => ("GetCallerIdentity", ""),
            _ => ("Unknown", ""),
        };
        let pace = self.state().pace.pop_front();
        if let Some(pace) = pace {
            sleep(pace).await;
        }
        let held = self.state().script.held(operation);
        if let Some(held) = held {
            held.pass().await;
        }
        let signed = is_signed(&parts, body.as_bytes());

        let fault = {
            let mut state = self.state();
            if state.limit.as_mut().is_some_and(|limit| !limit.admits()) {
                state.calls.push(format!("throttled {operation} {id}"));
                let message = "Rate exceeded".to_owned();
                return Ok(Failed { status: 400, code: "Throttling", message }.response());
            }
            let about = format!("{operation} {id}");
            let fault = state.script.fault(operation).or_else(|| state.script.fault(about.as_str()));
            if let Some(Fault::Meddle(path)) = &fault
                && let Some(check) = state.checks.get_mut(id)
            {
                check.set_path(path);
            }
            state.calls.push(format!("{operation} {id} {}", said(&body)).trim_end().to_owned());
            fault
        };
        match fault {
            Some(Fault::Answer(status, body)) => return Ok(response(status, body.to_owned())),
            Some(Fault::Error(status, code, message)) => {
                return Ok(Failed { status, code, message: message.to_owned() }.response());
            }
            Some(Fault::CloseBefore) => return Err("closed before it was done"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::CloseAfter | Fault::AnswerAfter(..) | Fault::Meddle(_) | Fault::Pass) | None => {}
        }
        let done = match operation {
            "GetCallerIdentity" => Ok(CALLER.to_owned()),
            _ if !signed => Err(Failed::unsigned()),
            "ListHealthChecks" => Ok(self.list(parts.uri.query().unwrap_or_default())),
            "ListTagsForResources" => self.all_tags(&body),
            _ => self.perform(operation, id, &body),
        };
        match fault {
            Some(Fault::CloseAfter) => Err("closed after it was done"),
            Some(Fault::AnswerAfter(status, body)) => Ok(response(status, body.to_owned())),
            _ => {
                let mut answer = done.map_or_else(|failed| failed.response(), |body| response(200, body));
                let now = chrono::Utc::now() + chrono::TimeDelta::seconds(self.state().ahead);
                let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
                answer.headers_mut().insert("date", date.parse().expect("a date is a header's value"));
                Ok(answer)
            }
        }
    }

    /// A call about a health check is known to the script as the operation, a space and the check's id, too.
    async fn cloudwatch(&self, operation: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let names = |id: &str| body.windows(id.len()).any(|part| part == id.as_bytes());
        let about = self.state().checks.keys().find(|id| names(id)).map(|id| format!("{operation} {id}"));
        let about = about.unwrap_or_default();
        let held = self.state().script.held(about.as_str());
        if let Some(held) = held {
            held.pass().await;
        }
        let ((status, answer, _), fault) = {
            let state = &mut *self.state();
            let answer =
                cloudwatch::answer(&state.alarms, &mut state.mute_rules, &state.verdicts, operation, body);
            state.calls.push(format!("{operation} {}", answer.2));
            let fault = state.script.fault(operation).or_else(|| state.script.fault(about.as_str()));
            (answer, fault)
        };
        let (status, answer) = match fault {
            Some(Fault::Error(status, code, message)) => (status, cloudwatch::error(code, message)),
            Some(Fault::Answer(status, body)) => return response(status, body.to_owned()),
            Some(Fault::Hang) => std::future::pending().await,
            None => (status, answer),
            Some(fault) => panic!("the stand-in cannot let {fault:?} happen to CloudWatch"),
        };
        let mut response = Response::new(Full::new(Bytes::from(answer)));
        *response.status_mut() = StatusCode::from_u16(status).expect("a fault script names real statuses");
        response.headers_mut().insert(CONTENT_TYPE, "application/cbor".parse().expect("a valid header"));
        response.headers_mut().insert("smithy-protocol", "rpc-v2-cbor".parse().expect("a valid header"));
        response
    }

    /// A page of at most 100 health checks.
    fn list(&self, query: &str) -> String {
        let state = self.state();
        let marker = query.split('&').find_map(|one| one.strip_prefix("marker="));
        let mut checks =
            state.checks.iter().skip_while(|(id, _)| marker.is_some_and(|from| id.as_str() < from));
        let page: String = checks.by_ref().take(100).map(|(id, check)| check.xml(id)).collect();
        let next = checks.next().map(|(id, _)| format!("<NextMarker>{id}</NextMarker>"));
        let rest = format!(
            "<Marker></Marker><IsTruncated>{}</IsTruncated>{}<MaxItems>100</MaxItems>",
            next.is_some(),
            next.unwrap_or_default()
        );
        wrapped("ListHealthChecksResponse", &format!("<HealthChecks>{page}</HealthChecks>{rest}"))
    }

    /// The tags of at most 10 health checks; those that do not exist are left out.
    fn all_tags(&self, body: &str) -> Result<String, Failed> {
        let document = roxmltree::Document::parse(body).map_err(|_| Failed::invalid("malformed XML"))?;
        let ids = document.descendants().filter(|node| node.has_tag_name_local("ResourceId"));
        let ids: Vec<_> = ids.filter_map(|node| node.text()).collect();
        if ids.is_empty() || ids.len() > 10 {
            return Err(Failed::invalid("1 to 10 resources"));
        }
        let state = self.state();
        let sets = ids.into_iter().filter_map(|id| Some(state.checks.get(id)?.tag_set(id)));
        let sets: String = sets.collect();
        Ok(wrapped("ListTagsForResourcesResponse", &format!("<ResourceTagSets>{sets}</ResourceTagSets>")))
    }

    fn perform(&self, operation: &str, id: &str, body: &str) -> Result<String, Failed> {
        let state = &mut *self.state();
        let check = state.checks.get_mut(id).ok_or_else(|| Failed {
            status: 404,
            code: "NoSuchHealthCheck",
            message: format!("A health check with id {id} does not exist."),
        })?;
        match operation {
            "GetHealthCheck" => Ok(wrapped("GetHealthCheckResponse", &check.xml(id))),
            // AWS has no status of a calculated check.
            "GetHealthCheckStatus" if check.kind == "CALCULATED" => {
                Err(Failed::invalid("a calculated health check has no status"))
            }
            "GetHealthCheckStatus" => {
                let mut seen = String::new();
                for status in &check.reports {
                    let report = format!(
                        "<Status>{status}</Status><CheckedTime>2026-11-21T02:36:15.490Z</CheckedTime>"
                    );
                    let observation = format!(
                        "<Region>us-east-1</Region><IPAddress>15.177.2.1</IPAddress><StatusReport>{report}</StatusReport>"
                    );
                    let _ = write!(seen, "<HealthCheckObservation>{observation}</HealthCheckObservation>");
                }
                let seen = format!("<HealthCheckObservations>{seen}</HealthCheckObservations>");
                Ok(wrapped("GetHealthCheckStatusResponse", &seen))
            }
            "UpdateHealthCheck" => {
                update(check, body)?;
                Ok(wrapped("UpdateHealthCheckResponse", &check.xml(id)))
            }
            "ListTagsForResource" => Ok(wrapped("ListTagsForResourceResponse", &check.tag_set(id))),
            "ChangeTagsForResource" => {
                tag(check, body)?;
                Ok(wrapped("ChangeTagsForResourceResponse", ""))
            }
            _ => Err(Failed::invalid("the stand-in does not serve this")),
        }
    }
}

fn update(check: &mut Check, body: &str) -> Result<(), Failed> {
    let document = roxmltree::Document::parse(body).map_err(|_| Failed::invalid("malformed XML"))?;
    let mut path = None;
    for element in document.root_element().children().filter(roxmltree::Node::is_element) {
        let text = element.text().unwrap_or_default();
        match element.tag_name().name() {
            "HealthCheckVersion" if text.parse() == Ok(check.version) => {}
            "HealthCheckVersion" => {
                return Err(Failed {
                    status: 409,
                    code: "HealthCheckVersionMismatch",
                    message: format!("The health check is at version {}, not {text}.", check.version),
                });
            }
            "ResourcePath" if !check.has_path() => {
                return Err(Failed::invalid("this type has no ResourcePath"));
            }
            "ResourcePath" if text.len() > 255 => return Err(Failed::invalid("ResourcePath is too long")),
            "ResourcePath" => path = Some(text.to_owned()),
            // Nothing here has any business with the rest of a health check.
            other => return Err(Failed::invalid(&format!("the update also changes {other}"))),
        }
    }
    check.set_path(&path.ok_or_else(|| Failed::invalid("the update changes nothing"))?);
    Ok(())
}

fn tag(check: &mut Check, body: &str) -> Result<(), Failed> {
    let document = roxmltree::Document::parse(body).map_err(|_| Failed::invalid("malformed XML"))?;
    let tags: Vec<_> = document.descendants().filter(|node| node.has_tag_name_local("Tag")).collect();
    let mut changed = check.tags.clone();
    let removed = document.descendants().filter(|node| node.has_tag_name_local("RemoveTagKeys"));
    for key in removed.flat_map(|node| node.children()).filter_map(|node| node.text()) {
        changed.remove(key);
    }
    for node in tags {
        let text = |name| {
            let child = node.children().find(|child| child.has_tag_name_local(name));
            child.and_then(|child| child.text()).unwrap_or_default().to_owned()
        };
        let (key, value) = (text("Key"), text("Value"));
        let fits = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c));
        if !fits(&key) || !fits(&value) || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(Failed::invalid("a tag's key or value is not allowed"));
        }
        changed.insert(key, value);
    }
    if changed.len() > 10 {
        return Err(Failed::invalid("a health check has 10 tags at most"));
    }
    check.tags = changed;
    Ok(())
}

// === impl Limit ===

impl Limit {
    fn admits(&mut self) -> bool {
        let since = self.filled.elapsed().as_secs_f64();
        self.filled = Instant::now();
        self.tokens = (self.tokens + since * self.per_second).min(self.burst);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}
