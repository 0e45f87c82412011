//! The primary site: a web server on loopback that is up or down, and answers one path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A site that answers one path with 200 while it is up and 503 while it is down, and every other
/// path with 404.
pub struct Primary {
    /// Where it listens.
    pub address: SocketAddr,
    up: Arc<AtomicBool>,
}

impl Primary {
    pub async fn start(healthy_path: &str) -> Self {
        let healthy_path: Arc<str> = healthy_path.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let up = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&up);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (up, healthy_path) = (Arc::clone(&state), Arc::clone(&healthy_path));
                let service = service_fn(move |request: Request<Incoming>| {
                    let asked = request.uri().path_and_query().map_or("", |path| path.as_str());
                    let status = match up.load(Ordering::Relaxed) {
                        _ if asked != &*healthy_path => StatusCode::NOT_FOUND,
                        true => StatusCode::OK,
                        false => StatusCode::SERVICE_UNAVAILABLE,
                    };
                    let mut response = Response::new(Full::<Bytes>::default());
                    *response.status_mut() = status;
                    async { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, up }
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }
}
