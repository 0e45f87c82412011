//! A proxy between one process and its table that delays calls, loses them, cuts their connections,
//! or delivers them late. It speaks plain HTTP on both sides.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How long a test waits for an expected event.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What happens to calls from now on.
#[derive(Clone, Copy, Debug, Default)]
pub enum Fault {
    /// Nothing: they pass.
    #[default]
    None,
    /// The call reaches the table only after this long; its answer comes at once then.
    SlowCall(Duration),
    /// The table does it at once; the answer takes this long.
    SlowAnswer(Duration),
    /// Nothing of it arrives anywhere, and no answer comes; the connection stays open.
    Lost,
    /// The table does it; no answer comes.
    AnswerLost,
    /// The connection is cut before the table receives the call.
    CutBefore,
    /// The table does it; the connection is cut before the answer.
    CutAfter,
    /// The table does it only at `deliver`; no answer comes.
    Held,
    /// The API refuses the call, and the table does not receive it.
    Error { status: u16, code: &'static str, message: &'static str },
    /// Something on the way answers with success and this body, and the table does not receive the call.
    Answer(&'static str),
}

/// A running proxy. Dropping it closes its port and its connections; a call on its way still arrives.
pub struct Proxy {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

const UNRECOGNIZED: Fault = Fault::Error {
    status: 400,
    code: "UnrecognizedClientException",
    message: "The security token included in the request is invalid.",
};

type Answer = Response<Full<Bytes>>;

/// Why a connection ends without an answer.
type Cut = Box<dyn Error + Send + Sync>;

struct Shared {
    upstream: String,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    all: Fault,
    only: BTreeMap<String, Fault>,
    refused: Option<String>,
    answers: BTreeMap<String, Value>,
    calls: BTreeMap<String, usize>,
    held: Vec<Call>,
}

struct Call {
    request: Request<Full<Bytes>>,
    /// What is answered in the table's place.
    canned: Option<Value>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy before this table, such as `http://127.0.0.1:4566`.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").expect("the table is on plain HTTP");
        let upstream = upstream.trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let shared = Arc::new(Shared { upstream, state: watch::Sender::default() });
        let accepting = tokio::spawn(Arc::clone(&shared).serve(listener)).abort_handle();
        Self { url, shared, accepting }
    }

    /// Lets this happen to every new call, STS's too, until it is changed.
    pub fn all(&self, fault: Fault) {
        self.shared.state.send_modify(|state| state.all = fault);
    }

    /// Lets this happen to new calls of the operation, whatever happens to all; `None` removes it.
    pub fn only(&self, operation: &str, fault: Fault) {
        self.shared.state.send_modify(|state| {
            match fault {
                Fault::None => state.only.remove(operation),
                fault => state.only.insert(operation.to_owned(), fault),
            };
        });
    }

    /// Refuses new calls with credentials that have this text in the key's id or in the session's token, as AWS refuses
    /// credentials that it does not know any more.
    pub fn refuse(&self, credentials: &str) {
        self.shared.state.send_modify(|state| state.refused = Some(credentials.to_owned()));
    }

    /// Answers new calls of the operation with this in the table's place; faults happen to them too.
    pub fn answer(&self, operation: &str, body: Value) {
        self.shared.state.send_modify(|state| {
            state.answers.insert(operation.to_owned(), body);
        });
    }

    /// How many calls of the operation have arrived here, whatever their result.
    pub fn calls(&self, operation: &str) -> usize {
        self.shared.state.borrow().calls(operation)
    }

    /// Waits until so many calls of the operation have arrived here since the start.
    pub async fn arrived(&self, operation: &str, count: usize) {
        let mut state = self.shared.state.subscribe();
        let arrived = timeout(PATIENCE, state.wait_for(|state| state.calls(operation) >= count)).await;
        assert!(arrived.is_ok(), "no {count} calls of {operation} arrive");
    }

    /// Passes the calls held so far to the table in their order, and returns how many it has answered.
    pub async fn deliver(&self) -> usize {
        let mut held = Vec::new();
        self.shared.state.send_modify(|state| mem::swap(&mut held, &mut state.held));
        let count = held.len();
        let shared = Arc::clone(&self.shared);
        // A test that gives up waiting does not take them back either.
        let delivery = tokio::spawn(async move {
            for call in held {
                call.perform(&shared.upstream).await.expect("the table answers a held call");
            }
        });
        delivery.await.expect("every held call is delivered");
        count
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Shared ===

impl Shared {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        // They end with this task.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(&self);
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.handle(request).await }
            });
            connections
                .spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            while connections.try_join_next().is_some() {}
        }
    }

    /// hyper drops this when the client leaves, and after an error closes the connection without an answer.
    async fn handle(&self, request: Request<Incoming>) -> Result<Answer, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let operation = operation(&parts.headers, &body);
        let request = Request::from_parts(parts, Full::new(body));
        let Some((fault, call)) = self.admit(operation, request) else { return pending().await };
        match fault {
            Fault::None => self.pass(call, None).await?,
            Fault::SlowCall(delay) => self.pass(call, Some(delay)).await?,
            Fault::SlowAnswer(delay) => {
                let answer = self.pass(call, None).await?;
                sleep(delay).await;
                answer
            }
            Fault::Lost | Fault::Held => pending().await,
            Fault::AnswerLost => {
                self.pass(call, None);
                pending().await
            }
            Fault::CutBefore => Err("cut before the table heard of it".into()),
            Fault::CutAfter => {
                self.pass(call, None).await??;
                Err("cut before the answer".into())
            }
            Fault::Error { status, code, message } => {
                let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
                Ok(said(status, &json!({ "__type": kind, "message": message })))
            }
            Fault::Answer(body) => {
                let value = serde_json::from_str(body).expect("it is JSON");
                Ok(said(200, &value))
            }
        }
    }

    /// What happens to a call that has arrived, unless it is held.
    fn admit(&self, operation: String, request: Request<Full<Bytes>>) -> Option<(Fault, Call)> {
        let mut admitted = None;
        self.state.send_modify(|state| {
            let is_refused =
                state.refused.as_ref().is_some_and(|text| has_credentials(request.headers(), text));
            let fault = *state.only.get(&operation).unwrap_or(&state.all);
            let fault = if is_refused { UNRECOGNIZED } else { fault };
            let call = Call { request, canned: state.answers.get(&operation).cloned() };
            match fault {
                Fault::Held => state.held.push(call),
                fault => admitted = Some((fault, call)),
            }
            *state.calls.entry(operation).or_default() += 1;
        });
        admitted
    }

    /// Has the table do it, after this delay, in a task of its own: the client may leave meanwhile.
    fn pass(&self, call: Call, delay: Option<Duration>) -> JoinHandle<Result<Answer, Cut>> {
        let upstream = self.upstream.clone();
        tokio::spawn(async move {
            if let Some(delay) = delay {
                sleep(delay).await;
            }
            call.perform(&upstream).await
        })
    }
}

// === impl State ===

impl State {
    fn calls(&self, operation: &str) -> usize {
        self.calls.get(operation).copied().unwrap_or_default()
    }
}

// === impl Call ===

impl Call {
    /// The table's answer, by a connection of the call's own.
    async fn perform(self, upstream: &str) -> Result<Answer, Cut> {
        if let Some(body) = self.canned {
            return Ok(said(200, &body));
        }
        let stream = TcpStream::connect(upstream).await?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(self.request).await?.into_parts();
        let mut answer = Response::new(Full::new(body.collect().await?.to_bytes()));
        *answer.status_mut() = parts.status;
        *answer.headers_mut() = parts.headers;
        // The table's headers about its own connection do not apply to the client's.
        answer.headers_mut().remove(CONNECTION);
        answer.headers_mut().remove(TRANSFER_ENCODING);
        Ok(answer)
    }
}

fn has_credentials(headers: &HeaderMap, text: &str) -> bool {
    ["authorization", "x-amz-security-token"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .any(|value| value.contains(text))
}

/// DynamoDB's operations stand in a header, STS's in the body.
fn operation(headers: &HeaderMap, body: &[u8]) -> String {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    if let Some((_, operation)) = target.and_then(|target| target.rsplit_once('.')) {
        return operation.to_owned();
    }
    let body = String::from_utf8_lossy(body);
    body.split('&').find_map(|field| field.strip_prefix("Action=")).unwrap_or_default().to_owned()
}

fn said(status: u16, body: &Value) -> Answer {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/x-amz-json-1.0")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a fault names a real status")
}
