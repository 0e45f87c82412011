//! The answers to requests, on either listener.
//!
//! | path | service | probes | answer |
//! |---|---|---|---|
//! | `/healthz` | yes | yes | 200 as long as the process runs and its claim is not blocked, whatever the state of the lease |
//! | `/ready` | yes | yes | 200 while this instance may receive traffic, 503 otherwise |
//! | `/metrics` | yes | yes | the metrics, for Prometheus |
//! | `/leader` | yes | | 200 while the lease is held, with the epoch, 503 otherwise |
//! | `/state` | yes | | the state of the claim, in JSON, or as a stream of events |

use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::claim::{Candidate, Will};
use super::clock::now;
use super::command::Running;
use super::events::{self, EVENTS, Events};
use super::held::Lease;
use super::metrics::Metrics;
use super::status::Status;

/// The header of `/leader` that holds the fencing token.
pub const EPOCH: &str = "lease-epoch";

/// A keeper that is not blocked shows so more often.
const SILENT: Duration = Duration::from_secs(1);
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
    /// The state of the command, if there is one.
    pub running: Option<watch::Receiver<Running>>,
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

    /// The state of the command. A keeper that is blocked does not say that the guard ends it, nor whether it has ended.
    pub(super) fn command(&self, status: &Status) -> Option<Running> {
        let running = *self.running.as_ref()?.borrow();
        if self.metrics.silent_for() < SILENT {
            return Some(running);
        }
        Some(match (running, status.holding) {
            (Running::No, _) => Running::No,
            // Until when it may run is not known any more.
            (_, None) => Running::Unknown,
            (_, Some(held)) if held.ends.may_have_come(now()) => Running::Unknown,
            (Running::Since(since), Some(held)) if held.until.may_have_come(now()) => Running::Ending(since),
            (running, Some(_)) => running,
        })
    }

    /// What changes without the claim: whether it is blocked, and what is therefore known of the command.
    pub(super) fn silence(&self) -> (bool, Option<Running>) {
        (self.metrics.blocked().is_some(), self.command(&self.lease.status()))
    }

    pub(super) fn state(&self, status: &Status) -> Value {
        let (active, blocked) = (status.active(), self.metrics.blocked());
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
            "standing": status.description(),
            "takesOverInSeconds": seconds(status.takes_over_in().filter(|_| blocked.is_none())),
            "leaving": status.will != Will::Take,
            "command": self.command(status).map(command),
            "unwilling": status.unwilling,
            "failing": blocked.or_else(|| status.failing.clone()),
            "record": record,
        })
    }
}

fn command(running: Running) -> Value {
    match running {
        Running::No => json!({ "running": false }),
        Running::Since(time) => json!({ "running": true, "since": time }),
        Running::Ending(time) => json!({ "running": true, "ending": true, "since": time }),
        Running::Leftovers(status) => json!({ "running": false, "ending": true, "status": status }),
        Running::Unknown => json!({ "running": null }),
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
