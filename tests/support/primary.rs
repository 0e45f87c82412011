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

/// A site that answers `/lb-check` with 200 while it is up and 503 while it is down, and every
/// other path with 404.
pub struct Primary {
    /// Where it listens.
    pub address: SocketAddr,
    up: Arc<AtomicBool>,
}

impl Primary {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let up = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&up);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let up = Arc::clone(&state);
                let service = service_fn(move |request: Request<Incoming>| {
                    let status = match (request.uri().path(), up.load(Ordering::Relaxed)) {
                        ("/lb-check", true) => StatusCode::OK,
                        ("/lb-check", false) => StatusCode::SERVICE_UNAVAILABLE,
                        _ => StatusCode::NOT_FOUND,
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
