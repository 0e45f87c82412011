//! A world whose time passes with the real time, faster by a factor, and whose checkers ask endpoints over HTTP.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use failover::remote::http::{Stream, send, tls_of_any_certificate};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::Shared;
use super::world::Asked;

/// How often the world advances, in real time.
const STEP: Duration = Duration::from_millis(5);
/// "Route 53 must be able to establish a TCP connection with the endpoint within four seconds."
const CONNECT: Duration = Duration::from_secs(4);
/// "The endpoint must respond with an HTTP status code of 2xx or 3xx within two seconds after connecting."
const RESPOND: Duration = Duration::from_secs(2);
/// The least real time for each step of a probe: in a fast world, this machine is as slow as before.
const PATIENCE: Duration = Duration::from_millis(500);

/// A driver. When it is dropped, the world's time stops.
pub struct Driver {
    driving: JoinHandle<()>,
    hosts: Hosts,
}

/// Where the hosts of URLs really are.
type Hosts = Arc<Mutex<HashMap<String, Place>>>;

#[derive(Clone, Copy)]
struct Place {
    address: SocketAddr,
    /// Whether TLS ends in front of it: no emulator has a certificate for each bucket.
    plain: bool,
}

#[derive(Clone)]
struct Prober {
    hosts: Hosts,
    tls: TlsConnector,
    connect: Duration,
    respond: Duration,
}

// === impl Driver ===

impl Driver {
    /// Lets `speed` seconds pass in the world for each real one.
    pub fn start(world: &Shared, speed: u32) -> Self {
        world.lock().ask_over_http();
        let hosts = Hosts::default();
        let prober = Prober {
            hosts: Arc::clone(&hosts),
            // "HTTPS health checks don't validate SSL/TLS certificates."
            tls: TlsConnector::from(Arc::new(tls_of_any_certificate())),
            connect: (CONNECT / speed).max(PATIENCE),
            respond: (RESPOND / speed).max(PATIENCE),
        };
        let driving = tokio::spawn(drive(world.clone(), speed, prober));
        Self { driving, hosts }
    }

    /// Lets the checkers connect to this address for a host, whatever port the URL names.
    pub fn locate(&self, host: &str, address: SocketAddr) {
        self.place(host, Place { address, plain: false });
    }

    /// The same, without TLS even where the URL says HTTPS: for an emulator.
    pub fn locate_without_tls(&self, host: &str, address: SocketAddr) {
        self.place(host, Place { address, plain: true });
    }

    fn place(&self, host: &str, place: Place) {
        self.hosts.lock().expect("no test panics while it holds the hosts").insert(host.to_owned(), place);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

async fn drive(world: Shared, speed: u32, prober: Prober) {
    let (began, from) = (Instant::now(), world.lock().now());
    // Dropped with this task, and every request that is under way with it.
    let mut requests = JoinSet::new();
    loop {
        let asked = {
            let mut world = world.lock();
            world.advance(from + began.elapsed() * speed);
            world.take_asked()
        };
        // One request serves all of the checkers that ask in the same moment.
        let mut moment: BTreeMap<String, Vec<Asked>> = BTreeMap::new();
        for one in asked {
            moment.entry(one.url.clone()).or_default().push(one);
        }
        for asked in moment.into_values() {
            let (world, prober) = (world.clone(), prober.clone());
            requests.spawn(async move {
                let passing = prober.probe(&asked[0]).await;
                let mut world = world.lock();
                for one in &asked {
                    world.answered(one, passing);
                }
            });
        }
        while requests.try_join_next().is_some() {}
        sleep(STEP).await;
    }
}

// === impl Prober ===

impl Prober {
    async fn probe(&self, asked: &Asked) -> bool {
        let status = self.request(asked).await;
        status.is_some_and(|status| status.is_success() || status.is_redirection())
    }

    /// The status of the endpoint's response; none if there is none in time.
    async fn request(&self, asked: &Asked) -> Option<StatusCode> {
        let uri: Uri = asked.url.parse().ok()?;
        let (host, https) = (uri.host()?.to_owned(), uri.scheme_str() == Some("https"));
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let located = self.hosts.lock().expect("no test panics while it holds the hosts").get(&host).copied();
        let connect = async {
            match (located, asked.address) {
                (Some(place), _) => TcpStream::connect(place.address).await,
                (None, Some(address)) => TcpStream::connect((address, port)).await,
                (None, None) => TcpStream::connect((host.as_str(), port)).await,
            }
        };
        let stream = timeout(self.connect, connect).await.ok()?.ok()?;
        let respond = async {
            if https && located.is_none_or(|place| !place.plain) {
                let name = ServerName::try_from(host.clone()).ok()?;
                let stream = self.tls.connect(name, stream).await.ok()?;
                get(Box::new(stream), &uri).await
            } else {
                get(Box::new(stream), &uri).await
            }
        };
        timeout(self.respond, respond).await.ok()?
    }
}

/// Asks for the URL's path, and follows no redirect.
async fn get(stream: Box<dyn Stream>, uri: &Uri) -> Option<StatusCode> {
    let request = Request::get(uri.path_and_query()?.as_str())
        .header(HOST, uri.authority()?.as_str())
        .header("user-agent", "Amazon-Route53-Health-Check-Service (ref miniature)")
        .body(Empty::<Bytes>::new());
    let (response, _connection) = send(stream, request.ok()?).await.ok()?;
    Some(response.status())
}
