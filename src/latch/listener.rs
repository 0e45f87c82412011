//! The answers of a watcher that is a process: `/healthz`, and `/metrics` for Prometheus.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::outcome::Outcome;
use super::watch::{Memory, Totals};
use crate::program::{VERSION, lines};

/// How long a connection lasts.
const CONNECTION: Duration = Duration::from_secs(5);
/// How many connections there are at a time; others wait in the kernel.
const CONNECTIONS: usize = 64;
/// The longest head of a request: the least that hyper accepts.
const HEAD: usize = 8 * 1024;
const PROMETHEUS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers requests until the process ends.
///
/// # Panics
/// Never: the places are not closed.
pub async fn serve(listener: TcpListener, memory: Memory, look_every: Duration) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let memory = memory.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &memory, look_every);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            let connection =
                http.keep_alive(false).max_buf_size(HEAD).serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION, connection).await;
            drop(place);
        });
    }
}

fn answer<B>(request: &Request<B>, memory: &Memory, look_every: Duration) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer =
            whole(StatusCode::METHOD_NOT_ALLOWED, JSON, json!({ "methods": ["GET", "HEAD"] }).to_string());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/healthz" => {
            let unhealthy = memory.unhealthy(look_every);
            let status = if unhealthy.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let latches = memory.outcomes().into_iter().map(|(latch, _)| (latch.latch, json!(latch.state)));
            let latches: serde_json::Map<_, _> = latches.collect();
            whole(status, JSON, json!({ "unhealthy": unhealthy, "latches": latches }).to_string())
        }
        "/metrics" => whole(StatusCode::OK, PROMETHEUS, metrics(memory)),
        _ => whole(StatusCode::NOT_FOUND, JSON, json!({ "paths": ["/healthz", "/metrics"] }).to_string()),
    }
}

/// The metrics of the last look, by the names of namespace `FailoverLatch` as Prometheus writes them; `Locked`,
/// `Opened` and `Missed` count all looks.
fn metrics(memory: &Memory) -> String {
    let mut registry = Registry::with_prefix("failover_latch");
    let outcomes = memory.outcomes();
    let label = |outcome: &Outcome| [("latch", outcome.latch.clone())];
    let all: Vec<_> = outcomes.iter().map(|(outcome, _)| outcome.metrics()).collect();
    // Of one latch a metric may be known, and of another one not.
    let names: BTreeSet<_> = all.iter().flatten().map(|metric| metric.name).collect();
    for name in names {
        let total = match name {
            "Locked" => Some((|totals: &Totals| totals.locked) as fn(&Totals) -> u64),
            "Opened" => Some((|totals: &Totals| totals.opened) as fn(&Totals) -> u64),
            "Missed" => Some((|totals: &Totals| totals.missed) as fn(&Totals) -> u64),
            _ => None,
        };
        if let Some(total) = total {
            let family = Family::<[(&str, String); 1], Counter>::default();
            for (outcome, totals) in &outcomes {
                family.get_or_create(&label(outcome)).inc_by(total(totals));
            }
            registry.register(snake(name), format!("{name}, of all looks"), family);
            continue;
        }
        let family = Family::<[(&str, String); 1], Gauge<f64, AtomicU64>>::default();
        for ((outcome, _), metrics) in outcomes.iter().zip(&all) {
            if let Some(metric) = metrics.iter().find(|metric| metric.name == name) {
                family.get_or_create(&label(outcome)).set(metric.value.as_f64().unwrap_or_default());
            }
        }
        registry.register(snake(name), format!("{name} of the last look"), family);
    }
    // A counter that a restart sets back to the same number shows nothing new.
    let last = |totals: &Totals, missed| if missed { totals.last_missed } else { totals.last_opened };
    for (name, what, missed) in [
        ("last_missed", "a lock that was due was last not set", true),
        ("last_opened", "its object was last seen to be gone, and no hold", false),
    ] {
        let family = Family::<[(&str, String); 1], Gauge<f64, AtomicU64>>::default();
        for (outcome, totals) in &outcomes {
            let at = last(totals, missed).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            family.get_or_create(&label(outcome)).set(at.unwrap_or_default().as_secs_f64());
        }
        let help = format!("When {what}, in seconds since 1970, or 0");
        registry.register(format!("{name}_timestamp_seconds"), help, family);
    }
    let dropped = Counter::<u64>::default();
    dropped.inc_by(lines::dropped());
    registry.register("log_lines_dropped", "Log lines that were dropped because nothing read them", dropped);
    registry.register("build", "The version that runs", Info::new([("version", VERSION)].to_vec()));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes everything");
    text
}

/// A metric's name in Prometheus' spelling, with the unit of the one that has one.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    if snake == "look_gap" { "look_gap_seconds".to_owned() } else { snake }
}

fn whole(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
