//! Lambda's Runtime API on loopback, around the real binary.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::program::program;

/// A function in its execution environment; dropped, its process ends.
pub struct Function {
    child: Child,
    runtime: Runtime,
    lines: JoinHandle<Vec<String>>,
}

/// The Runtime API of one execution environment; it ends with the runtime that it was started on.
pub struct Runtime {
    address: SocketAddr,
    events: mpsc::UnboundedSender<Invocation>,
    asked: Arc<Notify>,
}

/// The function's answer: its response, or its error.
pub type Answer = Result<Value, Value>;

struct Invocation {
    event: Bytes,
    deadline: SystemTime,
    answer: oneshot::Sender<Answer>,
}

struct RuntimeApi {
    asked: Arc<Notify>,
    events: AsyncMutex<mpsc::UnboundedReceiver<Invocation>>,
    pending: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

// === impl Function ===

impl Function {
    /// Starts the binary with this handler and these variables, and no others.
    pub async fn start(handler: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_program("failover-lock", handler, variables).await
    }

    /// The same of another program.
    pub async fn start_program(name: &str, handler: &str, variables: &[(&str, &str)]) -> Self {
        let runtime = Runtime::start().await;
        let mut child = Command::new(program(name))
            .env_clear()
            .envs(runtime.variables())
            // Even if a test omits an endpoint, no request leaves this machine.
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            .env("_HANDLER", handler)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let lines = tokio::spawn(async move {
            let mut lines = Vec::new();
            while let Ok(Some(line)) = output.next_line().await {
                lines.push(line);
            }
            lines
        });
        Self { child, runtime, lines }
    }

    /// Invokes the function as Lambda does, with this long until its timeout.
    pub async fn invoke(&self, event: impl Into<Bytes>, timeout: Duration) -> Answer {
        self.runtime.invoke(event, timeout).await
    }

    /// Waits until it asks for its next event.
    pub async fn asked(&self) {
        self.runtime.asked().await;
    }

    /// Waits until the process ends by itself; its status and what it wrote to standard output.
    pub async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().await.expect("the process can be waited for");
        (status, self.lines.await.expect("its output can be read"))
    }

    /// Ends the process; what it wrote to standard output.
    pub async fn stop(mut self) -> Vec<String> {
        self.child.kill().await.expect("the process can be ended");
        self.lines.await.expect("its output can be read")
    }
}

// === impl Runtime ===

impl Runtime {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (events, queue) = mpsc::unbounded_channel();
        let asked = Arc::new(Notify::new());
        let api = RuntimeApi {
            asked: Arc::clone(&asked),
            events: AsyncMutex::new(queue),
            pending: Mutex::default(),
        };
        let api = Arc::new(api);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let api = Arc::clone(&api);
                let service = service_fn(move |request| Arc::clone(&api).serve(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, events, asked }
    }

    /// The variables that Lambda sets in a function's environment.
    pub fn variables(&self) -> [(&'static str, String); 7] {
        [
            ("AWS_LAMBDA_RUNTIME_API", self.address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", "failover-lock".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }

    /// Waits until the function asks for its next event.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Hands the function an event, with this long until its timeout.
    pub async fn invoke(&self, event: impl Into<Bytes>, timeout: Duration) -> Answer {
        let (answer, answered) = oneshot::channel();
        let deadline = SystemTime::now() + timeout;
        self.events.send(Invocation { event: event.into(), deadline, answer }).expect("the Runtime API runs");
        answered.await.expect("the function answers")
    }
}

// === impl RuntimeApi ===

impl RuntimeApi {
    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let answer = || serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(match (&parts.method, segments.as_slice()) {
            (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => self.next().await,
            (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "response"]) => {
                self.answered(id, Ok(answer()))
            }
            (&Method::POST, ["2018-06-01", "runtime", "invocation", id, "error"]) => {
                self.answered(id, Err(answer()))
            }
            _ => status(StatusCode::NOT_FOUND),
        })
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        self.asked.notify_one();
        let Some(invocation) = self.events.lock().await.recv().await else {
            return status(StatusCode::GONE);
        };
        let deadline = invocation.deadline.duration_since(SystemTime::UNIX_EPOCH).expect("it is past 1970");
        let mut pending = self.pending.lock().expect("no test panics while it holds the state");
        let id = format!("8476a536-e9f4-11e8-9739-{:012}", pending.len());
        pending.insert(id.clone(), invocation.answer);
        Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
            .header("lambda-runtime-aws-request-id", id)
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:eu-west-1:123456789012:function:failover-lock",
            )
            .body(Full::new(invocation.event))
            .expect("valid headers")
    }

    fn answered(&self, id: &str, answer: Answer) -> Response<Full<Bytes>> {
        let mut pending = self.pending.lock().expect("no test panics while it holds the state");
        match pending.remove(id) {
            // A test that has stopped waiting ignores it.
            Some(invocation) => drop(invocation.send(answer)),
            None => return status(StatusCode::BAD_REQUEST),
        }
        status(StatusCode::ACCEPTED)
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
