//! The keeper's HTTP endpoints.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the process runs, whatever the state of the lease |
//! | `/leader` | 200 while the lease is held, with the epoch, 503 otherwise |
//! | `/state` | the state of the claim, in JSON |
//! | `/metrics` | the metrics, for Prometheus |

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::claim::Candidate;
use super::held::Lease;
use super::metrics::Metrics;
use super::status::Status;

/// The header of `/leader` that holds the fencing token.
pub const EPOCH: &str = "lease-epoch";

const JSON: &str = "application/json";
const PROMETHEUS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The subject of the answers.
#[derive(Clone, Debug)]
pub struct Site {
    /// The lease's name.
    pub name: String,
    /// The candidate for it.
    pub me: Candidate,
    /// The candidate's side of it.
    pub lease: Lease,
    /// The metrics.
    pub metrics: Metrics,
}

/// Answers requests until the process ends.
pub async fn serve(listener: TcpListener, site: Site) -> Infallible {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The likely cause is too many open files, which passes; a busy loop would not help.
                warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let site = site.clone();
        tokio::spawn(async move {
            let answer = service_fn(async |request: Request<Incoming>| {
                Ok::<_, Infallible>(site.answer(request.method(), request.uri().path()))
            });
            let mut server = http1::Builder::new();
            let server = server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
                debug!(%error, "a connection broke");
            }
        });
    }
}

// === impl Site ===

impl Site {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let mut answer = Response::<Full<Bytes>>::default();
        if !matches!(*method, Method::GET | Method::HEAD) {
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let status = self.lease.status();
        let active = status.active();
        let (code, kind, body) = match path {
            "/healthz" => (StatusCode::OK, JSON, json!({ "running": true }).to_string()),
            "/leader" => {
                let code = if active.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                let epoch = active.map(|holding| holding.epoch);
                (code, JSON, json!({ "active": active.is_some(), "epoch": epoch }).to_string())
            }
            "/state" => (StatusCode::OK, JSON, self.state(&status).to_string()),
            "/metrics" => (StatusCode::OK, PROMETHEUS, self.metrics.text(&status)),
            _ => {
                let paths = json!({ "paths": ["/healthz", "/leader", "/state", "/metrics"] });
                (StatusCode::NOT_FOUND, JSON, paths.to_string())
            }
        };
        *answer.body_mut() = Full::from(body);
        *answer.status_mut() = code;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let ("/leader", Some(holding)) = (path, active) {
            headers.insert(EPOCH, HeaderValue::from(holding.epoch));
        }
        answer
    }

    fn state(&self, status: &Status) -> Value {
        let active = status.active();
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let record = status.record.as_ref().map(|record| {
            json!({
                "owner": record.owner,
                "updatedTime": record.updated_time,
                "writer": record.writer,
                "beat": record.beat,
                "epoch": record.epoch,
                "released": record.released,
            })
        });
        json!({
            "lease": self.name,
            "candidate": self.me.name,
            "writer": self.me.writer,
            "active": active.is_some(),
            "epoch": active.map(|holding| holding.epoch),
            "activeForSeconds": seconds(status.active_for()),
            "standing": status.stands(),
            "takesOverInSeconds": seconds(status.takes_over_in()),
            "leaving": status.leaving,
            "failing": status.failing,
            "record": record,
        })
    }
}
