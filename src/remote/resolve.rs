//! Host names to addresses, each on a thread of its own.
//!
//! Tokio's threads panic where the system has no room for another one, and with them the task that asks.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{Semaphore, oneshot};
use tower_service::Service;

/// How many names are looked up at once: a name server that does not answer may take minutes for each.
static LOOKUPS: Semaphore = Semaphore::const_new(32);

/// The system's resolver.
#[derive(Clone, Copy, Debug)]
pub struct Resolver;

/// The addresses of a host, or this address itself, with this port.
///
/// # Errors
/// The host is not found, or no thread can be started.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let place = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let (sender, receiver) = oneshot::channel();
    let host = host.to_owned();
    thread::Builder::new().spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(place);
        let _ = sender.send(found);
    })?;
    receiver.await.map_err(io::Error::other)?
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        // The connector sets the port.
        Box::pin(async move { Ok(addresses(name.as_str(), 0).await?.into_iter()) })
    }
}
