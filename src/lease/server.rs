//! The answers to requests, on either listener.
//!
//! | path | service | probes | answer |
//! |---|---|---|---|
//! | `/healthz` | yes | yes | 200 as long as the process runs and its claim is not blocked, whatever the state of the lease |
//! | `/ready` | yes | yes | 200 while this instance may receive traffic, 503 otherwise |
//! | `/metrics` | yes | yes | the metrics, for Prometheus |
//! | `/leader` | yes | | 200 while the lease is held, with the epoch, 503 otherwise |
//! | `/state` | yes | | the state of the claim, in JSON, or as a stream of events |

use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::events::{self, EVENTS, Events};
use super::site::Site;
use super::status::{Running, Status};

/// The header of `/leader` that holds the fencing token.
pub const EPOCH: &str = "lease-epoch";

const JSON: &str = "application/json";
const PROMETHEUS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The callers for whom a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// The service and its operators: every path.
    Service,
    /// Probes and scrapes from outside the pod: what they need, and nothing else.
    Probes,
}

/// What a caller can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Healthz,
    Leader,
    Metrics,
    Ready,
    State,
}

/// An answer: whole, or a stream of events.
pub(super) type Answer = Response<Either<Full<Bytes>, Events>>;

// === impl Callers ===

impl Callers {
    /// The name of their listener in the log and in the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Probes => "probes",
        }
    }

    fn endpoints(self) -> &'static [Endpoint] {
        match self {
            Self::Service => {
                &[Endpoint::Healthz, Endpoint::Leader, Endpoint::Metrics, Endpoint::Ready, Endpoint::State]
            }
            Self::Probes => &[Endpoint::Healthz, Endpoint::Metrics, Endpoint::Ready],
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn path(self) -> &'static str {
        match self {
            Self::Healthz => "/healthz",
            Self::Leader => "/leader",
            Self::Metrics => "/metrics",
            Self::Ready => "/ready",
            Self::State => "/state",
        }
    }
}

// === impl Site ===

impl Site {
    pub(super) fn answer<B>(&self, request: &Request<B>, callers: Callers) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = whole(
                StatusCode::METHOD_NOT_ALLOWED,
                JSON,
                json!({ "methods": ["GET", "HEAD"] }).to_string(),
            );
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let endpoints = callers.endpoints();
        let requested = endpoints.iter().find(|endpoint| endpoint.path() == request.uri().path());
        let status = self.lease.status();
        match requested {
            Some(Endpoint::Healthz) => {
                let blocked = self.metrics.blocked();
                let body = match &blocked {
                    Some(why) => json!({ "running": true, "blocked": why }),
                    None => json!({ "running": true }),
                };
                whole(available(blocked.is_none()), JSON, body.to_string())
            }
            Some(Endpoint::Leader) => Self::leader(&status),
            Some(Endpoint::Metrics) => {
                whole(StatusCode::OK, PROMETHEUS, self.metrics.text(&status, self.command(&status)))
            }
            Some(Endpoint::Ready) => self.ready(&status),
            Some(Endpoint::State) => {
                // An answer to HEAD has no body, and ends at once.
                if request.method() == Method::GET && events::are_wanted(request.headers()) {
                    return answer(StatusCode::OK, EVENTS, Either::Right(Events::of(self.clone())));
                }
                whole(StatusCode::OK, JSON, self.state(&status).to_string())
            }
            None => {
                let paths: Vec<_> = endpoints.iter().map(|endpoint| endpoint.path()).collect();
                whole(StatusCode::NOT_FOUND, JSON, json!({ "paths": paths }).to_string())
            }
        }
    }

    fn leader(status: &Status) -> Answer {
        let active = status.active();
        let epoch = active.map(|holding| holding.epoch);
        let body = json!({ "active": active.is_some(), "epoch": epoch });
        let mut answer = whole(available(active.is_some()), JSON, body.to_string());
        if let Some(epoch) = epoch {
            answer.headers_mut().insert(EPOCH, HeaderValue::from(epoch));
        }
        answer
    }

    /// Whether this instance may receive traffic: it is active, and its command runs, if it has one.
    fn ready(&self, status: &Status) -> Answer {
        let runs = self.command(status).is_none_or(|running| matches!(running, Running::Since(_)));
        let is_ready = status.active().is_some() && runs;
        whole(available(is_ready), JSON, json!({ "ready": is_ready }).to_string())
    }
}

fn available(is_available: bool) -> StatusCode {
    if is_available { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn whole(code: StatusCode, kind: &'static str, body: String) -> Answer {
    answer(code, kind, Either::Left(Full::from(body)))
}

fn answer(code: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Events>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
