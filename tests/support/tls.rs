//! TLS for the stand-ins.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub struct Tls {
    pub acceptor: TlsAcceptor,
    /// The root that vouches for the certificate, as PEM.
    pub root: Arc<str>,
}

impl Tls {
    /// Listens at this address of loopback, in front of a stand-in that speaks plain HTTP, until the runtime ends. Returns its URL.
    pub async fn before(&self, url: &str, address: &str) -> String {
        let stand_in = url.strip_prefix("http://").expect("it speaks plain HTTP").to_owned();
        let listener = TcpListener::bind((address, 0)).await.expect("loopback has a free port");
        let url = format!("https://{}", listener.local_addr().expect("a bound socket has an address"));
        let acceptor = self.acceptor.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, acceptor.clone(), stand_in.clone()));
            }
        });
        url
    }
}

async fn relay(stream: TcpStream, acceptor: TlsAcceptor, to: String) -> std::io::Result<()> {
    let (mut caller, mut stand_in) = (acceptor.accept(stream).await?, TcpStream::connect(to).await?);
    caller.get_ref().0.set_nodelay(true)?;
    stand_in.set_nodelay(true)?;
    copy_bidirectional(&mut caller, &mut stand_in).await?;
    Ok(())
}
